"""What a training reports to TensorBoard and MLflow, read back by their own clients."""

from __future__ import annotations

import csv
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from signsclf.choices import Tracker
from signsclf.errors import MissingExtraError, SignsclfError
from signsclf.observer import BatchDone, EpochDone, Observer
from signsclf.recipe import Recipe
from signsclf.runs import tracking
from signsclf.runs.train import resume, train
from tests.tinysource import TINY, one_thread

RECIPE = Recipe(**TINY)


class Stops(Observer):
    """Stops the training after its first epoch."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def epoch_done(self, event: EpochDone) -> None:
        self.stop.set()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without a tracking server."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of a curve in TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def history(run_id: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of a curve in MLflow's store."""
    import mlflow

    client = mlflow.MlflowClient(Path("mlruns").absolute().as_uri())
    return sorted({(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)})


def the_run() -> object:
    import mlflow

    client = mlflow.MlflowClient(Path("mlruns").absolute().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("signsclf").experiment_id])
    return run


def reports(run: tracking.TrackedRun, *batches: tuple[int, int, tuple[float, ...]]) -> None:
    """Report batches of three epochs of four: (epoch, batch, losses up to it)."""
    with tracking.reporting(run, RECIPE, Observer()) as reporter:
        for epoch, batch, losses in batches:
            reporter.batch_done(done(epoch, batch, losses))
            if batch == 4:
                row = {"epoch": epoch, "phase": "all", "lr": 0.1, "accuracy": epoch / 4, "macro_f1": None}
                reporter.epoch_done(EpochDone(row=row, n_epochs=3, seconds_left=0.0))


def done(epoch: int, batch: int, losses: tuple[float, ...]) -> BatchDone:
    """The event of a batch in an epoch of four."""
    rates = tuple(0.1 for _ in losses)
    speed = {"images_per_second": 1.0, "seconds_left": 1.0}
    return BatchDone(epoch=epoch, n_epochs=3, batch=batch, n_batches=4, loss=1.0, **speed, losses=losses, rates=rates)


@pytest.mark.slow
def test_a_training_that_is_stopped_and_resumed_is_one_run(source, home):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    observer = Stops()
    with one_thread():
        first = train(source, "m/signs", RECIPE, track=Tracker.TENSORBOARD, observer=observer, stop=observer.stop)
        assert first.stopped
        outcome = resume("m/signs", observer=observer)
    assert not [line for line in observer.lines if "--track" in line]
    rows = list(csv.DictReader((outcome.folder / "run" / "history.csv").open()))
    folder = home / "runs" / "signs"
    losses, rates = scalars(folder, "train/loss"), scalars(folder, "train/lr")
    n = len(losses)
    assert n % 3 == 0 and [step for step, _ in losses] == [step for step, _ in rates] == list(range(1, n + 1))
    assert max(rate for _, rate in rates) == pytest.approx(0.02, rel=0.2) and rates[-1][1] < 1e-3
    means = scalars(folder, "epoch/train_loss")
    assert [step for step, _ in means] == [n // 3, 2 * n // 3, n]
    for row, (step, mean), (_, accuracy) in zip(rows, means, scalars(folder, "epoch/accuracy"), strict=True):
        assert mean == pytest.approx(float(row["train_loss"]), rel=1e-4)
        assert accuracy == pytest.approx(float(row["accuracy"]), rel=1e-4)
        assert np.mean([loss for at, loss in losses if step - n // 3 < at <= step]) == pytest.approx(mean, rel=0.01)
    ((_, accuracy),) = scalars(folder, "final/accuracy")
    assert accuracy == pytest.approx(outcome.metrics["accuracy"])
    events = EventAccumulator(str(folder)).Reload()
    assert {"confusion", "curves"} <= set(events.Tags()["images"])
    assert events.Images("confusion")[0].encoded_image_string.startswith(b"\x89PNG")
    assert not list(outcome.folder.rglob("*tfevents*"))


def test_tensorboard_forgets_what_is_reported_again(home):
    run = tracking.create_run(Tracker.TENSORBOARD, "signs")
    reports(run, (1, 4, (4.0, 3.0, 2.0, 1.0)), (2, 2, (0.9, 0.8)))
    # Killed, and resumed from the checkpoint after the first epoch.
    reports(run, (2, 3, (0.9, 0.8, 0.7)), (2, 4, (0.6,)))
    found = scalars(home / "runs" / "signs", "train/loss")
    assert [step for step, _ in found] == list(range(1, 9))
    assert [loss for _, loss in found] == pytest.approx([4, 3, 2, 1, 0.9, 0.8, 0.7, 0.6])
    assert scalars(home / "runs" / "signs", "epoch/accuracy") == [(4, 0.25), (8, 0.5)]


def test_mlflow_has_curves_settings_figures_and_pictures(home):
    import mlflow

    run = tracking.create_run(Tracker.MLFLOW, "signs")
    reports(run, (1, 4, (4.0, 3.0, 2.0, 1.0)), (2, 2, (0.9, 0.8)))
    found = the_run()
    assert (found.info.run_name, found.info.status) == ("signs", "KILLED")
    assert found.data.params["arch"] == "signnet" and found.data.params["epochs"] == "3"
    plots = home / "m" / "run" / "plots"
    plots.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(plots / "confusion.png")
    with tracking.reporting(run, RECIPE, Observer()) as reporter:
        reporter.batch_done(done(2, 4, (0.7, 0.6)))
        reporter.finish(home / "m", {"accuracy": 0.75, "n": 8, "classes": ["a"], "top5": None})
    found = the_run()
    assert found.info.status == "FINISHED"
    assert history(run.run, "train/loss") == list(enumerate([4.0, 3.0, 2.0, 1.0, 0.9, 0.8, 0.7, 0.6], 1))
    assert history(run.run, "epoch/accuracy") == [(4, 0.25)]
    assert {k: v for k, v in found.data.metrics.items() if "final" in k} == {"final/accuracy": 0.75, "final/n": 8.0}
    client = mlflow.MlflowClient(Path("mlruns").absolute().as_uri())
    assert [file.path for file in client.list_artifacts(run.run, "plots")] == ["plots/confusion.png"]


def test_a_second_run_of_a_name_is_another_run(home):
    one, two = (tracking.create_run(Tracker.TENSORBOARD, "signs") for _ in range(2))
    assert (Path(one.place).name, Path(two.place).name) == ("signs", "signs-2")
    one, two = (tracking.create_run(Tracker.MLFLOW, "signs") for _ in range(2))
    assert one.place == two.place and one.run != two.run


def test_a_training_that_fails_is_told(home):
    run = tracking.create_run(Tracker.MLFLOW, "signs")
    with pytest.raises(KeyError), tracking.reporting(run, RECIPE, Observer()):
        raise KeyError
    assert the_run().info.status == "FAILED"


def test_a_tracker_that_fails_costs_a_line_and_no_training(home):
    class Fails(tracking._TensorBoardLog):
        def scalars(self, rows):
            raise ConnectionError("refused\nby the server")

    observer = Stops()
    run = tracking.create_run(Tracker.TENSORBOARD, "signs")
    reporter = tracking.Tracking(Tracker.TENSORBOARD, Fails(run, {}), observer)
    for batch in (1, 2):
        reporter.batch_done(done(1, batch, (1.0,)))
    assert observer.lines == ["warning: --track tensorboard failed (refused); training on without it"]


def test_what_cannot_be_tracked_is_told_before_anything_is_read(home, source, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r'--track mlflow needs mlflow.* pip install "signsclf\[track\]"'):
        train("no such source", "m", RECIPE, track=Tracker.MLFLOW)
    (home / "runs").write_text("a file")
    with pytest.raises(SignsclfError, match="--track tensorboard: it cannot be reported to"):
        tracking.create_run(Tracker.TENSORBOARD, "signs")


def test_the_option_names_what_it_takes(cli, home):
    ran = cli("train", "none", "--track", "wandb")
    assert ran.code == 2 and "tensorboard" in ran.complaint and "mlflow" in ran.complaint
    ran = cli("train", "--resume", "m", "--track", "mlflow")
    assert ran.code == 2 and "--track belongs to the run" in ran.complaint
