from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from batches import write_batch
from pyarrow import parquet

from signsclf.errors import SignsclfError
from signsclf.scale.batch import Share, run
from signsclf.scale.plan import SUCCESS
from signsclf.scale.results import Watcher, summarise, verify
from signsclf.scale.shards import part_path

pytestmark = pytest.mark.scale


@pytest.fixture
def plan(tmp_path: Path):
    plan = write_batch(tmp_path)
    run(plan)
    return plan


def test_a_whole_batch_is_marked(plan):
    status = verify(plan)
    said = json.loads((plan.folder / SUCCESS).read_text())
    assert (status.done, status.failures) == (71, 1)
    assert (said["rows"], said["parts"], said["plan"], said["model"]) == (71, 5, plan.digest, plan.model_digest)
    assert sum(said["errors"].values()) == 1
    before = said["parts_sha256"]
    verify(plan)
    assert json.loads((plan.folder / SUCCESS).read_text())["parts_sha256"] == before


def test_what_is_missing_is_told(plan):
    part_path(plan, 3).unlink()
    with pytest.raises(SignsclfError, match="1 of 5 parts are missing, the first is number 3"):
        verify(plan)
    assert not (plan.folder / SUCCESS).exists()


@pytest.mark.parametrize("how", ["cut", "swapped", "path", "other plan", "empty"])
def test_what_is_wrong_is_told(plan, how, tmp_path):
    path = part_path(plan, 1)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "swapped":
        path.write_bytes(part_path(plan, 2).read_bytes())
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "path":
        table = parquet.read_table(path)
        paths = table["path"].to_pylist()
        paths[3], paths[4] = paths[4], paths[3]
        parquet.write_table(table.set_column(1, "path", [paths]), path)
    else:
        (tmp_path / "b").mkdir()
        other = write_batch(tmp_path / "b", images=tmp_path / "images", top_k=1)
        run(other)
        path.write_bytes(part_path(other, 1).read_bytes())
    with pytest.raises(SignsclfError, match="part-000001") as error:
        verify(plan)
    assert "\n" not in str(error.value) and not (plan.folder / SUCCESS).exists()


def test_the_status_counts_what_is_there(tmp_path):
    plan = write_batch(tmp_path)
    assert (Watcher(plan).status().done, Watcher(plan).status().rate) == (0, None)
    run(plan, share=Share(0, 2))
    now = part_path(plan, 0).stat().st_mtime
    for number, ago in ((0, 4), (2, 2), (4, 0)):
        os.utime(part_path(plan, number), (now - ago, now - ago))
    status = Watcher(plan).status()
    assert (status.rows, status.done, status.shards, status.parts) == (71, 39, 5, 3)
    assert status.rate == pytest.approx((16 + 7) / 4)
    assert status.seconds_left == pytest.approx(32 / status.rate)
    assert list(status.errors.values()) == [1]


def test_a_summary_counts_classes_and_compares_with_the_models_own_figures(plan):
    summary = summarise(plan)
    rows = [row for path in sorted(plan.folder.glob("part-*")) for row in parquet.read_table(path).to_pylist()]
    good = [row for row in rows if row["error"] is None]
    assert (summary.rows, summary.errors) == (70, 1)
    assert summary.labels == {c: sum(row["label"] == c for row in good) for c in summary.labels}
    assert list(summary.labels.values()) == sorted(summary.labels.values(), reverse=True)
    assert summary.rejected == pytest.approx(sum(not row["accepted"] for row in good) / 70)
    assert summary.confidence == pytest.approx(sum(row["probability"] for row in good) / 70)
    assert summary.reference == {"accuracy": 0.75}


def test_nothing_to_summarise_is_told(tmp_path):
    with pytest.raises(SignsclfError, match="run the batch first"):
        summarise(write_batch(tmp_path))
