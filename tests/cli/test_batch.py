"""What the commands of ``signsclf batch`` print, and how they end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tinymodel import write_folder
from tinysource import Ran

from signsclf.scale.results import Status, Summary


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with three images and a model."""
    import numpy as np
    from PIL import Image

    write_folder(tmp_path / "model")
    (tmp_path / "new").mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), 80 * number, np.uint8)).save(tmp_path / f"new/{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.scale
def test_from_a_plan_to_a_report(place, cli):
    ran: Ran = cli("batch", "plan", "new", "out", "--model", "model", "--shard", 2)
    assert (ran.code, ran.out) == (0, "signsclf batch run out\n")
    assert "planned: 3 images in 2 shards" in ran.err
    assert cli("batch", "status", "out").out.splitlines() == [
        "0 of 3 images (0.0 %), rate not known yet",
        "0 of 2 shards; 0 in work",
    ]
    ran = cli("batch", "run", "out", "--shards-of", "1/2")
    assert ran.code == 0 and "done: 1 shard in" in ran.err and "1 of 2 are there" in ran.err
    assert cli("batch", "verify", "out").complaint.endswith("the first is number 0; run the batch again")
    assert cli("batch", "run", "out").code == 0
    ran = cli("batch", "verify", "out")
    assert (ran.code, ran.out) == (0, "whole: 3 images in 2 parts, each once\n")
    ran = cli("batch", "report", "out")
    assert ran.out.startswith("3 images predicted, 0 not read\n") and "rejected: " in ran.out
    assert set(json.loads(cli("batch", "report", "out", "--json").out)) == set(Summary.__dataclass_fields__)
    assert set(json.loads(cli("batch", "status", "out", "--json").out)) == set(Status.__dataclass_fields__)


@pytest.mark.scale
def test_images_that_cannot_be_read_are_told_by_the_exit_code(place, cli):
    (place / "new/3.png").write_bytes(b"no image")
    cli("batch", "plan", "new", "out", "--model", "model")
    for command in ("run", "verify"):
        ran = cli("batch", command, "out")
        assert ran.code == 1 and "1 image could not be read; their rows say why" in ran.err
    assert "1 not read: not an image" in cli("batch", "status", "out").out


def test_wrong_use_is_one_line(place, cli):
    assert "no plan there" in cli("batch", "run", "new").complaint
    assert "no such file or folder" in cli("batch", "plan", "nowhere", "out", "--model", "model").complaint
    cli("batch", "plan", "new", "out", "--model", "model")
    assert "not empty" in cli("batch", "plan", "new", "out", "--model", "model").complaint
    assert "should be I/N" in cli("batch", "run", "out", "--shards-of", "2/2").complaint
    assert "add --engine ray" in cli("batch", "run", "out", "--address", "1.2.3.4:5").complaint
    shutil.rmtree(place / "model")
    assert "model" in cli("batch", "run", "out").complaint


def test_an_array_of_slurm_is_told(place, cli, monkeypatch):
    cli("batch", "plan", "new", "out", "--model", "model", "--shard", 1)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    ran = cli("batch", "run", "out")
    assert ran.code == 0 and "share 2 of 3, as $SLURM_ARRAY_TASK_ID says" in ran.err
    assert [path.name for path in (place / "out").glob("part-*")] == ["part-000002.parquet"]
