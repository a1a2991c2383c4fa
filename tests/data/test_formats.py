"""Formats that are not read are called by name, and the command that is given turns them into one that is."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from smalltables import labels, refusal, text

from signsclf.data.table import read_source


def run(said, folder, monkeypatch):
    """Runs the Python command at the end of a message in a folder."""
    parts = shlex.split(said[said.index("python -c ") :])
    monkeypatch.chdir(folder)
    exec(parts[2], {})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("t.xlsx", "a spreadsheet"),
        ("t.ODS", "CSV UTF-8"),
        ("t.h5", "HDF5"),
        ("t.tfrecord", "TensorFlow"),
        ("t.pkl", "a pickle, which is never opened"),
        ("t.mat", "MATLAB"),
        ("t.xml", "csv with the columns path and label"),
        ("t.arrow", "datasets.Dataset.from_file('t.arrow').to_parquet"),
        ("t.doc", "a table: .csv .tsv"),
    ],
)
def test_files(tmp_path, name, says):
    said = refusal(text(tmp_path / name, "x"))
    assert says in said
    if not name.endswith(".doc"):
        assert says in refusal(tmp_path)


def test_arrays(tmp_path, monkeypatch):
    np.save(tmp_path / "x_train.npy", np.arange(6 * 8 * 9 * 3, dtype=np.uint8).reshape(6, 8, 9, 3))
    np.save(tmp_path / "y_train.npy", np.arange(6) % 2)
    said = refusal(tmp_path / "x_train.npy")
    assert "NumPy arrays" in said
    assert "NumPy arrays" in refusal(tmp_path)
    run(said.replace("LABELS.npy", "y_train.npy"), tmp_path, monkeypatch)
    assert labels(read_source(tmp_path / "photos"))["1/5.png"] == "1"


def test_an_archive_of_arrays(tmp_path, monkeypatch):
    np.savez(tmp_path / "set.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.array(["a", "b", "a", "b"]))
    run(refusal(tmp_path / "set.npz"), tmp_path, monkeypatch)
    assert read_source(tmp_path / "photos").classes == ("a", "b")


def test_pixels_as_columns(tmp_path, monkeypatch):
    lines = ["label," + ",".join(f"pixel{i}" for i in range(64))]
    lines += [f"{k}," + ",".join(str((i + k) % 256) for i in range(64)) for k in (3, 7, 3)]
    said = refusal(text(tmp_path / "train.csv", "\n".join(lines)))
    assert "a table of pixels" in said
    assert "lacks the column" not in said
    run(said, tmp_path, monkeypatch)
    assert set(labels(read_source(tmp_path / "photos"))) == {"3/0.png", "7/1.png", "3/2.png"}


def test_pixels_in_one_cell(tmp_path, monkeypatch):
    lines = ["emotion,pixels,Usage", *(f"{k},{' '.join(str(i) for i in range(36))},Training" for k in (0, 1))]
    run(refusal(text(tmp_path / "fer.csv", "\n".join(lines))), tmp_path, monkeypatch)
    assert read_source(tmp_path / "photos").classes == ("0", "1")


@pytest.mark.parametrize("name", ["a';import os;'.npy", "a$(touch x).npy", 'a".npy', "a`b`.arrow"])
def test_names_are_never_part_of_a_command(tmp_path, name):
    said = refusal(text(tmp_path / name, "x"))
    command = said[said.index("python -c ") :]
    assert name not in command
    assert "FILE." in command
