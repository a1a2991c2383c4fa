"""Texts that are nearly right find their images by one rule that is told, or not at all."""

from __future__ import annotations

import unicodedata
import zipfile

import pytest
from smalltables import images, labels, noted, refusal, text

from signsclf import images as pixels
from signsclf.data.table import read_source
from signsclf.errors import BadImageError

NAMES = [f"Images/{i}.png" for i in range(4)]


def table(root, names, name="t.csv", classes="ab"):
    rows = [f"{text},{classes[i % len(classes)]}" for i, text in enumerate(names)]
    return text(root / name, "path,label\n" + "\n".join(rows) + "\n")


@pytest.fixture(params=["table", "folder", "zip"])
def given(request, tmp_path):
    """Makes a source of texts for images: the table itself, the folder that it lies in, or an archive of that."""

    def make(names, there=NAMES):
        root = images(tmp_path / "data", *there)
        path = table(root, names)
        if request.param == "zip":
            path = tmp_path / "data.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted(root.rglob("*.*")):
                    archive.write(file, file.relative_to(root).as_posix())
        return root if request.param == "folder" else path

    return make


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (str.lower, "'images/0.png' is 'Images/0.png'"),
        (lambda name: name.replace(".png", ".PNG"), "capitals and small letters"),
        (lambda name: name.removesuffix(".png"), "whatever their suffix"),
        (lambda name: name.replace(".png", ".jpg"), "whatever their suffix"),
        (lambda name: name.removesuffix(".png").lower(), "'Images/' for 'images/', whatever their suffix"),
        (lambda name: name.removeprefix("Images/"), "in 'Images/'"),
        (lambda name: name.removeprefix("Images/").removesuffix(".png"), "in 'Images/', whatever their suffix"),
        (lambda name: f"signs/{name}", "with 'signs/' left out"),
        (lambda name: name.replace("Images", "pictures/all"), "with 'Images/' for 'pictures/all/'"),
        (lambda name: "C:\\data\\signs\\" + name.replace("/", "\\"), "with 'C:/data/signs/' left out"),
        (lambda name: "/home/someone/signs/" + name, "with '/home/someone/signs/' left out"),
        (lambda name: "file:///home/some%20one/" + name, "left out"),
        (lambda name: "file:///C:/some%20one/" + name, "with 'C:/some one/' left out"),
    ],
)
def test_one_rule_for_all(given, change, says):
    source = read_source(given([change(name) for name in NAMES]))
    assert labels(source) == dict(zip(NAMES, "abab", strict=True))
    assert says in noted(source, "the images are found")
    assert not source.missing
    assert all(pixels.load(path, (4, 4)).shape for path in source.table["path"])


def test_names_alone_in_several_folders(given):
    there = ["cat/1.png", "dog/2.png", "dog/deep/3.png"]
    source = read_source(given(["1.png", "2.png", "3.png"], there))
    assert set(labels(source)) == set(there)
    assert "by their names alone" in noted(source, "found")


def test_the_same_names_in_folders_called_as_the_labels(given):
    there = ["a/1.png", "b/1.png", "a/2.png", "b/2.png"]
    names = ["1.png", "2.png"]
    root = given(names, there)
    source = read_source(root)
    assert labels(source) == {"a/1.png": "a", "b/2.png": "b"}
    assert "in the folders of their labels" in noted(source, "found")


def test_a_name_that_is_there_twice_is_none(given):
    said = refusal(given(["1.png", "2.png"], ["x/1.png", "y/1.png", "x/2.png", "y/2.png"]))
    assert "none of its 2 images is there: line 2 '1.png', line 3 '2.png'" in said
    assert "2 of these would be found in 'x/', or in 'y/': '1.png' would be 'x/1.png'" in said
    said = refusal(given(["3.png", "4.png"], ["x/3.png", "y/3.png", "x/4.png", "z/4.png", "z/3.png"]))
    assert "would be found in 'x/', or in 'z/'" in said


def test_a_rule_for_some_is_said(given):
    source_names = ["signs/0.png", "signs/1.png", "signs/gone.png"]
    said = refusal(given(source_names, ["0.png", "1.png"]))
    assert "none of its 3 images is there: line 2 'signs/0.png'" in said
    assert "2 of these would be found with 'signs/' left out: 'signs/0.png' would be '0.png'" in said


def test_images_of_the_same_name_elsewhere_do_not_stand_for_lost_ones(given):
    there = ["Images/0.png", "Images/1.png", "thumbs/2.png", "thumbs/0.png"]
    source = read_source(given(["Images/0.png", "Images/1.png", "Images/2.png"], there))
    assert "line 4 'Images/2.png'" in source.missing
    assert "'Images/2.png' would be 'thumbs/2.png'" in source.missing
    with pytest.raises(BadImageError):
        pixels.read(source.table["path"][2])


def test_a_rule_in_the_same_folder_holds_for_some_too(given):
    source = read_source(given(["Images/0.png", "Images/1.PNG", "Images/2"]))
    assert set(labels(source)) == {"Images/0.png", "Images/1.png", "Images/2.png"}
    assert "2 images are found" in noted(source, "found")


def test_two_texts_never_become_one_image(given):
    source = read_source(given(["Images/0.png", "Images/0.jpg"]))
    assert "line 3 'Images/0.jpg'" in source.missing


def test_other_forms_of_unicode(given):
    names = [f"Schild grün {i}.png" for i in range(2)]
    there = [unicodedata.normalize("NFD", name) for name in names]
    assert set(labels(read_source(given(names, there)))) == set(names)


def test_addresses_are_not_fetched(given, request):
    said = refusal(given(["https://a.example/0.png", "0.png"], ["0.png"]))
    assert "1 of 2 images are at web addresses, first line 2 'https://a.example/0.png'" in said
    assert "download them" in said
    assert "not fetched" in refusal(given(['"data:image/png;base64,AAAA"', "0.png"], ["0.png"]))
    if "zip" in request.node.name:  # an archive names its members alone
        assert "not fetched" in refusal(given(["s3://bucket/0.png"], ["0.png"]))
    else:
        assert read_source(given(["s3://bucket/0.png"], ["0.png"])).table["path"].tolist() == ["s3://bucket/0.png"]


def test_images_that_are_not_there_stay_as_rows(given):
    source = read_source(given(["Images/0.png", "Images/gone.png", "Images/1.png"]))
    assert source.missing.startswith("1 of 3 images that ")
    assert "line 3 'Images/gone.png'" in source.missing
    assert "--skip-bad" in noted(source, "not there")
    assert source.relative(source.table["path"][1]) == "Images/gone.png"


def test_hidden_characters_and_nul(given):
    source = read_source(given([" Images/0.png", "\u200bImages/1.png\u00a0", "Images/\0.png"][:2]))
    assert set(labels(source)) == {"Images/0.png", "Images/1.png"}
