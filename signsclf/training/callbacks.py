"""fastai callbacks of a training run: averaged weights, seeded batches, and a run that can be stopped and resumed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback, CancelFitException
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from signsclf.errors import ModelError, SignsclfError
from signsclf.observer import BatchDone, EpochDone, Observer
from signsclf.training.checkpoint import plain_optimizer, write_checkpoint
from signsclf.training.distributed import Share
from signsclf.training.epochs import EpochHistory, diverged, divergence, epoch_score
from signsclf.training.fastai_internals import skip_batches
from signsclf.training.loaders import EpochBatches, mix_seed
from signsclf.training.pace import Pace


class EMA(Callback):
    """Exponential moving average of the weights, in place of them while an epoch is evaluated.

    Polyak and Juditsky 1992; the decay is lower over the first steps, so that the random start is forgotten.
    """

    order = 65
    run_valid = False

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow: list[torch.Tensor] = []

    def live(self) -> list[torch.Tensor]:
        """Give the tensors that are averaged: parameters and batch-norm statistics."""
        return [t.data for t in (*self.model.parameters(), *self.model.buffers()) if t.is_floating_point()]

    def before_fit(self) -> None:
        live = self.live()
        # Those of a checkpoint are on the CPU.
        self.shadow = [s.to(t.device) for s, t in zip(self.shadow or (t.clone() for t in live), live, strict=True)]

    def after_step(self) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        get_ema_multi_avg_fn(decay)(self.shadow, self.live(), self.steps)

    def before_validate(self) -> None:
        self._swap()

    def after_validate(self) -> None:
        self._swap()

    def _swap(self) -> None:
        for live, shadow in zip(self.live(), self.shadow, strict=True):
            kept = live.clone()
            live.copy_(shadow)
            shadow.copy_(kept)


@dataclass(kw_only=True)
class Position:
    """Where a run begins or resumes: the first batch that it trains on, all counted from 0."""

    phase: int = 0
    epoch: int = 0
    batch: int = 0


class SeededBatches(Callback):
    """Gives each epoch its own batches and each batch its own seed, from (seed, phase, epoch, batch) alone.

    Args:
        share: see `signsclf.training.loaders.RowLoader.batches`.
    """

    order = -5
    run_valid = False

    def __init__(self, position: Position, seed: int, share: Share | None = None) -> None:
        self.position, self.seed, self.share = position, seed, share

    def before_train(self) -> None:
        at = self.position
        self.first = at.batch if self.epoch == at.epoch else 0
        self.learn.dl = EpochBatches(
            loader=self.dls.train, phase=at.phase, epoch=self.epoch, first=self.first, share=self.share
        )
        skip_batches(self.learn, self.first)

    def before_batch(self) -> None:
        torch.manual_seed(mix_seed(self.seed, self.position.phase, self.epoch, self.first + self.iter))


class RunControl(Callback):
    """Keeps the last weights of a run (the best with patience), writes checkpoints, reports progress, and ends it.

    Everything that a later batch depends on is in the checkpoint, and all randomness derives from (seed, phase, epoch,
    batch), so that a resumed run on a CPU ends in the weights of the unbroken one, bit for bit.

    Args:
        model: the whole network, whose weights are kept under their own names.
        n_epochs: epochs of each phase.
        position: where it begins; shared with `SeededBatches`.
        history: of its epochs.
        ema: the averaged weights, or None.
        folder: where checkpoint.pt is written; None writes none.
        patience: epochs without a better score after which the last phase ends, and of which the best is kept; 0
            keeps the last: what is chosen on validation images has figures on them that flatter.
        pace: what the steps are estimated to take; None learns it from the first ones.

    Attributes:
        observer: told of batches and epochs.
        stop: once it is set, the run writes a checkpoint after the current batch and ends.
        checkpoint_seconds: a long epoch is interrupted for a checkpoint that often.
        failure: the error that ended the fit: fastai rewrites the message of an error that leaves a callback.
    """

    order = 63

    def __init__(
        self,
        model: nn.Module,
        n_epochs: tuple[int, ...],
        position: Position,
        *,
        history: EpochHistory,
        ema: EMA | None = None,
        folder: Path | None = None,
        patience: int = 0,
        pace: Pace | None = None,
    ) -> None:
        self.network, self.n_epochs, self.position = model, n_epochs, position
        self.history, self.ema, self.folder, self.patience = history, ema, folder, patience
        self.pace = pace or Pace([1.0] * len(n_epochs), 0.0)
        self.observer, self.stop, self.checkpoint_seconds = Observer(), threading.Event(), 300.0
        self.best: dict[str, Any] | None = None
        self.lr: float | None = None
        self.seconds = 0.0
        self.stopped = False
        self.failure: SignsclfError | None = None
        self.unreported: list[tuple[torch.Tensor, float]] = []
        self.scaler: dict[str, Any] | None = None

    def seconds_left(self, epoch: int, batch: int) -> float:
        """Estimate the seconds from this position in the current phase to the end."""
        return self.pace.left(self.n_epochs, self.n_batches, self.position.phase, epoch, batch)

    # -- the loop's events ---------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        if self.scaler is not None:
            # fastai's mixed precision has made a new one for this fit.
            self.learn.scaler.load_state_dict(self.scaler)
            self.scaler = None
        self.n_batches = len(self.dls.train)
        self.began = self.last_saved = time.monotonic()
        self.last_told = 0.0

    def before_train(self) -> None:
        self.step_began = time.monotonic()

    def after_batch(self) -> None:
        if not self.training:
            return
        done = self.dl.first + self.iter + 1
        self.unreported.append((self.loss.detach(), float(self.opt.hypers[-1]["lr"])))
        now = time.monotonic()
        self.pace.step(self.position.phase, now - self.step_began)
        self.step_began = now
        # Asked once: another thread may set it between two looks.
        stopping = self.stop.is_set()
        # Not every batch: reading the loss waits for the device.
        if now - self.last_told > 0.25 or done == self.n_batches or stopping:
            self.last_told = now
            self._refuse_divergence(done == self.n_batches)
            self._report_batch(done)
        if done < self.n_batches and (stopping or now - self.last_saved > self.checkpoint_seconds):
            self.save(self.position.phase, self.epoch, done)
            if stopping:
                self.stopped = True
                raise CancelFitException()

    def before_validate(self) -> None:
        self.valid_began = time.monotonic()

    def after_validate(self) -> None:
        row = self.history.rows[-1]
        score = epoch_score(row)
        if not self.patience or self.best is None or score is None or score > self.best["score"]:
            state = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
            self.best = {"epoch": row["epoch"], "score": score, "state": state}
        self.pace.validation(time.monotonic() - self.valid_began)

    def after_epoch(self) -> None:
        at = self.position
        if self.epoch < at.epoch or self.stopped:
            return
        self.seconds += time.monotonic() - self.began
        self.began = time.monotonic()
        last = self.epoch + 1 == self.n_epoch
        early = bool(self.patience) and not last and self._epochs_since_best() >= self.patience
        self.save(*((at.phase + 1, 0, 0) if last or early else (at.phase, self.epoch + 1, 0)))
        left = 0.0 if early else self.seconds_left(self.epoch + 1, 0)
        self.observer.epoch_done(EpochDone(row=self.history.rows[-1], n_epochs=sum(self.n_epochs), seconds_left=left))
        # A request to stop after the last epoch is ignored.
        self.stopped = self.stop.is_set() and not ((last or early) and at.phase + 1 == len(self.n_epochs))
        if self.stopped or early:
            raise CancelFitException()

    def _refuse_divergence(self, whole_epoch: bool) -> None:
        if diverged(self.history.loss, self.dls.c, whole_epoch):
            self.failure = divergence(self.history.loss, len(self.history.rows) + 1, self.lr)
            raise CancelFitException()

    def _epochs_since_best(self) -> int:
        if self.position.phase + 1 < len(self.n_epochs) or self.best is None or self.best["score"] is None:
            return 0
        return len(self.history.rows) - max(self.best["epoch"], sum(self.n_epochs[:-1]) + 1)

    def _report_batch(self, done: int) -> None:
        losses, rates = zip(*self.unreported, strict=True)
        self.unreported.clear()
        self.observer.batch_done(
            BatchDone(
                epoch=len(self.history.rows) + 1,
                n_epochs=sum(self.n_epochs),
                batch=done,
                n_batches=self.n_batches,
                loss=self.history.loss,
                images_per_second=self.dls.train.bs / max(self.pace.steps[self.position.phase], 1e-9),
                seconds_left=self.seconds_left(self.epoch, done),
                losses=tuple(torch.stack(losses).tolist()),
                rates=rates,
            )
        )

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def save(self, phase: int, epoch: int, batch: int) -> None:
        """Write checkpoint.pt whole, or keep the last one; a resumed run begins at (phase, epoch, batch)."""
        self.last_saved = time.monotonic()
        if self.folder is None:
            return
        within = epoch > 0 or batch > 0
        scaler = getattr(self.learn, "scaler", None)
        state = {
            "position": [phase, epoch, batch],
            "model": self.network.state_dict(),
            "average": None if self.ema is None else {"steps": self.ema.steps, "shadow": self.ema.shadow},
            "optimizer": plain_optimizer(self.opt) if within else None,
            "scaler": scaler.state_dict() if within and scaler is not None else None,
            "best": self.best,
            "history": self.history.rows,
            "samples": self.history.samples.cpu(),
            "loss": [float(self.history.loss_sum), self.history.loss_count],
            "seconds": self.seconds + (time.monotonic() - self.began),
            "lr": self.lr,
            "threads": torch.get_num_threads(),
        }
        try:
            write_checkpoint(self.folder, state)
        except ModelError as error:
            self.failure = error
            raise CancelFitException() from error

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint holds, but for the optimizer, which is made when its phase begins.

        Raises:
            ModelError: it is of another network.
        """
        try:
            self.network.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ModelError("the checkpoint is not of the recipe's network; start the training anew") from error
        self.position.phase, self.position.epoch, self.position.batch = state["position"]
        if self.ema is not None and state["average"] is not None:
            self.ema.steps = state["average"]["steps"]
            self.ema.shadow = [tensor.clone() for tensor in state["average"]["shadow"]]
        self.best, self.lr, self.seconds = state["best"], state["lr"], state["seconds"]
        self.history.rows, self.history.samples = state["history"], state["samples"]
        self.history.loss_sum, self.history.loss_count = state["loss"]
        self.scaler = state.get("scaler")
