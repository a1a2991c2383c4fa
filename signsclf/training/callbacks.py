"""fastai callbacks: averaged weights, judging an epoch, and the run that can be broken and resumed."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastcore.foundation import L
from torch import nn

from signsclf.errors import DivergedError, ModelError, SignsclfError
from signsclf.metrics.classification import confusion, macro_f1
from signsclf.model.folder import CHECKPOINT
from signsclf.observer import BatchDone, EpochDone, Observer
from signsclf.training.loaders import mix_seed
from signsclf.training.pace import Pace

CHECKPOINT_VERSION = 1
_KEYS = {"position", "model", "average", "optimizer", "best", "history", "draws", "loss", "seconds", "lr"}


class EMA(Callback):
    """Exponential moving average of the weights, in place of them while an epoch is judged.

    Polyak and Juditsky 1992; the decay is lower over the first steps, so that the random start is forgotten.
    """

    order = 65
    run_valid = False

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow: list[torch.Tensor] = []

    def live(self) -> list[torch.Tensor]:
        """The tensors that are averaged: parameters and batch-norm statistics."""
        return [t.data for t in (*self.model.parameters(), *self.model.buffers()) if t.is_floating_point()]

    def before_fit(self) -> None:
        live = self.live()
        # A checkpoint's are read onto the processor.
        self.shadow = [s.to(t.device) for s, t in zip(self.shadow or (t.clone() for t in live), live, strict=True)]

    def after_step(self) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.shadow, self.live(), 1 - decay)

    def swap(self) -> None:
        """Exchanges the network's weights with the averaged ones."""
        for live, shadow in zip(self.live(), self.shadow, strict=True):
            kept = live.clone()
            live.copy_(shadow)
            shadow.copy_(kept)


class RunCallback(Callback):
    """A training run: seeds each batch, judges each epoch, keeps the best weights, writes checkpoints, stops on demand.

    Everything that a later batch depends on is in the checkpoint, and all randomness derives from (seed, phase, epoch,
    batch), so that a resumed run on a CPU ends in the weights of the unbroken one, bit for bit.

    Args:
        model: the whole network, whose weights are kept under their own names.
        n_epochs: epochs of each phase.
        average: the averaged weights, or None.
        folder: where checkpoint.pt is written; None writes none (learning-rate search, tests).
        patience: epochs without a better score after which the last phase ends; 0 never.
        observer: told of batches and epochs.
        stop: once it is set, the run writes a checkpoint after the current batch and ends.
        pace: what the steps are estimated to take; None learns it from the first ones.

    Attributes:
        checkpoint_seconds: a long epoch is interrupted for a checkpoint that often.
    """

    order = 62

    def __init__(
        self,
        model: nn.Module,
        n_epochs: tuple[int, ...],
        *,
        seed: int,
        average: EMA | None,
        folder: Path | None,
        patience: int = 0,
        observer: Observer,
        stop: threading.Event,
        pace: Pace | None = None,
    ) -> None:
        self.network = model
        self.n_epochs = n_epochs
        self.seed, self.average, self.folder = seed, average, folder
        self.patience, self.observer, self.stop, self.checkpoint_seconds = patience, observer, stop, 300.0
        self.pace = pace or Pace([1.0] * len(n_epochs), 0.0)
        self.phase = self.start_epoch = self.start_batch = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.lr: float | None = None
        self.seconds = 0.0
        self.stopped = False
        self.failure: SignsclfError | None = None
        self.loss_sum, self.loss_count = 0.0, 0
        self.scaler: dict[str, Any] | None = None

    # -- position ------------------------------------------------------------------------------------------------

    @property
    def epochs_done(self) -> int:
        """Epochs of earlier phases, and of this one."""
        return sum(self.n_epochs[: self.phase]) + (self.epoch if self.learn is not None else 0)

    def before_fit(self) -> None:
        if self.scaler is not None:
            # fastai's mixed precision has made a new one for this fit.
            self.learn.scaler.load_state_dict(self.scaler)
            self.scaler = None
        self.began = self.last_saved = time.monotonic()
        self.last_told = 0.0

    def before_train(self) -> None:
        loader = self.dls.train
        loader.phase, loader.epoch, loader.first_batch = self.phase, self.epoch, 0
        self.first_batch = 0
        if self.epoch == self.start_epoch and self.start_batch:
            self.first_batch, self.start_batch = self.start_batch, 0
            loader.first_batch = self.first_batch
            # fastai adds up the share done batch by batch: the same sum, or the schedule differs in the last bit.
            for _ in range(self.first_batch):
                self.learn.pct_train += 1.0 / (len(loader) * self.n_epoch)
        else:
            self.loss_sum, self.loss_count = 0.0, 0
        self.epoch_began = self.step_began = time.monotonic()

    def before_batch(self) -> None:
        if self.training:
            torch.manual_seed(mix_seed(self.seed, self.phase, self.epoch, self.first_batch + self.iter))

    def after_loss(self) -> None:
        if not self.training:
            self.outputs.append((self.pred.detach().cpu(), self.yb[0].cpu()))

    def after_batch(self) -> None:
        if not self.training:
            return
        done = self.first_batch + self.iter + 1
        # Summed where it is, so that no batch waits for the device; in fp32, as Apple's GPUs have no float64.
        self.loss_sum = self.loss_sum + self.loss.detach().float() * len(self.yb[0])
        self.loss_count += len(self.yb[0])
        now = time.monotonic()
        self.pace.step(self.phase, now - self.step_began)
        self.step_began = now
        # Not every batch: to tell the loss is to wait for the device.
        if now - self.last_told > 0.25 or done == len(self.dls.train):
            self.last_told = now
            self._refuse_divergence(done == len(self.dls.train))
            self._tell_batch(done)
        # Asked once: another thread may set it between two looks.
        stopping = self.stop.is_set()
        if done < len(self.dls.train) and (stopping or now - self.last_saved > self.checkpoint_seconds):
            self.save(self.phase, self.epoch, done)
            if stopping:
                self.stopped = True
                raise CancelFitException()

    def _refuse_divergence(self, whole_epoch: bool) -> None:
        """Ends the fit where the mean loss of the epoch so far is no number, or far beyond that of any guess."""
        loss = float(self.loss_sum) / max(1, self.loss_count)
        if not diverged(loss, self.dls.c, whole_epoch):
            return
        self.failure = divergence(loss, self.epochs_done + 1, self.lr)
        raise CancelFitException()

    # -- judging -------------------------------------------------------------------------------------------------

    def before_validate(self) -> None:
        self.outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.valid_began = time.monotonic()
        if self.average is not None:
            self.average.swap()

    def after_validate(self) -> None:
        row = {
            "epoch": self.epochs_done + 1,
            "phase": "head" if self.phase == 0 and len(self.n_epochs) > 1 else "all",
            "lr": float(self.opt.hypers[-1]["lr"]),
            "train_loss": float(self.loss_sum) / max(1, self.loss_count),
            **evaluated(self.outputs),
            "seconds": round(time.monotonic() - self.epoch_began, 2),
        }
        score = epoch_score(row)
        if self.best is None or score is None or score > self.best["score"]:
            state = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
            self.best = {"epoch": row["epoch"], "score": score, "state": state}
        if self.average is not None:
            self.average.swap()
        self.history.append(row)
        self.pace.validation(time.monotonic() - self.valid_began)

    def after_epoch(self) -> None:
        if self.epoch < self.start_epoch or self.stopped:
            return
        self.seconds += time.monotonic() - self.began
        self.began = time.monotonic()
        last = self.epoch + 1 == self.n_epoch
        early = bool(self.patience) and not last and self._stale() >= self.patience
        self.save(self.phase + 1 if last or early else self.phase, 0 if last or early else self.epoch + 1, 0)
        left = 0.0 if early else self._seconds_left(0, self.epoch + 1)
        self.observer.epoch_done(EpochDone(row=self.history[-1], n_epochs=sum(self.n_epochs), seconds_left=left))
        # A request to stop after the last epoch is ignored.
        self.stopped = self.stop.is_set() and not ((last or early) and self.phase + 1 == len(self.n_epochs))
        if self.stopped or early:
            raise CancelFitException()

    def _stale(self) -> int:
        if self.phase + 1 < len(self.n_epochs) or self.best is None or self.best["score"] is None:
            return 0
        return self.history[-1]["epoch"] - max(self.best["epoch"], sum(self.n_epochs[:-1]) + 1)

    def _tell_batch(self, done: int) -> None:
        self.observer.batch_done(
            BatchDone(
                epoch=self.epochs_done + 1,
                n_epochs=sum(self.n_epochs),
                batch=done,
                n_batches=len(self.dls.train),
                loss=float(self.loss_sum) / max(1, self.loss_count),
                images_per_second=self.dls.train.bs / max(self.pace.steps[self.phase], 1e-9),
                seconds_left=self._seconds_left(done, self.epoch),
            )
        )

    def _seconds_left(self, batch: int, epoch: int) -> float:
        return self.pace.left(self.n_epochs, len(self.dls.train), self.phase, epoch, batch)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def save(self, phase: int, epoch: int, batch: int) -> None:
        """Writes checkpoint.pt whole, or leaves the last one: what comes next is (phase, epoch, batch)."""
        self.last_saved = time.monotonic()
        if self.folder is None:
            return
        within = epoch > 0 or batch > 0
        scaler = getattr(self.learn, "scaler", None)
        state = {
            "version": CHECKPOINT_VERSION,
            "position": [phase, epoch, batch],
            "model": self.network.state_dict(),
            "average": None if self.average is None else {"steps": self.average.steps, "shadow": self.average.shadow},
            "optimizer": _plain_optimizer(self.opt) if within else None,
            "scaler": scaler.state_dict() if within and scaler is not None else None,
            "best": self.best,
            "history": self.history,
            "draws": torch.from_numpy(self.dls.train.draws),
            "loss": [float(self.loss_sum), self.loss_count],
            "seconds": self.seconds + (time.monotonic() - self.began),
            "lr": self.lr,
            "threads": torch.get_num_threads(),
        }
        try:
            write_checkpoint(self.folder, state)
        except ModelError as error:
            # fastai rewrites the message of an error that leaves a callback: `Fit` raises this one.
            self.failure = error
            raise CancelFitException() from error

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what a checkpoint holds, but for the optimizer, which is made when its phase begins.

        Raises:
            ModelError: it is of another network.
        """
        try:
            self.network.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ModelError("the checkpoint is not of the recipe's network; start the training anew") from error
        self.phase, self.start_epoch, self.start_batch = state["position"]
        if self.average is not None and state["average"] is not None:
            self.average.steps = state["average"]["steps"]
            self.average.shadow = [tensor.clone() for tensor in state["average"]["shadow"]]
        self.best, self.history = state["best"], state["history"]
        self.loss_sum, self.loss_count = state["loss"]
        self.seconds, self.lr = state["seconds"], state["lr"]
        self.scaler = state.get("scaler")


def diverged(loss: float, n_classes: int, whole_epoch: bool) -> bool:
    """Whether a mean loss tells that a training has left all bounds.

    A guess at equal odds has a loss of ln(classes). The first steps may well exceed that; a whole epoch at a hundred
    times it does not come back.
    """
    bound = 100 * max(1.0, math.log(max(2, n_classes)))
    return not math.isfinite(loss) or loss > (bound if whole_epoch else 1e4 * bound)


def divergence(loss: float, epoch: int, lr: float | None) -> DivergedError:
    """The error of a training that diverged."""
    rate = "" if not lr else f" at --lr {lr:g}"
    lower = "a lower --lr" if not lr else f"--lr {lr / 10:g}"
    return DivergedError(
        f"the training diverged: the loss is {loss:.3g} in epoch {epoch}{rate}; start anew with {lower} --overwrite"
    )


def evaluated(outputs: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float | None]:
    """A history row's figures from batches of logits (n, C) and targets (n,); each None where there are no batches."""
    if not outputs:
        return {"valid_loss": None, "accuracy": None, "macro_f1": None}
    logits, targets = (torch.cat(part) for part in zip(*outputs, strict=True))
    confused = confusion(targets.numpy(), logits.argmax(1).numpy(), logits.shape[1])
    return {
        "valid_loss": float(nn.functional.cross_entropy(logits, targets)),
        "accuracy": int(confused.n_right.sum()) / len(targets),
        "macro_f1": macro_f1(confused),
    }


def epoch_score(row: dict[str, Any]) -> list[float] | None:
    """What the best epoch has most of: macro-F1, then the lower loss, since small sets often end in ties.

    None without validation images: then nothing is chosen, and the last epoch stands.
    """
    return None if row["macro_f1"] is None else [row["macro_f1"], -row["valid_loss"]]


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes ``folder``/checkpoint.pt under another name first, so that the last good one outlives a full disk.

    Raises:
        ModelError: it could not be written.
    """
    target, new = folder / CHECKPOINT, folder / (CHECKPOINT + ".new")
    try:
        with new.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
    # torch wraps a full disk in a RuntimeError of its zip writer.
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        kept = "the last one is kept" if target.exists() else "there is none yet"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise ModelError(
            f"{target}: the checkpoint cannot be written ({reason}); {kept}; make room, then go on with --resume"
        ) from error


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint of a run, read with ``weights_only``: tensors and plain values, no code.

    Raises:
        ModelError: there is none, it is damaged, or of another version.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise ModelError(f"{folder}: no checkpoint.pt in it; nothing to resume, start the training anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Damaged zip, refused pickle: torch raises many kinds.
    except Exception as error:
        raise ModelError(f"{path}: damaged, or not a checkpoint of signsclf; start the training anew") from error
    if not isinstance(state, dict) or state.get("version") != CHECKPOINT_VERSION or not state.keys() >= _KEYS:
        raise ModelError(f"{path}: not a checkpoint of version {CHECKPOINT_VERSION}; start the training anew")
    return state


def _plain_optimizer(optimizer: Any) -> dict[str, Any]:
    """fastai's optimizer state with lists and Python numbers for fastcore's L and NumPy's scalars."""
    state = optimizer.state_dict()
    plain = [{k: float(v) if isinstance(v, np.floating) else v for k, v in h.items()} for h in state["hypers"]]
    return {"state": [dict(s) for s in state["state"]], "hypers": plain}


def restore_optimizer(optimizer: Any, state: dict[str, Any], device: torch.device) -> None:
    """Puts back what a checkpoint keeps of an optimizer, on the device that the fit will move the network to."""
    moved = [
        {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in entry.items()} for entry in state["state"]
    ]
    optimizer.load_state_dict({"state": moved, "hypers": L(state["hypers"])})
