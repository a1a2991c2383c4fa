"""WebDataset shards as a source: their labels, their splits, and what makes no sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from smalltables import refusal

from signsclf import images
from signsclf.choices import Layout, Reading
from signsclf.data.table import read_source
from signsclf.inference.listing import expand


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "PNG")
    return data.getvalue()


def shard(path: Path, members: dict[str, str | None], mode: str = "w") -> Path:
    """A tar of texts, and of an image for each None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, text in members.items():
            data = picture() if text is None else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(field: str, labels: list[str], start: int = 0) -> dict[str, str | None]:
    members: dict[str, str | None] = {}
    for i, label in enumerate(labels, start):
        members |= {f"{i:05}.png": None, f"{i:05}.{field}": label}
    return members


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_shards_of_splits(tmp_path, suffix):
    mode = "w" if suffix == "tar" else "w:gz"
    for i in range(2):
        shard(tmp_path / f"pets-train-{i:06}.{suffix}", samples("cls", ["0", "1", "1\n"]), mode)
    shard(tmp_path / f"pets-val-000000.{suffix}", samples("cls", ["1"]), mode)
    source = read_source(tmp_path)
    assert source.layout is Layout.TABLE and source.classes == ("0", "1")
    assert Counter(source.table["split"]) == {"train": 6, "valid": 1}
    assert any("WebDataset samples in 3 shards, with their labels in .cls" in note for note in source.notes)
    first = source.table["path"][0]
    assert first == f"{tmp_path}/pets-train-000000.{suffix}/00000.png"
    assert source.relative(first) == f"pets-train-000000.{suffix}/00000.png"
    assert images.load(first, (4, 4)).any()
    again = read_source(source.origin, source.reading)
    assert again.table.tolist() == source.table.tolist()


def test_folders_are_splits(tmp_path):
    for split in ("train", "test"):
        shard(tmp_path / split / "000.tar", samples("txt", ["cat", "dog"] * 2))
    assert Counter(read_source(tmp_path).table["split"]) == {"train": 4, "test": 4}


def test_one_shard_alone(tmp_path):
    source = read_source(shard(tmp_path / "shard.tar", samples("cls", ["cat", "dog"])))
    assert source.table["split"].tolist() == [None, None]
    assert source.table["path"][0] == f"{tmp_path}/shard.tar/00000.png"


def test_a_pattern_with_braces(tmp_path):
    for i in range(12):
        shard(tmp_path / f"s-{i:03}.tar", samples("cls", ["cat", "dog"], start=2 * i))
    source = read_source(f"{tmp_path}/s-{{009..011}}.tar")
    assert len(source.table) == 6 and source.table["path"][0] == f"{tmp_path}/s-009.tar/00018.png"
    assert read_source(source.origin).table.tolist() == source.table.tolist()
    assert list(expand([f"{tmp_path}/s-{{009..011}}.tar"])) == source.table["path"].tolist()
    assert "(8 of 20 are missing)" in refusal(f"{tmp_path}/s-{{000..019}}.tar")


def test_json_has_the_label_under_its_usual_names_or_the_one_given(tmp_path):
    labels = [json.dumps({"label": i % 2, "class_name": f"c{i % 2}", "kind": f"k{i % 2}"}) for i in range(4)]
    path = shard(tmp_path / "a.tar", samples("json", labels))
    assert read_source(path).classes == ("0", "1")
    assert read_source(path, Reading(label_column="kind")).classes == ("k0", "k1")
    assert "no label in it, only 'label', 'class_name', 'kind'" in refusal(path, Reading(label_column="none"))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({**samples("cls", ["a", "b", "a"]), "x.png": None}, "samples without a .cls (1): 'x.png'"),
        (
            {**samples("cls", ["a", "b"]), "00000.jpg": None},
            "of several images, such as '00000.jpg', '00000.png'",
        ),
        (samples("txt", ["a dog", "a cat", "the sea"]), "seem to be captions (3 different ones of 3), such as 'a dog'"),
        (samples("cls", ["a", " "]), "00001.cls: an empty label"),
        (samples("cls", ["a", "b" * 70_000]), "00001.cls: over 65,536 bytes"),
        (samples("json", ["{}", "["]), "00000.json: no label in it"),
        (samples("json", ["["]), "00000.json: a label that cannot be read"),
        (samples("json", ["[" * 20_000]), "00000.json: a label that cannot be read"),
        (samples("cls", ["['a', 'b']", "['a']"]), "is 2 labels; a classifier takes one"),
    ],
)
def test_what_is_refused(tmp_path, members, said):
    assert said in refusal(shard(tmp_path / "a.tar", members))


def test_a_shard_of_no_split_among_others(tmp_path):
    shard(tmp_path / "train-000.tar", samples("cls", ["a", "b"]))
    shard(tmp_path / "more-000.tar", samples("cls", ["a", "b"]))
    assert "shards of no split (1): 'more-000.tar'" in refusal(tmp_path)


def test_class_folders_in_a_tar_are_no_samples(tmp_path):
    members = {f"{label}/{i}.png": None for label in ("cat", "dog") for i in range(2)}
    source = read_source(shard(tmp_path / "a.tar", {**members, "cat/0.txt": "a caption"}))
    assert source.layout is Layout.FOLDERS
