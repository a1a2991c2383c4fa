"""The loss that a network is trained by: of the labels, and of teachers where a recipe has some (distillation)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from torch import nn

from signsclf.recipe import Recipe
from signsclf.training.architectures import Architecture
from signsclf.training.outliers import NO_CLASS
from signsclf.training.teachers import Teachers, find_teachers

_OUTLIER_WEIGHT = 0.5


class CrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy of logits with what fastai asks a loss for: probabilities, decisions, and whole-number targets.

    fastai's own gives tensors of its type, whose every operation takes Python's time.

    Args:
        label_smoothing: part of the target that is spread over all classes.
        outliers: whether there are targets `NO_CLASS`.
    """

    y_int = True

    def __init__(self, label_smoothing: float = 0.0, outliers: bool = False) -> None:
        super().__init__(label_smoothing=label_smoothing)
        self.outliers = outliers

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, view: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the mean loss of logits (N, C) with targets (N,); the images themselves (``view``) do not count.

        That of an outlier is half the cross-entropy with all classes alike (arXiv:1812.04606).
        """
        if not self.outliers:
            return super().forward(logits, targets)
        losses = F.cross_entropy(
            logits, targets, ignore_index=NO_CLASS, label_smoothing=self.label_smoothing, reduction="none"
        )
        outside = -_OUTLIER_WEIGHT * logits.log_softmax(1).mean(1)
        return torch.where(targets == NO_CLASS, outside, losses).mean()

    def activation(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits (N, C) into probabilities."""
        return logits.softmax(-1)

    def decodes(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits or probabilities (N, C) into class indices (N,)."""
        return logits.argmax(-1)


class Distillation(CrossEntropy):
    """Cross-entropy with the labels, and with what teachers answer to the same batch.

    The loss is (1 - w) · cross-entropy + w · T² · KL(teachers at T, network at T) (Hinton, Vinyals and Dean 2015,
    arXiv:1503.02531, with the divergence in place of their cross-entropy, from which it differs by a constant); same
    view for both, and many epochs: Beyer et al. 2022, arXiv:2106.05237. T² keeps the gradient's size as T changes.

    Args:
        teachers: see `Teachers`.
        weight: w, 0 to 1.
        temperature: T, above 0.
        label_smoothing, outliers: of the labels' part, see `CrossEntropy`.
    """

    def __init__(
        self, teachers: Teachers, weight: float, temperature: float, label_smoothing: float, outliers: bool = False
    ) -> None:
        super().__init__(label_smoothing=label_smoothing, outliers=outliers)
        self.teachers, self.weight_of_teachers, self.temperature = teachers, weight, temperature

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the teachers out of an exported learner."""
        return partial(CrossEntropy, label_smoothing=self.label_smoothing), ()

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, view: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the loss of a batch; without a ``view``, as in validation, that of the labels alone."""
        hard = super().forward(logits, targets)
        if view is None:
            return hard
        expected = self.teachers(view, self.temperature)
        own = (logits / self.temperature).log_softmax(1)
        soft = self.temperature**2 * F.kl_div(own, expected, reduction="batchmean")
        return (1 - self.weight_of_teachers) * hard + self.weight_of_teachers * soft


class SameView(Callback):
    """Hands each training batch to the loss beside the targets, so that teachers answer to what the network sees."""

    run_valid = False

    def before_batch(self) -> None:
        self.learn.yb = (*self.yb, *self.xb)


def teaching(recipe: Recipe, arch: Architecture, classes: Sequence[str]) -> tuple[CrossEntropy, list[Callback]]:
    """Make the loss of a recipe, and the callbacks that it needs.

    Raises:
        ModelError: see `find_teachers`.
    """
    found, hard = find_teachers(recipe, classes), (recipe.label_smoothing, bool(recipe.outliers))
    if not found:
        return CrossEntropy(*hard), []
    teachers = Teachers(found, recipe, arch, classes)
    loss = Distillation(teachers, recipe.teacher_weight, recipe.teacher_temperature, *hard)
    return loss, [SameView()]
