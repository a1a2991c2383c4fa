"""A run's record gives back what it was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from signsclf.choices import Layout, Reading
from signsclf.errors import ModelError, SignsclfError
from signsclf.model.folder import read_config
from signsclf.recipe import Recipe
from signsclf.runs.folder import RECORD, Record, RunRequest, read_record, write_record


@pytest.mark.parametrize(
    "reading",
    [
        Reading(),
        Reading(Layout.TABLE),
        Reading(class_level=2),
        Reading(zip_encoding="cp932"),
        Reading(path_column="f", label_column="2", merge_case=True),
    ],
)
def test_how_a_source_is_read_is_kept(tmp_path, reading):
    record = Record(request=RunRequest(source="/images", reading=reading), recipe=Recipe(), fingerprint="f")
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize(("layout", "reading"), [("folders", Reading()), ("table", Reading(Layout.TABLE))])
def test_a_record_of_an_earlier_version(tmp_path, layout, reading):
    request = RunRequest(source="/images", reading=Reading())
    write_record(tmp_path, Record(request=request, recipe=Recipe(), fingerprint="f"))
    values = json.loads((tmp_path / RECORD).read_text())
    values = {name: value for name, value in values.items() if name not in ("class_level", "zip_encoding")}
    (tmp_path / RECORD).write_text(json.dumps({**values, "layout": layout}))
    assert read_record(tmp_path).request.reading == reading


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"class_level": 0}, "not 1 to 50"),
        ({"class_level": 1, "layout": Layout.TABLE}, "leave out --layout table"),
        ({"class_level": 1, "path_column": "x"}, "--path-column: only for tables"),
        ({"label_column": "x", "layout": Layout.GTSRB}, "leave out --layout gtsrb"),
        ({"zip_encoding": "klingon"}, "'klingon' is not a text encoding"),
        ({"zip_encoding": "hex"}, "'hex' is not a text encoding"),
    ],
)
def test_readings_that_cannot_be(values, says):
    with pytest.raises(SignsclfError, match=says):
        Reading(**values)


@pytest.mark.parametrize(
    ("reading", "flags"),
    [
        (Reading(), ""),
        (Reading(class_level=2), "--class-level 2"),
        (Reading(Layout.GTSRB), "--layout gtsrb"),
        (Reading(zip_encoding="cp932", merge_case=True), "--zip-encoding cp932 --merge-case"),
    ],
)
def test_a_reading_as_options(reading, flags):
    assert " ".join(reading.flags()) == flags


def test_the_root_of_a_disk_is_no_model_folder(model, cli):
    root = Path(Path.cwd().anchor)
    for ran in (
        cli("train", "synthetic", "--out", root, "--overwrite"),
        cli("train", "--resume", root),
        cli("export", model, "--out", root),
    ):
        assert ran.code == 2
        assert "the root of a disk" in ran.complaint


def test_an_unfinished_run_is_told_as_such_by_either_name(tmp_path):
    partial = tmp_path / "m.partial"
    partial.mkdir()
    (partial / "run.json").write_text("{}")
    for folder in (partial, tmp_path / "m"):
        with pytest.raises(ModelError, match=f"{folder.name}: its training has not finished; resume it with"):
            read_config(folder)
