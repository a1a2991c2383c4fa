"""Fits a learner: the learning-rate search, and the frozen and unfrozen one-cycle phases, resumable at any batch."""

from __future__ import annotations

import math
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import LRFinder, minimum, slide, steep, valley
from fastai.learner import Learner, Recorder
from torch import nn

from signsclf.observer import Observer
from signsclf.recipe import AUTO_LR, Recipe
from signsclf.training.callbacks import EMA, RunCallback, restore_optimizer
from signsclf.training.loaders import mix_seed
from signsclf.training.pace import SEARCH_STEPS, Pace
from signsclf.training.precision import flushed_denormals, precision_callbacks

# Phases 0 and 1 train; the search draws its own batches.
_SEARCH_PHASE = 1_000
# On fewer the methods still answer, with whatever rate the search began or broke off at.
_FEWEST_POINTS = 10


@dataclass(frozen=True)
class LrSearch:
    """A learning-rate search (Smith 2015, arXiv:1506.01186).

    Attributes:
        lrs, losses: the rates tried in rising order, and the smoothed loss at each; the last finite point ends them.
        suggestions: valley, slide, minimum and steep of fastai; None where the curve is too short for one.
        diverged_early: whether the loss left all bounds before half of the rates were tried.
    """

    lrs: list[float]
    losses: list[float]
    suggestions: dict[str, float | None]
    diverged_early: bool


@dataclass(frozen=True)
class FitResult:
    """What training ended in.

    Attributes:
        state: the kept weights under the architecture's own names: the best epoch by macro-F1 on validation images,
            or the last where there are none.
        best_epoch: which epoch they are of, counted from 1 over all phases.
        history: a row an epoch.
        draws: images drawn of each class over all epochs, int64 (C,).
        lr: the highest learning rate that was used; None where there was none.
        seconds: of training, over all parts of a resumed run.
        stopped: whether it was interrupted and wants ``--resume``.
    """

    state: dict[str, torch.Tensor]
    best_epoch: int
    history: list[dict[str, Any]]
    draws: np.ndarray
    lr: float | None
    seconds: float
    stopped: bool


def find_lr(
    learner: Learner,
    recipe: Recipe,
    n_rates: int = SEARCH_STEPS,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
) -> LrSearch:
    """Train on rising rates from 1e-7 to 10, then put the weights back as they were.

    Args:
        observer: told of progress.
        stop: the search ends after the step in which it is set.
    """
    torch.manual_seed(mix_seed(recipe.seed, _SEARCH_PHASE))
    loader = learner.dls.train
    loader.phase, loader.epoch = _SEARCH_PHASE, 0
    draws = loader.draws.copy()
    guard = _EndOfSearch(n_rates, observer or Observer(), stop or threading.Event())
    path = learner.path
    with tempfile.TemporaryDirectory() as folder, learner.no_logging(), precision_callbacks(recipe) as precision:
        learner.path = Path(folder)
        callbacks = [*precision, guard, LRFinder(1e-7, 10, n_rates)]
        try:
            learner.fit(n_rates // max(1, len(loader)) + 1, cbs=callbacks)
        finally:
            learner.path = path
    loader.draws = draws
    learner.opt = None
    lrs, losses = list(learner.recorder.lrs), [float(loss) for loss in learner.recorder.losses]
    tried = len(losses)
    finite = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), tried)
    lrs, losses = [float(lr) for lr in lrs[:finite]], losses[:finite]
    return LrSearch(lrs, losses, suggest(lrs, losses, n_rates), diverged_early=tried < n_rates // 2)


def suggest(lrs: list[float], losses: list[float], n_rates: int) -> dict[str, float | None]:
    """fastai's four suggestions from a search's curve, None for one that the curve does not support.

    The noisy start and the exploding end are left out as fastai does, as far as enough points remain.
    """
    skip = n_rates // 10
    short = len(losses) < skip + 5 + 10
    kept = slice(0, None) if short else slice(skip, -5)
    rates, values = torch.tensor(lrs[kept]), torch.tensor(losses[kept])
    suggestions: dict[str, float | None] = {}
    for method in (valley, slide, minimum, steep):
        if len(losses) < _FEWEST_POINTS:
            suggestions[method.__name__] = None
            continue
        try:
            rate = float(method(rates, values, n_rates)[0])
        # fastai's methods index past the end of a curve that is too short for them.
        except (IndexError, ValueError, RuntimeError):
            rate = math.nan
        suggestions[method.__name__] = rate if math.isfinite(rate) and rate > 0 else None
    return suggestions


def phases(recipe: Recipe) -> tuple[int, ...]:
    """Epochs of each phase: of the head alone first, where there are any, then of all layers."""
    if recipe.freeze_epochs and recipe.weights != "none":
        return recipe.freeze_epochs, recipe.epochs
    return (recipe.freeze_epochs + recipe.epochs,)


class Fit:
    """A training run on a learner.

    Args:
        learner: see `signsclf.training.learner.build_learner`.
        model: the whole network that it trains.
        recipe: resolved.
        folder: where checkpoint.pt goes; None writes none.
        observer: told of progress.
        stop: once it is set, the run writes a checkpoint after the current batch and returns.
        checkpoint: of the run to resume, see `signsclf.training.callbacks.read_checkpoint`.
        pace: what the steps are estimated to take; None learns it from the first ones.
    """

    def __init__(
        self,
        learner: Learner,
        model: nn.Module,
        recipe: Recipe,
        folder: Path | None = None,
        *,
        observer: Observer | None = None,
        stop: threading.Event | None = None,
        checkpoint: dict[str, Any] | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.learner, self.recipe, self.checkpoint = learner, recipe, checkpoint
        self.observer, self.stop = observer or Observer(), stop or threading.Event()
        epochs = phases(recipe)
        self.frozen = len(epochs) == 2
        self.average = EMA(recipe.ema_decay) if recipe.ema_decay else None
        self.course = RunCallback(
            model,
            epochs,
            seed=recipe.seed,
            average=self.average,
            folder=folder,
            patience=recipe.patience,
            observer=self.observer,
            stop=self.stop,
            pace=pace,
        )
        if checkpoint is not None:
            self.course.restore(checkpoint)
            learner.dls.train.draws = checkpoint["draws"].numpy().copy()

    @property
    def seconds_left(self) -> float:
        """Seconds that the run will take, by its pace."""
        course = self.course
        n_batches = len(self.learner.dls.train)
        left = course.pace.left(course.n_epochs, n_batches, course.phase, course.start_epoch, course.start_batch)
        searches = course.lr is None and self.recipe.lr == AUTO_LR
        return left + (SEARCH_STEPS * course.pace.steps[-1] if searches else 0.0)

    def search(self) -> LrSearch | None:
        """Search the learning rate that `run` will use, where the recipe asks for it and no checkpoint has it.

        Returns:
            The search; None where there was none, or where it was stopped: then `run` returns at once, and makes it
            anew when the run is resumed.
        """
        course = self.course
        if course.lr is not None or self.stop.is_set():
            return None
        if self.recipe.lr != AUTO_LR:
            course.lr = float(self.recipe.lr)
            return None
        search = find_lr(self.learner, self.recipe, observer=self.observer, stop=self.stop)
        if self.stop.is_set():
            return None
        course.lr = search.suggestions["valley"] or search.suggestions["minimum"] or 1e-3
        return search

    def run(self) -> FitResult:
        """Train to the end, or until `stop` is set; without a rate, `search` comes first.

        Raises:
            ModelError: a checkpoint could not be written.
            DivergedError: the loss left all bounds.
        """
        course, learner = self.course, self.learner
        self.search()
        course.stopped = course.lr is None
        with (
            precision_callbacks(self.recipe) as precision,
            flushed_denormals(),
            learner.no_logging(),
            learner.removed_cbs(learner._grab_cbs(Recorder)),
        ):
            callbacks = [*precision, course, *([self.average] if self.average else [])]
            while course.phase < len(course.n_epochs) and not course.stopped:
                if course.n_epochs[course.phase]:
                    self._run_phase(callbacks)
                if course.failure is not None:
                    raise course.failure
                if not course.stopped:
                    course.phase += 1
                    course.start_epoch = course.start_batch = 0
        best = course.best or {"state": course.network.state_dict(), "epoch": 0}
        return FitResult(
            state=best["state"],
            best_epoch=best["epoch"],
            history=course.history,
            draws=learner.dls.train.draws,
            lr=course.lr,
            seconds=course.seconds,
            stopped=course.stopped,
        )

    def _run_phase(self, callbacks: list[Callback]) -> None:
        recipe, learner, course = self.recipe, self.learner, self.course
        head_only = self.frozen and course.phase == 0
        learner.opt = None
        # Both make the optimizer and clear its state, so what a checkpoint holds of it comes after.
        if head_only:
            learner.freeze()
        else:
            learner.unfreeze()
        if self.checkpoint is not None and self.checkpoint["optimizer"] is not None:
            restore_optimizer(learner.opt, self.checkpoint["optimizer"], learner.dls.device)
        self.checkpoint = None
        after_head = self.frozen and course.phase == 1
        # A linear head on frozen features bears a higher rate than the network does afterwards.
        top = 2 * course.lr if head_only else course.lr / 2 if after_head else course.lr
        one_rate = head_only or recipe.lr_ratio == 1
        learner.fit_one_cycle(
            course.n_epochs[course.phase],
            lr_max=top if one_rate else slice(top / recipe.lr_ratio, top),
            pct_start=0.3 if self.frozen else 0.25,
            div=5.0 if self.frozen else 25.0,
            start_epoch=course.start_epoch,
            cbs=callbacks,
        )


class _EndOfSearch(Callback):
    """Ends the search on request, and when the loss is NaN: fastai compares losses, which is never true of NaN."""

    order = 61

    def __init__(self, n_rates: int, observer: Observer, stop: threading.Event) -> None:
        self.n_rates, self.observer, self.stop = n_rates, observer, stop

    def after_batch(self) -> None:
        if not self.training:
            return
        self.observer.progress("rates", min(self.train_iter, self.n_rates), self.n_rates)
        if self.stop.is_set() or not torch.isfinite(self.loss):
            raise CancelFitException()
