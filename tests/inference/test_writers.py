from __future__ import annotations

import csv
import io
import json

import pytest

from signsclf.choices import Format
from signsclf.errors import MissingExtraError
from signsclf.inference import writers
from signsclf.inference.classifier import Prediction

STOP = Prediction(
    path='a, "b"/ü\n.png',
    label="Stop",
    index=14,
    probability=0.75,
    top_k=(("Stop", 0.75), ("Yield", 0.25)),
    accepted=True,
)
DOUBT = Prediction(
    path="c.png", label="Yield", index=13, probability=0.5, top_k=(("Yield", 0.5), ("Stop", 0.5)), accepted=False
)
BAD = Prediction(path="bad.png", error="bad.png: truncated")


def text(form: Format, predictions=(STOP, BAD, DOUBT)) -> str:
    sink = io.StringIO()
    writers.write(iter(predictions), sink, form, 2)
    return sink.getvalue()


def test_json():
    rows = json.loads(text(Format.JSON))
    assert [row["path"] for row in rows] == [STOP.path, "bad.png", "c.png"]
    assert rows[0]["top_k"] == [{"label": "Stop", "probability": 0.75}, {"label": "Yield", "probability": 0.25}]
    assert rows[0]["error"] is None
    assert rows[1] == {
        "path": "bad.png",
        "label": None,
        "index": None,
        "probability": None,
        "top_k": [],
        "accepted": None,
        "error": "bad.png: truncated",
    }
    assert json.loads(text(Format.JSON, ())) == []
    assert "ü" in text(Format.JSON)


def test_jsonl_is_a_row_a_line():
    lines = text(Format.JSONL).splitlines()
    assert [json.loads(line) for line in lines] == json.loads(text(Format.JSON))
    assert text(Format.JSONL, ()) == ""


def test_csv():
    rows = list(csv.DictReader(io.StringIO(text(Format.CSV), newline="")))
    assert [row["path"] for row in rows] == [STOP.path, "bad.png", "c.png"]
    assert (rows[0]["label"], rows[0]["probability"], rows[0]["accepted"]) == ("Stop", "0.75", "True")
    assert (rows[0]["label_2"], rows[0]["probability_2"]) == ("Yield", "0.25")
    assert (rows[1]["label"], rows[1]["error"]) == ("", "bad.png: truncated")


def test_csv_is_a_rectangle_whatever_comes_first():
    for predictions in ((BAD, STOP, DOUBT), (STOP, BAD), (BAD,)):
        rows = list(csv.reader(io.StringIO(text(Format.CSV, predictions), newline="")))
        assert len(rows) == len(predictions) + 1
        assert len({len(row) for row in rows}) == 1
    rows = list(csv.DictReader(io.StringIO(text(Format.CSV, (BAD, STOP)), newline="")))
    assert rows[1]["label_2"] == "Yield"


def test_csv_of_nothing_is_a_header():
    assert text(Format.CSV, ()).startswith("path,label,")


def test_table():
    shown = text(Format.TABLE)
    assert " 75.00 %  Stop" in shown
    assert "unreadable: bad.png: truncated" in shown
    assert shown.count("not accepted") == 1
    assert "not accepted" in next(line for line in shown.splitlines() if line.startswith("c.png"))


def test_each_row_is_written_as_it_comes():
    sink = io.StringIO()
    lengths = []

    def slowly():
        for prediction in (STOP, DOUBT, BAD):
            lengths.append(len(sink.getvalue()))
            yield prediction

    for form in (Format.TABLE, Format.JSON, Format.JSONL, Format.CSV):
        sink, lengths = io.StringIO(), []
        writers.write(slowly(), sink, form, 2)
        assert lengths[0] < lengths[1] < lengths[2], form


def test_names_that_are_no_text_can_be_written(tmp_path):
    odd = Prediction(path="odd\udcff.png", error="odd\udcff.png: no image")
    for form in (Format.TABLE, Format.JSON, Format.JSONL, Format.CSV):
        assert "odd\\udcff.png" in text(form, (odd,)).replace("\\\\", "\\")
        text(form, (odd,)).encode()


def test_parquet(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(writers, "_PARQUET_ROWS", 2)
    with (tmp_path / "p.parquet").open("wb") as sink:
        writers.write_parquet(iter((STOP, BAD, DOUBT)), sink)
    rows = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert rows == json.loads(text(Format.JSON))
    with (tmp_path / "none.parquet").open("wb") as sink:
        writers.write_parquet(iter(()), sink)
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_parquet_without_pyarrow_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"signsclf\[parquet\]"):
        writers.write_parquet(iter(()), io.BytesIO())
