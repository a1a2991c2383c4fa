"""Fits a learner: learning-rate search, then one-cycle training of the head and all layers, resumable at any batch."""

from __future__ import annotations

import math
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback import progress  # noqa: F401 - gives learners no_bar()
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import LRFinder, minimum, slide, steep, valley
from fastai.learner import Learner, Recorder
from torch import nn

from signsclf.observer import Observer
from signsclf.recipe import AUTO_LR, Recipe
from signsclf.training.callbacks import EMA, Position, RunControl, SeededBatches
from signsclf.training.checkpoint import restore_optimizer
from signsclf.training.distributed import Share
from signsclf.training.loaders import EpochBatches, mix_seed
from signsclf.training.pace import SEARCH_STEPS, Pace
from signsclf.training.precision import flushed_denormals
from signsclf.training.sharded import step_callbacks

# Phases 0 and 1 train; the search samples its own batches.
_SEARCH_PHASE = 1_000
# With fewer points fastai's methods return an end point of the curve, which means nothing.
_FEWEST_POINTS = 10


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The result of a training.

    Attributes:
        state: the kept weights under the architecture's own names: of the last epoch, or with the recipe's
            ``patience`` of the best by macro-F1 on validation images.
        best_epoch: which epoch they are of, counted from 1 over all phases; None where it is not known.
        history: a row an epoch.
        samples: images of each class trained on over all epochs, int64 (C,).
        lr: the highest learning rate that was used; None where there was none or it is not known.
        seconds: of training, over all parts of a resumed run.
        stopped: whether it was interrupted and wants ``--resume``.
    """

    state: dict[str, torch.Tensor]
    best_epoch: int | None
    history: list[dict[str, Any]]
    samples: np.ndarray
    lr: float | None
    seconds: float
    stopped: bool


def find_lr(
    learner: Learner,
    recipe: Recipe,
    n_rates: int = SEARCH_STEPS,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
    share: Share | None = None,
) -> LrSearch:
    """Train on rising rates from 1e-7 to 10, then put the weights back as they were.

    Args:
        observer: told of progress.
        stop: the search ends after the step in which it is set.
        share: see `Fit`.
    """
    torch.manual_seed(mix_seed(recipe.seed, _SEARCH_PHASE))
    stop = stop or threading.Event()
    guard = _SearchGuard(n_rates, observer or Observer(), stop, share)
    path = learner.path
    with (
        tempfile.TemporaryDirectory() as folder,
        learner.no_bar(),
        learner.no_logging(),
        step_callbacks(recipe, share, stop) as step,
    ):
        learner.path = Path(folder)
        callbacks = [*step, guard, LRFinder(1e-7, 10, n_rates)]
        try:
            learner.fit(n_rates // max(1, len(learner.dls.train)) + 1, cbs=callbacks)
        finally:
            learner.path = path
    learner.opt = None
    lrs, losses = list(learner.recorder.lrs), [float(loss) for loss in learner.recorder.losses]
    tried = len(losses)
    finite = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), tried)
    lrs, losses = [float(lr) for lr in lrs[:finite]], losses[:finite]
    return LrSearch(
        lrs=lrs, losses=losses, suggestions=suggest(lrs, losses, n_rates), diverged_early=tried < n_rates // 2
    )


def suggest(lrs: list[float], losses: list[float], n_rates: int) -> dict[str, float | None]:
    """Give fastai's four suggestions from a search's curve, None for one that the curve does not support.

    The noisy start and the diverging end are left out as fastai does, where enough points remain.
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
    """Give the epochs of each phase: of the head alone first, where there are any, then of all layers."""
    if recipe.freeze_epochs and recipe.weights != "none":
        return recipe.freeze_epochs, recipe.epochs
    return (recipe.freeze_epochs + recipe.epochs,)


class Fit:
    """A training run on a learner.

    Args:
        learner: see `signsclf.training.learner.build_learner`; its own history takes the run's epochs.
        model: the whole network that it trains.
        recipe: resolved.
        folder: where checkpoint.pt goes; None writes none.
        observer: told of progress.
        stop: once it is set, the run writes a checkpoint after the current batch and returns.
        checkpoint: of the run to resume, see `signsclf.training.checkpoint.read_checkpoint`.
        pace: what the steps are estimated to take; None learns it from the first ones.

    Attributes:
        share: the micro-batches of each batch that are computed here; None, as it is at first, computes whole batches.
    """

    share: Share | None = None

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
        self.position, self.n_epochs = Position(), phases(recipe)
        self.ema = EMA(recipe.ema_decay) if recipe.ema_decay else None
        self.control = RunControl(
            model,
            self.n_epochs,
            self.position,
            history=learner.epoch_history,
            ema=self.ema,
            folder=folder,
            patience=recipe.patience,
            pace=pace,
        )
        self.control.observer, self.control.stop = self.observer, self.stop
        if checkpoint is not None:
            self.control.restore(checkpoint)

    @property
    def has_head_phase(self) -> bool:
        """Whether the head trains alone first."""
        return len(self.n_epochs) == 2

    @property
    def seconds_left(self) -> float:
        """Seconds that the run will take, by its pace."""
        at, pace, n_batches = self.position, self.control.pace, len(self.learner.dls.train)
        left = pace.left(self.n_epochs, n_batches, at.phase, at.epoch, at.batch)
        searches = self.control.lr is None and self.recipe.lr == AUTO_LR
        return left + (SEARCH_STEPS * pace.steps[-1] if searches else 0.0)

    def search(self) -> LrSearch | None:
        """Search the learning rate that `run` will use, where the recipe asks for it and no checkpoint has it.

        Returns:
            The search; None where there was none, or where it was stopped: then `run` returns at once, and a
            resumed run searches again.
        """
        control = self.control
        if control.lr is not None or self.stop.is_set():
            return None
        if self.recipe.lr != AUTO_LR:
            control.lr = float(self.recipe.lr)
            return None
        search = find_lr(self.learner, self.recipe, observer=self.observer, stop=self.stop, share=self.share)
        if self.stop.is_set():
            return None
        control.lr = search.suggestions["valley"] or search.suggestions["minimum"] or 1e-3
        return search

    def run(self) -> FitResult:
        """Train to the end, or until `stop` is set; without a rate, `search` comes first.

        Raises:
            ModelError: a checkpoint could not be written.
            DivergedError: the loss left all bounds.
        """
        control, learner, at = self.control, self.learner, self.position
        self.search()
        control.stopped = control.lr is None
        recorders = [callback for callback in learner.cbs if isinstance(callback, Recorder)]
        with (
            step_callbacks(self.recipe, self.share, self.stop) as step,
            flushed_denormals(),
            learner.no_bar(),
            learner.no_logging(),
            # It waits for the device after every batch.
            learner.removed_cbs(recorders),
        ):
            own = [SeededBatches(at, self.recipe.seed, self.share), control, *([self.ema] if self.ema else [])]
            while at.phase < len(self.n_epochs) and not control.stopped:
                if self.n_epochs[at.phase]:
                    self._run_phase([*step, *own])
                if control.failure is not None:
                    raise control.failure
                if not control.stopped:
                    at.phase, at.epoch, at.batch = at.phase + 1, 0, 0
        best = control.best or {"state": control.network.state_dict(), "epoch": 0}
        return FitResult(
            state=best["state"],
            best_epoch=best["epoch"],
            history=control.history.rows,
            samples=control.history.samples.cpu().numpy(),
            lr=control.lr,
            seconds=control.seconds,
            stopped=control.stopped,
        )

    def _run_phase(self, callbacks: list[Callback]) -> None:
        recipe, learner, at, lr = self.recipe, self.learner, self.position, self.control.lr
        head_only = self.has_head_phase and at.phase == 0
        learner.opt = None
        # Both make the optimizer and clear its state, so the checkpoint's is loaded after them.
        if head_only:
            learner.freeze()
        else:
            learner.unfreeze()
        if self.checkpoint is not None and self.checkpoint["optimizer"] is not None:
            restore_optimizer(learner.opt, self.checkpoint["optimizer"], learner.dls.device)
        self.checkpoint = None
        after_head = self.has_head_phase and at.phase == 1
        # A linear head on frozen features bears a higher rate than the network does afterwards.
        top = 2 * lr if head_only else lr / 2 if after_head else lr
        one_rate = head_only or recipe.lr_ratio == 1
        learner.fit_one_cycle(
            self.n_epochs[at.phase],
            lr_max=top if one_rate else slice(top / recipe.lr_ratio, top),
            pct_start=0.3 if self.has_head_phase else 0.25,
            div=5.0 if self.has_head_phase else 25.0,
            start_epoch=at.epoch,
            cbs=callbacks,
        )


class _SearchGuard(Callback):
    """Gives a search its own batches; ends it on request, and when the loss is NaN, which fastai's comparisons miss."""

    order = 61

    def __init__(self, n_rates: int, observer: Observer, stop: threading.Event, share: Share | None) -> None:
        self.n_rates, self.observer, self.stop, self.share = n_rates, observer, stop, share

    def before_train(self) -> None:
        self.learn.dl = EpochBatches(loader=self.dls.train, phase=_SEARCH_PHASE, epoch=0, share=self.share)

    def after_batch(self) -> None:
        if not self.training:
            return
        self.observer.progress("rates", min(self.train_iter, self.n_rates), self.n_rates)
        if self.stop.is_set() or not torch.isfinite(self.loss):
            raise CancelFitException()
