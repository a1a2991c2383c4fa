"""What an epoch of training ends in: its figures, and the callback that collects them."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from fastai.callback.core import Callback
from torch import nn

from signsclf.errors import DivergedError
from signsclf.metrics.classification import confusion, macro_f1


class EpochHistory(Callback):
    """Counts samples, sums the training loss and evaluates the validation images: one row of history.csv an epoch.

    Learning-rate searches and inference leave it as it is, as fastai's own trackers do.

    Attributes:
        rows: of all fits, in order.
        samples: images of each class trained on, as their targets say, int64 (C,).
        loss_sum, loss_count: of the current epoch's training images so far.
    """

    order = 62

    def __init__(self, n_classes: int) -> None:
        self.rows: list[dict[str, Any]] = []
        self.samples = torch.zeros(n_classes, dtype=torch.int64)
        self.loss_sum, self.loss_count = 0.0, 0
        self.is_open = False

    @property
    def loss(self) -> float:
        """Mean training loss of the epoch so far."""
        return float(self.loss_sum) / max(1, self.loss_count)

    def before_fit(self) -> None:
        self.run = not hasattr(self.learn, "lr_finder") and not hasattr(self.learn, "gather_preds")
        self.samples = self.samples.to(self.dls.device)

    def before_train(self) -> None:
        # A resumed epoch has its first batches behind it, and their loss.
        if not getattr(self.dl, "first", 0):
            self.loss_sum, self.loss_count = 0.0, 0
        self.is_open, self.began = True, time.monotonic()

    def before_validate(self) -> None:
        self.outputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def after_loss(self) -> None:
        if not self.training and self.is_open:
            self.outputs.append((self.pred.detach().cpu(), self.yb[0].cpu()))

    def after_batch(self) -> None:
        if not self.training:
            return
        targets = self.yb[0]
        # Summed where it is, so that no batch waits for the device; in fp32, as Apple's GPUs have no float64.
        self.loss_sum = self.loss_sum + self.learn.loss.detach().float() * len(targets)
        self.loss_count += len(targets)
        if targets.dtype == torch.int64:
            # Outliers are of no class.
            self.samples.scatter_add_(0, targets.clamp_min(0), (targets >= 0).long())

    def after_validate(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self.rows.append(
            {
                "epoch": len(self.rows) + 1,
                "phase": "head" if self.opt.frozen_idx else "all",
                "lr": float(self.opt.hypers[-1]["lr"]),
                "train_loss": self.loss,
                **evaluated(self.outputs),
                "seconds": round(time.monotonic() - self.began, 2),
            }
        )


def diverged(loss: float, n_classes: int, whole_epoch: bool) -> bool:
    """Say whether a mean loss shows that training has left all bounds.

    Guessing has a loss of ln(classes). The first steps may well exceed that; a whole epoch at a hundred times it does
    not recover.
    """
    bound = 100 * max(1.0, math.log(max(2, n_classes)))
    return not math.isfinite(loss) or loss > (bound if whole_epoch else 1e4 * bound)


def divergence(loss: float, epoch: int, lr: float | None) -> DivergedError:
    """Make the error of a training that diverged; it names a lower rate."""
    rate = "" if not lr else f" at --lr {lr:g}"
    lower = "a lower --lr" if not lr else f"--lr {lr / 10:g}"
    return DivergedError(
        f"the training diverged: the loss is {loss:.3g} in epoch {epoch}{rate}; start anew with {lower} --overwrite"
    )


def evaluated(outputs: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float | None]:
    """Compute an epoch's figures from batches of logits (n, C) and targets (n,); each None without batches."""
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
    """Score an epoch for early stopping: by macro-F1, then by the lower loss, since small sets often end in ties.

    None without validation images.
    """
    return None if row["macro_f1"] is None else [row["macro_f1"], -row["valid_loss"]]
