"""Tables in text and Parquet are read as they are written, or refused with the line to look at."""

from __future__ import annotations

import csv
import sys
import threading

import pytest
from smalltables import text

from signsclf.data.columns import column_names, read_columns, read_sheet
from signsclf.errors import MissingExtraError, SourceError


def rows(path):
    sheet = read_sheet(str(path))
    return [tuple(row) for row in zip(*(sheet.load(i) for i in range(len(sheet.names))), strict=True)]


def refused(path):
    with pytest.raises(SourceError) as caught:
        read_sheet(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("head", ["", "sep=X", '"sep=X"', "sep=XX"])
def test_separators_and_line_ends(tmp_path, sign, end, head):
    lines = [head.replace("X", sign)] * bool(head) + [sign.join(row) for row in (("path", "label"), ("a.png", "b c"))]
    path = text(tmp_path / "t.csv", end.join(lines) + end)
    assert column_names(str(path)) == ["path", "label"]
    assert rows(path) == [("a.png", "b c")]
    assert read_sheet(str(path)).location(0) == f"line {len(lines)}"


def test_a_space_before_the_last_column(tmp_path):
    path = text(tmp_path / "t.txt", "path label\na b.png 0\nc.png  1\n")
    assert rows(path) == [("a b.png", "0"), ("c.png", "1")]


def test_the_last_line_needs_no_end_and_a_separator_in_quotes_does_not_count(tmp_path):
    path = text(tmp_path / "t.csv", 'path,"a;b;c",label\nx.png,"1;2",y')
    assert rows(path) == [("x.png", "1;2", "y")]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)  # fmt: skip
def test_encodings_with_a_mark(tmp_path, encoding):
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    path = text(tmp_path / "t.csv", (mark + "path,label\nü.png,grün\n").encode(encoding))
    assert column_names(str(path)) == ["path", "label"]
    assert rows(path) == [("ü.png", "grün")]


def test_other_encodings_are_told_by_byte_and_line(tmp_path):
    said = refused(text(tmp_path / "t.csv", "path,label\r\na.png,b\r\nc.png,grün\r\n".encode("cp1252")))
    assert "byte 30 (0xFC), in line 3, is not UTF-8" in said
    assert "NUL" in refused(text(tmp_path / "t.csv", "path,label\na.png,b\n".encode("utf-16-le")))


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"PK\x03\x04rest", "spreadsheet"),
        (b"\xd0\xcf\x11\xe0rest", "spreadsheet"),
        (b"\x1f\x8brest", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "web page"),
    ],
)
def test_other_kinds_under_the_name_of_a_table(tmp_path, start, says):
    assert says in refused(text(tmp_path / "t.csv", start))


def test_rows_without_a_value_are_no_rows_and_places_are_lines(tmp_path):
    path = text(tmp_path / "t.csv", "path,label,,\n\na.png,b,,\n,,\n \t,\u00a0,\nc.png,d,,,,\n,,,,,,\n")
    assert rows(path) == [("a.png", "b"), ("c.png", "d")]
    assert read_sheet(str(path)).row_numbers == [3, 6]


def test_rows_of_other_lengths(tmp_path):
    assert "line 3 has 3 columns, the header 2" in refused(text(tmp_path / "t.csv", "path,label\na,b\na,b,c\n"))
    assert "line 2 has 1 columns" in refused(text(tmp_path / "t.csv", "path,label\na\n"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (["path,label", "1.png,a", '2.png,"a', "3.png,b", "4.png,a"], 3),
        (["path,label", "1.png,a", '2.png,"a', "3.png,b", '4.png,"a"', "5.png,b"], 3),
        (["path,label", "1.png,a", '2.png,"a', "3.png,b", '4.png,a"', "5.png,b"], 3),
        (["path,label", '1.png,"a ""b"""', '2.png, "a', "3.png,b"], 3),
        (["path,label,note", '1.png,a,"two', 'lines"', '2.png,b,"one', "3.png,a,x"], 4),
        (["path,label,note", '1.png,a,"one', "2.png,b,x", '3.png,b,y"', "4.png,a,x"], 2),
        (["label,path", '"a,1.png', "b,2.png"], 2),
        (["path,label", '1.png,"a" b'], 2),
    ],
)
def test_a_quotation_mark_that_is_not_closed_is_told_by_its_line(tmp_path, lines, line, end):
    said = refused(text(tmp_path / "t.csv", end.join(lines) + end))
    assert f": line {line}: a quotation mark opens a value and is not closed" in said


def test_an_unclosed_quote_before_much_text(tmp_path):
    lines = ["path,label", '1.png,"a', *(f"{i}.png,b" for i in range(30_000))]
    assert "line 2: a quotation mark" in refused(text(tmp_path / "t.csv", "\n".join(lines)))


def test_quotation_marks_inside_a_value_are_text(tmp_path):
    path = text(tmp_path / "t.csv", 'path,label\n1.png,sign 12"\n2.png,"a ""b"""\n3.png, "c, d"\n4.png,5" x 7"\n')
    assert [label for _, label in rows(path)] == ['sign 12"', 'a "b"', "c, d", '5" x 7"']


def test_cells_of_several_lines_are_values(tmp_path):
    path = text(tmp_path / "t.csv", 'path,label,note\n1.png,a,"two\nlines, and more"\n2.png,b,\n')
    assert read_sheet(str(path)).row_numbers == [2, 4]
    assert rows(path)[0][2] == "two\nlines, and more"


def test_wide_cells_leave_the_limit_of_the_process_as_it_is(tmp_path):
    before = csv.field_size_limit()
    path = text(tmp_path / "t.csv", f"path,label,data\n1.png,a,{'A' * (before + 9)}\n2.png,b,x\n")
    threads = [threading.Thread(target=read_sheet, args=(str(path),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert read_columns(str(path), ("path", "label")) == {"path": ["1.png", "2.png"], "label": ["a", "b"]}
    for thread in threads:
        thread.join()
    assert csv.field_size_limit() == before


def test_repeated_columns_matter_where_they_are_wanted(tmp_path):
    path = str(text(tmp_path / "t.csv", "path,label,x,x\na,b,c,d\n"))
    assert read_columns(path, ("path",)) == {"path": ["a"]}
    with pytest.raises(SourceError, match="2 columns are called 'x'"):
        read_columns(path, ("x",))


def test_parquet_columns_are_read_one_by_one(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    table = pa.table({"a.b": [1, 2], "label": [1.0, None], "flag": [True, False]})
    pq.write_table(table, path)
    assert column_names(str(path)) == ["a.b", "label", "flag"]
    assert rows(path) == [("1", "1.0", "True"), ("2", "", "False")]
    assert read_sheet(str(path)).location(1) == "row 2"
    assert "not a Parquet file" in refused(text(tmp_path / "u.parquet", b"PAR1"))


def test_parquet_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"t\.parquet: a Parquet file needs pyarrow.*signsclf\[parquet\]"):
        read_sheet(str(text(tmp_path / "t.parquet", b"PAR1")))
