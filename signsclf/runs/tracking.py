"""Reports a training to where runs are compared: TensorBoard or MLflow, through their own clients.

TensorBoard's files go to ``runs/NAME`` below the working directory, where `SummaryWriter` has them by default. MLflow's
go where it is set up to keep them (``MLFLOW_TRACKING_URI``, or its own default), else to the folder ``mlruns``. None of
it is part of a model folder.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from signsclf.choices import Tracker
from signsclf.errors import SignsclfError, first_line, require_extra
from signsclf.model.folder import RUN
from signsclf.observer import BatchDone, EpochDone, Observer
from signsclf.recipe import Recipe

_EXPERIMENT = "signsclf"
# MLflow's client refuses larger requests.
_MOST_METRICS, _MOST_PARAMS = 1000, 100

Rows = Sequence[tuple[int, dict[str, float]]]
"""(step, name to value); steps are batches since training began, counted from 1."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """Where a run is reported to, so that a resumed one goes on there.

    Attributes:
        place: folder of TensorBoard's files, or MLflow's tracking URI.
        run: MLflow's id of the run; "" for TensorBoard.
    """

    tracker: Tracker
    place: str
    run: str = ""


def require_tracker(tracker: Tracker) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        MissingExtraError: see `signsclf.errors.require_extra`.
    """
    require_extra("track", f"--track {tracker}", tracker.value)


def create_run(tracker: Tracker, name: str) -> TrackedRun:
    """Create a run that nothing was reported to yet.

    Args:
        name: what to call it; for TensorBoard a number is added where there is such a run.

    Raises:
        SignsclfError: the tracker cannot be reached or written to.
    """
    with _refused(tracker):
        return _create_mlflow_run(name) if tracker is Tracker.MLFLOW else _create_tensorboard_run(name)


@contextlib.contextmanager
def reporting(run: TrackedRun | None, recipe: Recipe, observer: Observer) -> Iterator[Tracking | None]:
    """Report to a run within the context, and tell the tracker how it ended: finished, stopped or failed.

    Args:
        run: new, or one that is resumed; None reports nothing, and gives None.
        observer: told in a line where the tracker fails later, which ends the reports and not the training.

    Raises:
        SignsclfError: the tracker cannot be reached or written to.
    """
    if run is None:
        yield None
        return
    settings = {name: str(value) for name, value in recipe.to_dict().items() if value is not None}
    with _refused(run.tracker):
        kind = _MlflowLog if run.tracker is Tracker.MLFLOW else _TensorBoardLog
        tracking = Tracking(run.tracker, kind(run, settings), observer)
    try:
        yield tracking
    except BaseException:
        tracking.close("FAILED")
        raise
    tracking.close("FINISHED" if tracking.is_finished else "KILLED")


class Tracking(Observer):
    """Reports loss and learning rate of every batch, each epoch's figures, and the final figures and pictures.

    Args:
        tracker: its name in messages.
        log: what takes the reports.
        observer: told of a failure.
    """

    def __init__(self, tracker: Tracker, log: _Log, observer: Observer) -> None:
        self.tracker, self.observer = tracker, observer
        self.is_finished = False
        self._log: _Log | None = log
        self._n_batches = 1

    def batch_done(self, event: BatchDone) -> None:
        """Report the batches since the last event."""
        self._n_batches = event.n_batches
        first = (event.epoch - 1) * event.n_batches + event.batch - len(event.losses) + 1
        values = zip(event.losses, event.rates, strict=True)
        rows = [(first + i, {"train/loss": loss, "train/lr": lr}) for i, (loss, lr) in enumerate(values)]
        if rows:
            self._report(lambda log: log.scalars(rows))

    def epoch_done(self, event: EpochDone) -> None:
        """Report the epoch's figures, at its last batch."""
        figures = {f"epoch/{name}": value for name, value in _numbers(event.row).items() if name not in ("epoch", "lr")}
        step = event.row["epoch"] * self._n_batches
        self._report(lambda log: log.scalars([(step, figures)]))

    def finish(self, folder: Path, metrics: dict[str, Any] | None) -> None:
        """Report what the run ended in.

        Args:
            folder: the model folder, whose pictures are reported.
            metrics: figures on the validation images; None where there are none.
        """
        self.is_finished = True
        figures = {f"final/{name}": value for name, value in _numbers(metrics or {}).items()}
        pictures = sorted((folder / RUN / "plots").glob("*.png"))
        self._report(lambda log: log.final(figures, pictures))

    def close(self, status: str) -> None:
        """End the reports; ``status`` is MLflow's word for how the run ended."""
        self._report(lambda log: log.close(status))
        self._log = None

    def _report(self, report: Callable[[_Log], None]) -> None:
        if self._log is None:
            return
        try:
            report(self._log)
        # Each client has errors of its own, and those of its transport: none is worth a training.
        except Exception as error:
            self._log = None
            self.observer.say(f"warning: --track {self.tracker} failed ({first_line(error)}); training on without it")


class _Log(ABC):
    """What takes reports; each method raises whatever its client does."""

    @abstractmethod
    def scalars(self, rows: Rows) -> None: ...

    @abstractmethod
    def final(self, figures: dict[str, float], pictures: Sequence[Path]) -> None: ...

    @abstractmethod
    def close(self, status: str) -> None: ...


def _create_tensorboard_run(name: str) -> TrackedRun:
    runs = Path("runs").absolute()
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    for folder in (runs / each for each in names):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return TrackedRun(tracker=Tracker.TENSORBOARD, place=str(folder))
    raise AssertionError("names do not end")


class _TensorBoardLog(_Log):
    def __init__(self, run: TrackedRun, settings: dict[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open = partial(SummaryWriter, run.place)
        self._settings = settings
        self._resumed = any(Path(run.place).glob("events.out.tfevents.*"))
        self._writer: Any = None
        self._step = 0

    def scalars(self, rows: Rows) -> None:
        if self._writer is None:
            # What an interrupted run reported after its last checkpoint is reported anew.
            self._writer = self._open(purge_step=rows[0][0] if self._resumed else None)
        for step, values in rows:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._step = rows[-1][0]

    def final(self, figures: dict[str, float], pictures: Sequence[Path]) -> None:
        import numpy as np
        from PIL import Image

        self._writer = self._writer or self._open()
        for path in pictures:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(path.stem, pixels, self._step, dataformats="HWC")
        # In the run's own folder, else its figures would be those of a run beside it.
        self._writer.add_hparams(self._settings, figures, run_name=".")

    def close(self, status: str) -> None:
        if self._writer is not None:
            self._writer.close()


def _create_mlflow_run(name: str) -> TrackedRun:
    client, uri = _mlflow_client()
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    run = client.create_run(experiment_id, run_name=name)
    return TrackedRun(tracker=Tracker.MLFLOW, place=uri, run=run.info.run_id)


def _mlflow_client() -> tuple[Any, str]:
    """Open the store that MLflow is set up for, else the folder ``mlruns``: a client and the store's URI."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if not mlflow.is_tracking_uri_set():
        try:
            return mlflow.MlflowClient(uri), uri
        except mlflow.exceptions.MlflowException:
            # By default it keeps runs in a database, for which mlflow-skinny lacks the packages.
            uri = Path("mlruns").absolute().as_uri()
    return _open_mlflow(uri), uri


def _open_mlflow(uri: str) -> Any:
    import mlflow

    if uri.startswith("file:"):
        # Recent releases want to be told that a folder is meant.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(uri)


class _MlflowLog(_Log):
    def __init__(self, run: TrackedRun, settings: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param

        self._client, self._run, self._metric = _open_mlflow(run.place), run.run, Metric
        self._client.update_run(self._run, "RUNNING")
        reported = self._client.get_run(self._run).data.params
        params = [Param(name, value) for name, value in settings.items() if name not in reported]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._run, params=params[start : start + _MOST_PARAMS])

    def scalars(self, rows: Rows) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for step, row in rows for name, value in row.items()]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + _MOST_METRICS])

    def final(self, figures: dict[str, float], pictures: Sequence[Path]) -> None:
        if figures:
            self.scalars([(0, figures)])
        for path in pictures:
            self._client.log_artifact(self._run, str(path), "plots")

    def close(self, status: str) -> None:
        self._client.set_terminated(self._run, status)


@contextlib.contextmanager
def _refused(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    # Each client has errors of its own, and those of its transport.
    except Exception as error:
        raise SignsclfError(
            f"--track {tracker}: it cannot be reported to ({first_line(error)}); mend that, or leave --track out"
        ) from error


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Choose the numbers among named values."""
    return {n: float(v) for n, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
