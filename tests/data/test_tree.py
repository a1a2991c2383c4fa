from __future__ import annotations

import io
import os
import shutil
import sys
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from signsclf.data.table import Source, read_source
from signsclf.data.tree import Tree, list_archive, list_folder
from signsclf.errors import SourceError
from signsclf.imagefiles import kinds as imagekinds

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


@pytest.fixture(autouse=True)
def _no_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    imagekinds._image_class.cache_clear()
    yield
    imagekinds._image_class.cache_clear()


def image(seed: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(file, kind)
    return file.getvalue()


class Place:
    """Files in a folder, or in an archive."""

    def __init__(self, root: Path, packed: bool) -> None:
        self.root, self.packed = root / "photos", packed

    def __call__(self, files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if not self.packed:
            return self.root
        archive = self.root.with_suffix(".zip")
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(self.root.rglob("*")):
                file.write(path, path.relative_to(self.root))
        shutil.rmtree(self.root)
        return archive


@pytest.fixture(params=[False, True], ids=["folder", "zip"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, request.param)


def listed(root: Path) -> Tree:
    return list_archive(root) if root.suffix == ".zip" else list_folder(root)


def counts(source: Source) -> dict[str, int]:
    return Counter(source.table["label"])


# Names and kinds


def test_an_image_is_read_whatever_its_name(place: Place) -> None:
    names = ["a.jfif", "b.jpe", "c.PJPEG", "d.pjp", "e.JPG", "f.jpg_large", "g", "h.heic", "i.jpg~", "j.bak", "k.txt"]
    root = place({f"cat/{name}": image(i, "JPEG") for i, name in enumerate(names)} | {"dog/a.png": image(99)})
    source = read_source(root)
    read = {source.relative(path) for path in source.table["path"]}
    # Copies that editors and downloads leave are no second image, and texts are not looked into.
    assert read == {f"cat/{name}" for name in names[:8]} | {"dog/a.png"}
    assert not source.notes


@pytest.mark.parametrize(
    ("kind", "suffixes"),
    [
        ("PNG", ".png .apng"),
        ("JPEG", ".jpg .jpeg .jpe .jfif .jif .pjpeg .pjp"),
        ("BMP", ".bmp .dib"),
        ("PPM", ".ppm .pnm"),
        ("TIFF", ".tif .tiff"),
        ("GIF", ".gif"),
        ("WEBP", ".webp"),
        ("JPEG2000", ".jp2 .j2k .jpf .jpx .jpg2"),
    ],
)
def test_every_suffix_of_a_kind_is_an_image(place: Place, kind: str, suffixes: str) -> None:
    files = {f"cat/{i}{suffix}": image(i, kind) for i, suffix in enumerate(suffixes.split())}
    assert listed(place(files)).image_names == sorted(files)


def test_what_is_not_read_is_counted_by_suffix_and_named(place: Place) -> None:
    skipped = {f"cat/IMG_{i}.HEIC": HEIC for i in range(6)} | {"dog/raw.nef": b"MM\0*", "dog/x.svg": b"<svg/>"}
    root = place(skipped | {"cat/a.jpg": image(0, "JPEG"), "dog/a.jpg": image(1, "JPEG"), "dog/notes.txt": b"x"})
    (note,) = read_source(root).notes
    heic = "6 .heic (no decoder: pip install pillow-heif, or convert to JPEG or PNG)"
    assert note.startswith(f"skipped 8 files: {heic}, 1 ")
    assert "1 .nef (not read: convert to JPEG or PNG)" in note
    assert "1 .svg (" in note
    assert "txt" not in note


def test_a_class_of_unread_photos_alone_is_an_error(place: Place) -> None:
    root = place(
        {f"{name}/{i}.jpg": image(i, "JPEG") for name in ("daisy", "rose") for i in range(2)}
        | {f"orchid/{i}.heic": HEIC for i in range(6)}
    )
    with pytest.raises(SourceError, match=r"'orchid': 6 \.heic \(no decoder: pip install pillow-heif, or convert"):
        read_source(root)


def test_so_it_is_within_a_split(place: Place) -> None:
    root = place(
        {f"{split}/{name}/{i}.png": image(i) for split in ("train", "test") for name in "ab" for i in range(2)}
        | {f"{split}/lost/{i}.JXL": b"\xff\x0a" for split in ("train", "test") for i in range(3)}
    )
    with pytest.raises(SourceError, match=r"a class would be lost.*'lost': 6 \.jxl"):
        read_source(root)


def test_drawings_beside_the_classes_are_no_class(place: Place) -> None:
    root = place({"a/1.png": image(1), "b/1.png": image(2), "icons/x.svg": b"<svg/>"})
    source = read_source(root)
    assert source.classes == ("a", "b")
    assert "1 .svg" in source.notes[0]


def test_a_source_of_unread_photos_alone_says_so(place: Place) -> None:
    with pytest.raises(SourceError, match=r"no images that can be read in this .*: 3 \.heic \(no decoder"):
        read_source(place({f"a/{i}.heic": HEIC for i in range(3)}))


# Unicode forms

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def twins(place: Place) -> Path:
    root = place(
        {f"{COMPOSED}/{i}.png": image(i) for i in range(6)}
        | {f"{DECOMPOSED}/{i}.png": image(10 + i) for i in range(3, 9)}
        | {f"tea/{i}.png": image(20 + i) for i in range(6)}
    )
    if not place.packed and len(list(root.iterdir())) < 3:
        pytest.skip("this file system takes both forms for one name")
    return root


def test_no_image_is_lost_to_another_form_of_its_name(place: Place) -> None:
    source = read_source(twins(place))
    assert counts(source) == {"café": 12, "tea": 6}
    names = [source.relative(path) for path in source.table["path"]]
    assert len(set(source.table["path"])) == len(set(names)) == 18
    assert "café/3 (2).png" in names
    (note,) = source.notes
    assert note.startswith("names that differ in their Unicode form alone (3): 'café/3 (2).png'")


def test_numbered_names_of_twins_are_no_other_file(place: Place) -> None:
    root = place({f"{COMPOSED}/3 (2).png": image(50)})
    if place.packed:
        with zipfile.ZipFile(root, "a") as archive:
            archive.writestr(f"{COMPOSED}/3.png", image(51))
            archive.writestr(f"{DECOMPOSED}/3.png", image(52))
    else:
        twins(place)
    names = [name for name in listed(root).files if name.startswith("café/3")]
    assert sorted(names) == ["café/3 (2).png", "café/3 (3).png", "café/3.png"]


def test_ways_to_write_one_name_in_an_archive_lose_none(tmp_path: Path) -> None:
    root = tmp_path / "a.zip"
    with zipfile.ZipFile(root, "w") as archive:
        for i, name in enumerate(["a/1.png", "./a/1.png", "a//1.png", "b/1.png"]):
            archive.writestr(name, image(i))
    assert counts(read_source(root)) == {"a": 3, "b": 1}


# Hidden


def test_hidden_images_are_named_with_their_number(place: Place) -> None:
    files = {f"{name}/{i}.png": image(i) for name in (".308", ".22LR", "9mm", "45ACP") for i in range(3)}
    files |= {".net/deep/er/1.png": image(9), "9mm/.x.png": image(8), ".empty/notes.txt": b""}
    for name in (".ipynb_checkpoints", ".git", ".cache", "__MACOSX", "@eaDir", ".Trash-1000"):
        files |= {f"{name}/a.png": image(1), f"9mm/{name}/a.png": image(1)}
    for name in ("$RECYCLE.BIN/S-1", "System Volume Information", "lost+found", "#recycle", "@Recycle"):
        files |= {f"{name}/a.png": image(1)}
    files |= {"9mm/._0.png": b"\0\5\x16\7"}
    source = read_source(place(files))
    assert counts(source) == {"9mm": 3, "45ACP": 3}
    (note,) = source.notes
    hidden = "'.22LR' (3), '.308' (3), '.net' (1), '9mm/.*' (1)"
    assert note.startswith(f"images in hidden folders or files are left out: {hidden}; to include them, rename")


def test_a_source_of_hidden_classes_alone_is_not_called_empty(place: Place) -> None:
    root = place({f"{name}/{i}.png": image(i) for name in (".308", ".22LR") for i in range(2)})
    with pytest.raises(SourceError, match=r"hidden images alone in this .*: '\.22LR' \(2\), '\.308' \(2\); to include"):
        read_source(root)


# Archives


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_that_images_are_not_read_from_are_refused_at_once(tmp_path: Path, method: int) -> None:
    root = tmp_path / "a.zip"
    with zipfile.ZipFile(root, "w", method) as archive:
        archive.writestr("a/1.png", image(0))
    with pytest.raises(SourceError, match=r"a\.zip: compressed by a method that is not read; zip it with deflate"):
        list_archive(root)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><title>Virus scan warning</title>", "an HTML page"),
        (b"Rar!\x1a\x07\0", "an archive .*; unpack it"),
        (b"\x1f\x8b\x08", "a gzip file; unpack it"),
    ],
)
def test_what_is_called_zip_and_is_none_is_told_by_its_content(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(SourceError, match=rf"a\.zip: not a zip archive, but {says}"):
        read_source(tmp_path / "a.zip")


def test_a_zip_archive_of_another_name_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.cbz", "w") as archive:
        archive.writestr("a/1.png", image(0))
    with pytest.raises(SourceError, match=r"photos\.cbz: a zip archive under another name; call it \.zip"):
        read_source(tmp_path / "photos.cbz")
    shutil.copy(tmp_path / "photos.cbz", tmp_path / "t.xlsx")
    with pytest.raises(SourceError, match="a spreadsheet"):
        read_source(tmp_path / "t.xlsx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_never_waited_for(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(image(0))
    for name in ("a/x.png", "labels.csv", "a/plain", "p.zip"):
        os.mkfifo(tmp_path / name)
    assert counts(read_source(tmp_path)) == {"a": 1, "b": 1}
    for name in ("labels.csv", "p.zip"):
        with pytest.raises(SourceError, match="a pipe or a device; a source is a folder"):
            read_source(tmp_path / name)


def test_a_class_of_broken_links_is_an_error(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(image(0))
    try:
        (tmp_path / "a" / "gone.png").symlink_to("../.git/annex/objects/x.png")
    except OSError:
        pytest.skip("no links here")
    assert "'a/gone.png'" in read_source(tmp_path).notes[0]
    (tmp_path / "owl").mkdir()
    for i in range(2):
        (tmp_path / "owl" / f"{i}.png").symlink_to("../.git/annex/objects/x.png")
    with pytest.raises(SourceError, match=r"a class would be lost.*'owl': 2 broken links \(fetch"):
        read_source(tmp_path)


def test_a_folder_that_cannot_be_looked_at_is_an_error_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(image(0))
    for path in (tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(SourceError):
            read_source(path)
