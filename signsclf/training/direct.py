"""Fits without torch's gradients, by least squares or in NumPy, over the batches of `Fit` and with its result."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from fastai.callback.schedule import combined_cos
from fastai.data.core import DataLoaders
from torch import nn

from signsclf.errors import SignsclfError
from signsclf.observer import BatchDone, EpochDone, Observer
from signsclf.recipe import Recipe
from signsclf.training import numpy_mlp
from signsclf.training.epochs import diverged, divergence, epoch_score, evaluated
from signsclf.training.fit import FitResult

_TELL_SECONDS = 0.25


class DirectFit(ABC):
    """Base of the fits without torch's gradients: batches, evaluation, the kept weights, stopping on request.

    There is no checkpoint: a resumed run starts from the beginning, and ends the same.

    Args:
        loaders: see `signsclf.training.loaders.dataloaders`; on the CPU.
        model: the network whose weights are fitted, in place.
        recipe: resolved.
        observer: told of progress.
        stop: once it is set, the run returns after the current batch.
    """

    def __init__(
        self,
        loaders: DataLoaders,
        model: nn.Sequential,
        recipe: Recipe,
        *,
        observer: Observer | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.loaders, self.model, self.recipe = loaders, model, recipe
        self.observer, self.stop = observer or Observer(), stop or threading.Event()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.samples = np.zeros(loaders.c, np.int64)
        self.began = time.monotonic()

    def run(self) -> FitResult:
        """Train to the end, or until `stop` is set.

        Raises:
            DivergedError: the loss left all bounds.
            SignsclfError: least squares found no solution.
        """
        self.began = time.monotonic()
        lr = self._fit()
        best = self.best or {"state": self.model.state_dict(), "epoch": 0}
        return FitResult(
            state=best["state"],
            best_epoch=best["epoch"],
            history=self.history,
            samples=self.samples,
            lr=lr,
            seconds=time.monotonic() - self.began,
            stopped=self.stop.is_set(),
        )

    @abstractmethod
    def _fit(self) -> float | None:
        """Fit the model and evaluate it; return the highest learning rate."""

    def _batches(self, epoch: int, losses: list[float]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield an epoch's images (n, 3·H·W) and targets (n, C), one-hot or smoothed; end early on `stop`."""
        loader, smoothing = self.loaders.train, self.recipe.label_smoothing
        began, told = time.monotonic(), 0.0
        for number, (x, y) in enumerate(loader.batches(0, epoch), 1):
            if self.stop.is_set():
                return
            one_hot = nn.functional.one_hot(y, self.loaders.c).float()
            self.samples += np.bincount(y, minlength=len(self.samples))
            yield x.flatten(1), one_hot * (1 - smoothing) + smoothing / self.loaders.c
            now = time.monotonic()
            if now - told > _TELL_SECONDS:
                told = now
                rate = number / max(now - began, 1e-9)
                left = (self.recipe.epochs - epoch) * len(loader) - number
                loss = float(np.mean(losses)) if losses else 0.0
                self.observer.batch_done(
                    BatchDone(
                        epoch=epoch + 1,
                        n_epochs=self.recipe.epochs,
                        batch=number,
                        n_batches=len(loader),
                        loss=loss,
                        images_per_second=rate * loader.bs,
                        seconds_left=left / rate,
                    )
                )

    @torch.inference_mode()
    def _outputs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Give logits (n, C) and targets (n,) of the validation images, batch by batch."""
        return [(self.model(x), y) for x, y in self.loaders.valid]

    def _evaluate(self, lr: float | None, train_loss: float, began: float, n_rows: int) -> None:
        """Add one of ``n_rows`` rows to the history; keep the weights, with patience if they are the best so far."""
        row = {
            "epoch": len(self.history) + 1,
            "phase": "all",
            "lr": lr,
            "train_loss": train_loss,
            **evaluated(self._outputs()),
            "seconds": round(time.monotonic() - began, 2),
        }
        score = epoch_score(row)
        if not self.recipe.patience or self.best is None or score is None or score > self.best["score"]:
            state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.best = {"epoch": row["epoch"], "score": score, "state": state}
        self.history.append(row)
        left = (n_rows - row["epoch"]) * row["seconds"]
        self.observer.epoch_done(EpochDone(row=row, n_epochs=n_rows, seconds_left=left))


class LeastSquares(DirectFit):
    """Ridge regression of the targets on the pixels (Hoerl and Kennard 1970), solved from the normal equations.

    These are summed batch by batch, so that memory depends on the pixels of an image and not on the number of images:
    (3·H·W)² numbers of 8 bytes, twice. The intercept is not penalised.
    """

    def _fit(self) -> None:
        began = time.monotonic()
        n_inputs, n_classes, n = self.model.fc.in_features, self.loaders.c, 0
        xx, xy = (
            torch.zeros(n_inputs, n_inputs, dtype=torch.double),
            torch.zeros(n_inputs, n_classes, dtype=torch.double),
        )
        x_sum, y_sum, y_squares = torch.zeros(n_inputs).double(), torch.zeros(n_classes).double(), 0.0
        for epoch in range(self.recipe.epochs):
            for x, y in self._batches(epoch, []):
                x, y = x.double(), y.double()
                xx.addmm_(x.T, x)
                xy.addmm_(x.T, y)
                x_sum, y_sum, y_squares = x_sum + x.sum(0), y_sum + y.sum(0), y_squares + float((y * y).sum())
                n += len(x)
        if self.stop.is_set():
            return
        x_mean, y_mean = x_sum / n, y_sum / n
        # In place: the matrix is large, and its Cholesky factor is a second one.
        xx.div_(n).addr_(x_mean, x_mean, alpha=-1)
        xy.div_(n).addr_(x_mean, y_mean, alpha=-1)
        xx.diagonal().add_(max(self.recipe.weight_decay, 1e-9))
        try:
            weight = torch.cholesky_solve(xy, torch.linalg.cholesky(xx))
        except torch.linalg.LinAlgError as error:
            raise SignsclfError(
                f"--arch {self.recipe.arch}: least squares has no single solution on these images; "
                "give a --weight-decay of 0.01 or more"
            ) from error
        with torch.no_grad():
            self.model.fc.weight.copy_(weight.T)
            self.model.fc.bias.copy_(y_mean - x_mean @ weight)
        # The remaining mean squared error: |y|² minus what the fit explains, with the penalty.
        xx.diagonal().sub_(max(self.recipe.weight_decay, 1e-9))
        explained = 2 * (weight * xy).sum() - (weight * (xx @ weight)).sum()
        left = y_squares / n - float(y_mean @ y_mean) - float(explained)
        self._evaluate(None, left / n_classes, began, 1)


class NumpyFit(DirectFit):
    """Trains the perceptron by `signsclf.training.numpy_mlp`, on one cosine cycle of the learning rate."""

    def _fit(self) -> float:
        recipe, n_batches = self.recipe, len(self.loaders.train)
        # Views, so that NumPy updates the network's own weights.
        parameters = numpy_mlp.Parameters(*(p.detach().numpy() for p in self.model.parameters()))
        velocities = numpy_mlp.Parameters(*map(np.zeros_like, parameters))
        rate = combined_cos(0.25, recipe.lr / 25, recipe.lr, recipe.lr / 1e5)
        for epoch in range(recipe.epochs):
            began, losses, lr = time.monotonic(), [], 0.0
            for x, targets in self._batches(epoch, losses):
                x, targets = x.numpy(), targets.numpy()
                lr = float(rate((epoch * n_batches + len(losses)) / (recipe.epochs * n_batches)))
                hidden, logits = numpy_mlp.forward(parameters, x)
                loss, softmax = numpy_mlp.cross_entropy(logits, targets)
                gradients = numpy_mlp.backward(parameters, x, hidden, softmax, targets)
                numpy_mlp.update(parameters, gradients, velocities, lr, weight_decay=recipe.weight_decay)
                losses.append(loss)
                if diverged(loss, self.loaders.c, False):
                    raise divergence(loss, epoch + 1, recipe.lr)
            if diverged(float(np.mean(losses)) if losses else 0.0, self.loaders.c, True):
                raise divergence(float(np.mean(losses)), epoch + 1, recipe.lr)
            if self.stop.is_set() and len(losses) < n_batches:
                break
            self._evaluate(lr, float(np.mean(losses)), began, recipe.epochs)
            stale = len(self.history) - self.best["epoch"]
            if self.stop.is_set() or (recipe.patience and self.best["score"] is not None and stale >= recipe.patience):
                break
        return recipe.lr
