"""A batch gives the rows that predict gives, whoever makes them, and whatever ends on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batches import crash_at_killers, parts_of, write_batch, write_images
from pyarrow import parquet
from tinysource import command, environment, run_command

from signsclf.errors import ModelError, SignsclfError
from signsclf.inference.classifier import Classifier, stream
from signsclf.inference.writers import record_of
from signsclf.scale import shards, worker
from signsclf.scale.batch import EVERYTHING, Share, missing, parse_share, run, share_from
from signsclf.scale.plan import open_plan
from signsclf.scale.shards import part_path, write_part
from signsclf.scale.worker import Worker

pytestmark = pytest.mark.scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch that was run; no test changes it."""
    folder = tmp_path_factory.mktemp("batch")
    run(write_batch(folder))
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    """A plan of the same images and model, without results."""
    return write_batch(tmp_path, images=folder / "images")


def rows_of(plan):
    tables = [parquet.read_table(path) for path in sorted(plan.folder.glob("part-*"))]
    return [row for table in tables for row in table.to_pylist()]


def test_its_rows_are_those_of_predict_bit_for_bit(folder):
    plan = open_plan(folder / "out")
    rows = rows_of(plan)
    assert [row.pop("row") for row in rows] == list(range(71))
    paths = sorted(str(path) for path in (folder / "images").iterdir())
    assert rows == [record_of(p) for p in stream(Classifier(folder / "model"), paths, top_k=5)]
    assert [row["path"] for row in rows if row["error"]] == [str(folder / "images/033b.png")]


@pytest.mark.parametrize("workers", [1, 2])
def test_its_bytes_do_not_depend_on_who_makes_them(folder, copied, workers):
    run(copied, workers=workers, share=Share(1, 2))
    assert [path.name for path in sorted(copied.folder.glob("part-*"))] == [
        "part-000001.parquet",
        "part-000003.parquet",
    ]
    run(copied, workers=workers)
    # Both plans are of the same images and model, and so is all that is in the parts.
    assert parts_of(copied) == parts_of(open_plan(folder / "out"))


def test_what_is_there_is_left_and_what_is_missing_is_made(folder, copied):
    shutil.copytree(folder / "out", copied.folder, dirs_exist_ok=True)
    part_path(copied, 2).unlink()
    kept = part_path(copied, 0).stat().st_ino
    assert missing(copied) == [2]
    told = []
    run(copied, tell=lambda done, total: told.append((done, total)))
    assert parts_of(copied) == parts_of(open_plan(folder / "out"))
    assert part_path(copied, 0).stat().st_ino == kept and told[-1] == (5, 5)
    assert not list((copied.folder / "claims").iterdir())


def test_another_model_is_refused_before_anything_is_run(copied):
    with pytest.raises(ModelError):
        run(open_plan(copied.folder, copied.folder))
    assert missing(copied) == list(range(5))


def test_an_image_that_changed_since_is_a_row_that_says_so(tmp_path):
    plan = write_batch(tmp_path)
    os.utime(tmp_path / "images/001.png", ns=(1, 1))
    (tmp_path / "images/002.png").unlink()
    run(plan, share=Share(0, 5))
    changed, gone = rows_of(plan)[1:3]
    assert changed["error"].endswith("001.png: changed since the plan was made") and changed["label"] is None
    assert "002.png: cannot be read" in gone["error"]


def test_images_that_end_their_process_or_never_end_are_rows(tmp_path, monkeypatch):
    images = write_images(tmp_path / "images", 20)
    for name in ("004-killer", "009-slow", "011-killer"):
        shutil.copy(images / "000.png", images / f"{name}.png")
    plan = write_batch(tmp_path, images=images, shard_rows=100)
    monkeypatch.setattr(worker, "_work", crash_at_killers)
    run(plan, image_seconds=0.5)
    errors = {Path(row["path"]).stem: row["error"] for row in rows_of(plan) if row["error"]}
    assert {name: error.split(": ", 1)[1] for name, error in errors.items()} == {
        "004-killer": "ended the process that decoded it, twice",
        "009-slow": "not read within 0.5 seconds, twice",
        "011-killer": "ended the process that decoded it, twice",
        "033b": errors["033b"].split(": ", 1)[1],
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a named pipe is a file that never ends")
def test_a_file_that_never_ends_is_a_row(tmp_path):
    images = write_images(tmp_path / "images", 2)
    os.mkfifo(images / "pipe.png")
    (tmp_path / "table.csv").write_text("path\nimages/000.png\nimages/pipe.png\n")
    plan = write_batch(tmp_path, images=tmp_path / "table.csv")
    run(plan, image_seconds=0.5)
    good, pipe = rows_of(plan)
    assert good["error"] is None and pipe["error"].endswith("pipe.png: not read within 0.5 seconds, twice")


def test_a_busy_file_system_is_asked_again(copied, monkeypatch):
    from signsclf.errors import BadImageError

    asked = []

    def busy(path):
        asked.append(path)
        if len(asked) < 3:
            raise BadImageError("busy") from OSError(5, "Input/output error")
        return "image"

    monkeypatch.setattr(shards, "open_image", busy)
    monkeypatch.setattr(shards.time, "sleep", lambda seconds: None)
    assert shards._opened("a") == "image" and len(asked) == 3
    asked.clear()
    monkeypatch.setattr(shards, "_TRANSIENT", frozenset())
    with pytest.raises(BadImageError):
        shards._opened("a")
    assert len(asked) == 1


def test_a_full_disk_is_one_line(copied, monkeypatch):
    def full(*_):
        raise SignsclfError("cannot be written (No space left on device)")

    monkeypatch.setattr("signsclf.scale.batch.write_part", full)
    with pytest.raises(SignsclfError, match="No space left"):
        run(copied, workers=2)
    assert not list((copied.folder / "claims").iterdir())


def test_a_worker_that_cannot_start_is_one_line(copied, monkeypatch):
    monkeypatch.setattr(worker, "_work", os.abort)
    with pytest.raises(SignsclfError, match="ends before it is ready"):
        Worker(copied, 1).part(0)


def test_shards_claimed_by_others_are_waited_for(copied, monkeypatch):
    monkeypatch.setattr("signsclf.scale.batch._OTHERS_SECONDS", 0.05)
    claims = copied.folder / "claims"
    claims.mkdir()
    (claims / "000003.json").write_text(json.dumps({"host": "another", "process": 1}))
    thread_told = []

    def other_makes_it(done, total):
        thread_told.append(done)
        if done == 4:
            write_part(copied, 3, b"of another")

    run(copied, tell=other_makes_it)
    assert part_path(copied, 3).read_bytes() == b"of another"


def test_shares_cover_every_shard_once():
    assert sorted(n for i in range(3) for n in parse_share(f"{i}/3").of(10)) == list(range(10))
    for wrong in ("3/3", "1", "-1/3", "a/b", "0/0"):
        with pytest.raises(SignsclfError, match="--shards-of"):
            parse_share(wrong)


@pytest.mark.parametrize(
    ("environ", "share"),
    [
        ({}, EVERYTHING),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}, (2, 4)),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_STEP": "2"}, (2, 3)),
        ({"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "6"}, (5, 6)),
        ({"JOB_COMPLETION_INDEX": "5"}, EVERYTHING),
    ],
)
def test_the_share_of_an_array_or_an_indexed_job(environ, share):
    assert share_from(environ)[0] == share


def test_an_array_that_makes_no_sense_is_refused():
    with pytest.raises(SignsclfError, match="--shards-of"):
        share_from({"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "4"})


def test_ctrl_c_ends_all_with_one_line(tmp_path):
    images = write_images(tmp_path / "images", 2)
    os.mkfifo(images / "pipe.png")
    (tmp_path / "t.csv").write_text("path\nimages/pipe.png\n")
    plan = write_batch(tmp_path, images=tmp_path / "t.csv")
    started = command("batch", "run", plan.folder)
    process = subprocess.Popen(started, stderr=subprocess.PIPE, text=True, env=environment())
    until = time.monotonic() + 60
    while not list(plan.folder.glob("claims/*.json")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1].splitlines()[-1] == "stopped" and process.returncode == 130
    assert not list(plan.folder.glob("claims/*.json"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_kills_at_random_change_no_byte(folder, copied):
    """Twenty times a worker or the run itself is killed; then the run is gone on with."""
    generator = random.Random(0)
    for _ in range(20):
        part = part_path(copied, generator.randrange(5))
        part.unlink(missing_ok=True)
        process = subprocess.Popen(
            command("batch", "run", copied.folder, "--workers", 2), stderr=subprocess.DEVNULL, env=environment()
        )
        time.sleep(generator.uniform(0.2, 1.5))
        victims = [process.pid, *_children(process.pid)]
        os.kill(generator.choice(victims), signal.SIGKILL)
        process.wait(60)
    assert run_command("batch", "run", copied.folder).code == 1
    assert run_command("batch", "verify", copied.folder).code == 1  # one image cannot be read
    assert parts_of(copied) == parts_of(open_plan(folder / "out"))


def _children(process: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
