"""Images inside Parquet files are read row by row, with the names of their classes."""

from __future__ import annotations

import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from smalltables import noted, refusal, splits, text

from signsclf import images
from signsclf.choices import Reading
from signsclf.data import parquetimages
from signsclf.data.table import describe, read_source
from signsclf.errors import BadImageError

pa = pytest.importorskip("pyarrow")


def encoded(i):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (i, 80, 120)).save(buffer, "PNG")
    return buffer.getvalue()


def written(path, numbers, plain=False, name="image", hub=True, group=3, **columns):
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.binary() if plain else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    held = [encoded(i) if plain else {"bytes": encoded(i), "path": f"{i}.png"} for i in numbers]
    columns = {"label": [i % 2 for i in numbers], **columns}
    table = pa.table({name: pa.array(held, kind), **columns})
    if hub:
        names = {"names": ["cat", "dog"], "_type": "ClassLabel"}
        features = {"info": {"features": {name: {"_type": "Image"}, "label": names}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", ["image", "img", "pixels of it"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_rows_are_images(tmp_path, plain, name, as_folder):
    path = written(tmp_path / "data" / "t.parquet", range(8), plain, name)
    source = read_source(path.parent if as_folder else path)
    assert source.classes == ("cat", "dog")
    assert source.table["label"].tolist() == ["cat", "dog"] * 4
    assert [images.load(p, (1, 1))[0, 0, 0] for p in source.table["path"]] == list(range(8))
    assert source.relative(source.table["path"][0]) == f"t.parquet/{name}/000001"
    assert "sizes: 12×10 to 12×10 pixels" in describe(source)


def test_from_many_threads_and_in_any_order(tmp_path):
    source = read_source(written(tmp_path / "t.parquet", range(40)))
    order = np.random.default_rng(0).permutation(40)
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda i: images.load(source.table["path"][i], (1, 1))[0, 0, 0], order))
    assert seen == order.tolist()
    assert len(parquetimages._groups) <= 3


def test_a_file_that_is_replaced(tmp_path):
    path = written(tmp_path / "t.parquet", range(4))
    first = read_source(path).table["path"][0]
    assert images.load(first, (1, 1))[0, 0, 0] == 0
    written(path, range(7, 20))
    assert images.load(first, (1, 1))[0, 0, 0] == 7
    path.unlink()
    with pytest.raises(BadImageError, match="cannot be read"):
        images.read(first)


def test_rows_that_hold_no_image(tmp_path):
    import pyarrow.parquet as pq

    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    held = [{"bytes": encoded(1), "path": None}, {"bytes": None, "path": "x.png"}, None, {"bytes": b"text", "path": ""}]
    pq.write_table(pa.table({"image": pa.array(held, kind), "label": list("abab")}), tmp_path / "t.parquet")
    source = read_source(tmp_path / "t.parquet")
    for row in (1, 2):
        with pytest.raises(BadImageError, match=f"/image/00000{row + 1}: the row holds no image"):
            images.read(source.table["path"][row])
    assert any("3 cannot be read" in line for line in describe(source))
    with pytest.raises(BadImageError, match="no such row"):
        images.read(source.table["path"][0].replace("000001", "000009"))


def test_parts_of_a_data_set(tmp_path):
    for name, numbers in (
        ("train-00000-of-00002", range(6)),
        ("train-00001-of-00002", range(6, 12)),
        ("test-00000-of-00001", range(12, 16)),
    ):
        written(tmp_path / "data" / f"{name}.parquet", numbers)
    text(tmp_path / "README.md", "---\n")
    text(tmp_path / "dataset_infos.json", '{"default": {}}')
    source = read_source(tmp_path)
    assert Counter(source.table["split"]) == {"train": 12, "test": 4}
    assert splits(source)["test-00000-of-00001.parquet/image/000001"] == "test"
    assert "train-00001-of-00002.parquet train" in noted(source, "tables are the splits")
    assert sum("columns of other names" in note for note in source.notes) == 1


def test_many_parts_are_told_in_a_line(tmp_path):
    for part in range(9):
        written(tmp_path / f"train-{part:05}-of-00009.parquet", range(2))
    written(tmp_path / "test.parquet", range(2))
    said = noted(read_source(tmp_path), "tables are the splits")
    assert said.endswith("splits: test.parquet test, train-00000-of-00009.parquet and 8 more train")


def test_parts_without_a_split_in_any_number(tmp_path):
    for i in range(12):
        written(tmp_path / f"data-{i:05}-of-00012.parquet", range(4 * i, 4 * i + 4))
    source = read_source(tmp_path)
    assert [images.load(path, (1, 1))[0, 0, 0] for path in source.table["path"]] == list(range(48))
    assert len(parquetimages._files) <= 4


def test_unlabelled_rows_of_a_test_set(tmp_path):
    written(tmp_path / "t.parquet", range(4), label=[0, 1, -1, -1], split=["train", "train", "test", "test"])
    assert read_source(tmp_path).table["label"].tolist() == ["cat", "dog"]


def test_labels_without_names_are_numbers(tmp_path):
    path = written(tmp_path / "t.parquet", range(4), hub=False)
    assert read_source(path).classes == ("0", "1")


def test_no_labels(tmp_path):
    path = written(tmp_path / "t.parquet", range(4), fine_label=[0, 1, 2, 3], coarse_label=[0, 0, 1, 1])
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path).drop_columns(["label"]), path)
    assert "lacks the column label (it has: image, fine_label, coarse_label)" in refusal(path)
    assert read_source(path, Reading(label_column="coarse_label")).classes == ("0", "1")


def test_memory_stays_bounded(tmp_path, monkeypatch):
    path = written(tmp_path / "t.parquet", range(30), group=30)
    monkeypatch.setattr(parquetimages, "_MAX_GROUP_BYTES", 1_000)
    assert "row_group_size=100" in refusal(path)


def test_a_hostile_path_leads_nowhere():
    for path in ("parquet:/x", "parquet:/nowhere/x.parquet/image/1", "parquet:/nowhere/image/0"):
        with pytest.raises(BadImageError):
            images.read(path)
