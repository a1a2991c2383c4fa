"""Ray gives the same bytes as this machine alone."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from batches import parts_of, write_batch
from tinysource import run_command

from signsclf.errors import ModelError
from signsclf.scale.batch import Share, missing, run
from signsclf.scale.on_ray import run_on_ray
from signsclf.scale.plan import open_plan

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.scale, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster():
    """Ray with two cores, which the tests find running."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    run(write_batch(folder))
    return folder


def test_the_same_bytes_and_a_share_of_them(cluster, folder, tmp_path):
    plan = write_batch(tmp_path, images=folder / "images")
    run_on_ray(plan, workers=2, threads=1, share=Share(0, 2))
    assert missing(plan) == [1, 3]
    told = []
    run_on_ray(plan, workers=2, threads=1, tell=lambda done, total: told.append((done, total)))
    assert parts_of(plan) == parts_of(open_plan(folder / "out")) and told[-1] == (5, 5)


def test_actors_that_are_killed_change_no_byte(cluster, folder, tmp_path):
    plan = write_batch(tmp_path, images=folder / "images", shard_rows=4)
    alone = write_batch(tmp_path / "alone", images=folder / "images", shard_rows=4)
    run(alone)
    killed, ended = [], threading.Event()

    def kill() -> None:
        while len(killed) < 3 and not ended.wait(1.5):
            actors = [line.split()[0] for line in os.popen("pgrep -f 'ray::MapWorker'")]
            if actors:
                os.kill(int(actors[0]), signal.SIGKILL)
                killed.append(actors[0])

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_on_ray(plan, workers=2, threads=1)
    finally:
        ended.set()
        killer.join()
    assert killed and parts_of(plan) == parts_of(alone)


def test_another_model_is_refused(folder):
    with pytest.raises(ModelError):
        run_on_ray(open_plan(folder / "out", folder))


def test_an_address_where_nothing_listens_is_one_line(folder, tmp_path):
    plan = write_batch(tmp_path, images=folder / "images")
    ran = run_command("batch", "run", plan.folder, "--engine", "ray", "--address", "127.0.0.1:1")
    assert ran.code == 2 and "Ray cannot be reached at 127.0.0.1:1" in ran.complaint
