from __future__ import annotations

import os
import sys

import pytest
from batches import write_images
from pyarrow import parquet

from signsclf.errors import SignsclfError, SourceError
from signsclf.scale.manifest import Stamps, listed_in, read_rows, write_manifest


def test_rows_are_sorted_once_and_in_shards_of_their_own(tmp_path):
    paths = [f"/nowhere/{n}.png" for n in (3, 1, 2, 5, 4, 1)]
    assert write_manifest(paths, tmp_path / "m", 2) == (5, 1)
    with parquet.ParquetFile(tmp_path / "m") as file:
        assert file.metadata.num_row_groups == 3
        table = file.read()
    assert table["path"].to_pylist() == [f"/nowhere/{n}.png" for n in (1, 2, 3, 4, 5)]
    assert table["shard"].to_pylist() == [0, 0, 1, 1, 2] and table["row"].to_pylist() == [0, 1, 2, 3, 4]
    rows = read_rows(tmp_path / "m", 1)
    assert (rows.first, rows.paths, rows.stamps) == (2, ["/nowhere/3.png", "/nowhere/4.png"], [(None, None)] * 2)


def test_a_file_has_its_size_and_time_and_a_member_its_archives(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"12345")
    os.utime(file, ns=(7, 9))
    import zipfile

    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("b/c.png", b"1")
    stamps = Stamps()
    assert stamps.of(str(file)) == (5, 9)
    assert stamps.of(f"{tmp_path}/z.zip/b/c.png")[0] == (tmp_path / "z.zip").stat().st_size


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8 are Linux's")
def test_names_that_are_no_utf8_lead_to_their_files(tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    other = f"{tmp_path}/\\udcff.png"  # is written as the odd one is
    write_manifest([odd, other], tmp_path / "m", 10)
    assert set(read_rows(tmp_path / "m", 0).paths) == {odd, other}


def test_a_table_is_not_listed_and_its_paths_are_of_its_folder(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,path\n1,a/b.png\n2,/c.png\n3,../d.png\n")
    assert list(listed_in(str(table))) == [f"{tmp_path}/a/b.png", "/c.png", f"{tmp_path.parent}/d.png"]
    with pytest.raises(SourceError, match="no column"):
        list(listed_in(str(table), "photo"))


def test_images_in_a_parquet_file_are_its_rows(tmp_path):
    import pyarrow as pa

    folder = write_images(tmp_path / "images", 3)
    data = [(folder / f"{n:03}.png").read_bytes() for n in range(3)]
    parquet.write_table(pa.table({"image": data}), tmp_path / "t.parquet")
    (first, *_) = listed_in(str(tmp_path / "t.parquet"))
    assert first == f"parquet:{tmp_path}/t.parquet/image/000001"
    assert Stamps().of(first)[0] == (tmp_path / "t.parquet").stat().st_size


def test_nothing_to_list_is_an_error(tmp_path):
    with pytest.raises(SignsclfError, match="no images there"):
        write_manifest([], tmp_path / "m", 2)


def test_a_shard_that_is_not_there(tmp_path):
    write_manifest(["/a.png"], tmp_path / "m", 2)
    with pytest.raises(SignsclfError, match="shard 4 cannot be read"):
        read_rows(tmp_path / "m", 4)
