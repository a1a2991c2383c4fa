"""A linear probe: the last layer alone is fitted, on the features of the network before it, which stays as it is.

The features of an image are computed once, and kept in the cache for later probes of the same images.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize
from torch import nn

from signsclf.data.split import folds
from signsclf.errors import SignsclfError
from signsclf.imagefiles.cachefolder import FEATURES, make_space
from signsclf.observer import Observer
from signsclf.recipe import Flip, Recipe
from signsclf.training.architectures import classifier_name
from signsclf.training.direct import DirectFit
from signsclf.training.loaders import class_weights

PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""L2 penalties that are tried where the recipe has no ``weight_decay``."""
_FOLDS = 3
_STEPS = 200
_CHUNK = 4_096
_HELD = 2**25
"""Features of so many numbers at most are standardised once, and not at every step."""


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """What a probe needs to know of the source's rows besides their pixels and labels.

    Attributes:
        inputs: `signsclf.data.pixels.digest` of each as the network sees it.
        groups: of each row: those of one group are never on both sides where a penalty is chosen.
        folder: of the cache that keeps the features; None keeps none.
    """

    inputs: Sequence[str]
    groups: Sequence[str]
    folder: Path | None = None


class ProbeFit(DirectFit):
    """Multinomial logistic regression with an L2 penalty on standardised features, solved by L-BFGS.

    Without a ``weight_decay`` in the recipe the penalty is the one with the lowest cross-entropy on held-out thirds of
    the training images, in whole groups. With ``flip`` always, mirrored images are trained on too.

    Args:
        data: of the rows of the loaders' source.

    Raises:
        SignsclfError: the network does not end in a linear layer.
    """

    def __init__(
        self,
        loaders: DataLoaders,
        model: nn.Module,
        recipe: Recipe,
        *,
        data: ProbeData,
        observer: Observer | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        super().__init__(loaders, model, recipe, observer=observer, stop=stop)
        self.data = data
        self.layer = model.get_submodule(classifier_name(model, loaders.c))
        if not isinstance(self.layer, nn.Linear) or self.layer.bias is None:
            raise SignsclfError(
                f"--arch {recipe.arch}: its last layer is not linear with a bias, so there is no probe; choose another"
            )

    def _fit(self) -> None:
        began, recipe = time.monotonic(), self.recipe
        train = self.loaders.train
        self.model.eval().to(recipe.device.value)
        # Of all images, whatever the split: another one, or another fold, finds them in the cache.
        self._plain = self._features(mirrored=False)
        views = [self._plain]
        if recipe.flip is Flip.ALWAYS:
            views.append(self._features(mirrored=True))
        self.model.cpu()
        if self.stop.is_set():
            return
        targets = train.source.targets[train.rows]
        counts = np.bincount(targets, minlength=self.loaders.c)
        self.samples += counts * len(views)
        weights = class_weights(counts, recipe.balance)[targets]
        task = _Task(views, train.rows, targets, weights, self.loaders.c, recipe.label_smoothing)
        penalty = recipe.weight_decay
        if penalty is None:
            penalty = self._chosen_penalty(task)
            self.observer.say(f"probe: an L2 penalty of {penalty:g} does best on held-out thirds of the images")
        solution = task.solve(penalty)
        with torch.no_grad():
            for own, found in zip((self.layer.weight, self.layer.bias), task.for_features(solution), strict=True):
                own.copy_(found)
        self._evaluate(None, task.loss(solution), began, 1)

    @torch.inference_mode()
    def _outputs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        valid = self.loaders.valid
        if not len(valid.rows):
            return []
        logits = self.layer(torch.from_numpy(self._plain[valid.rows]))
        return [(logits, torch.from_numpy(valid.source.targets[valid.rows]))]

    def _features(self, mirrored: bool) -> np.ndarray:
        """Give the features of all rows, float32 (n, features), from the cache where it has them."""
        folder = None if self.data.folder is None else self.data.folder / self._key(mirrored)
        if folder is not None:
            with contextlib.suppress(OSError, ValueError):
                found = np.load(folder / FEATURES, mmap_mode="r", allow_pickle=False)
                if found.shape == self._shape and found.dtype == np.float32:
                    return found
            # Row by row into a file, so that no number of images fills the memory.
            tmp = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
            try:
                make_space(folder.parent, 4 * len(self.data.inputs) * self.layer.in_features)
                tmp.mkdir()
                with (tmp / FEATURES).open("wb") as file:
                    about = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
                    np.lib.format.write_array_header_1_0(file, about)
                    for features in self._embedded(mirrored):
                        file.write(features.astype("<f4").tobytes())
                if self.stop.is_set():
                    return np.zeros((0, self.layer.in_features), np.float32)
                tmp.rename(folder)
                return np.load(folder / FEATURES, mmap_mode="r", allow_pickle=False)
            except OSError:
                # Full, read-only, or another process was first: the features are kept for this run alone.
                pass
            finally:
                shutil.rmtree(tmp, ignore_errors=True)
        return np.concatenate(list(self._embedded(mirrored)) or [np.zeros((0, self.layer.in_features), np.float32)])

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.data.inputs), self.layer.in_features

    @torch.inference_mode()
    def _embedded(self, mirrored: bool) -> Iterator[np.ndarray]:
        """Yield the features of all rows in order, float32 (N, features); fewer where it is stopped."""
        seen: list[torch.Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        done, n = 0, len(self.data.inputs)
        try:
            # Validation batches are whole and plain, whatever rows they are of.
            for x, _ in self.loaders.valid.in_order(np.arange(n)):
                if self.stop.is_set():
                    return
                self.model(x.flip(-1) if mirrored else x)
                yield seen.pop().float().cpu().numpy()
                done += len(x)
                self.observer.progress("computing features", done, n)
        finally:
            hook.remove()

    def _key(self, mirrored: bool) -> str:
        """Hash all that decides features: the network but for its last layer, the images, the device."""
        state = hashlib.blake2b(digest_size=16)
        last = set(map(id, self.layer.parameters()))
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if id(tensor) not in last:
                state.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        recipe = self.recipe
        normalizes = [f for f in self.loaders.valid.after_batch.fs if isinstance(f, Normalize)]
        stats = [(f.mean.flatten().tolist(), f.std.flatten().tolist()) for f in normalizes]
        about = (recipe.arch, recipe.size, recipe.device.value, torch.__version__, stats, mirrored)
        state.update(repr(about).encode())
        state.update("\n".join(self.data.inputs).encode())
        return state.hexdigest()

    def _chosen_penalty(self, task: _Task) -> float:
        rows = self.loaders.train.rows
        groups = np.array([self.data.groups[row] for row in rows], object)
        fold = folds(task.targets, groups, _FOLDS, self.recipe.seed)
        losses = np.zeros(len(PENALTIES))
        for held in range(1, _FOLDS + 1):
            if not (fold == held).any() or self.stop.is_set():
                continue
            solution = None
            for place, penalty in reversed(list(enumerate(PENALTIES))):
                solution = task.solve(penalty, fold != held, solution)
                losses[place] += task.loss(solution, fold == held) * (fold == held).sum()
        # The largest of equally good ones: with one group a class there is nothing to tell them apart.
        return PENALTIES[len(PENALTIES) - 1 - int(np.argmin(losses[::-1]))]


class _Task:
    """A weighted logistic regression on standardised features, in double precision, a chunk of images at a time.

    Args:
        views: of the same images, each float32 (N, features).
        rows: of the images that count, int (n,).
        targets: class of each of these, int (n,).
        weights: of each in the loss (n,).
        n_classes: C.
        smoothing: of the labels.
    """

    def __init__(
        self,
        views: list[np.ndarray],
        rows: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        n_classes: int,
        smoothing: float,
    ) -> None:
        self.views, self.rows, self.targets, self.n_classes = views, rows, targets, n_classes
        self.weights = torch.from_numpy(weights)
        one_hot = nn.functional.one_hot(torch.from_numpy(targets), n_classes).double()
        self.wanted = one_hot * (1 - smoothing) + smoothing / n_classes
        n = len(views) * len(targets)
        chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        self.mean = sum(view[chunk].sum(0, dtype=np.float64) for view in views for chunk in chunks) / n
        squares = sum(((view[chunk] - self.mean) ** 2).sum(0) for view in views for chunk in chunks)
        self.scale = np.sqrt(squares / n) + 1e-6
        self._held: list[torch.Tensor] = []
        if len(views) * len(rows) * len(self.mean) <= _HELD:
            self._held = [self._standardised(view, np.arange(len(rows))) for view in range(len(views))]

    def solve(self, penalty: float, rows: np.ndarray | None = None, start: torch.Tensor | None = None) -> torch.Tensor:
        """Fit the rows, all by default: (C, features + 1), the intercept last, which is not penalised."""
        solution = torch.zeros(self.n_classes, len(self.mean) + 1, dtype=torch.double) if start is None else start
        solution = solution.clone().requires_grad_()
        solver = torch.optim.LBFGS([solution], max_iter=_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            solver.zero_grad()
            total = 0.5 * penalty * (solution[:, :-1] ** 2).sum()
            total.backward()
            for part, share in self._losses(solution, rows):
                (part * share).backward()
                total = total + (part * share).detach()
            return total.detach()

        solver.step(closure)
        return solution.detach()

    def loss(self, solution: torch.Tensor, rows: np.ndarray | None = None) -> float:
        """Mean weighted cross-entropy of the rows, all by default."""
        with torch.no_grad():
            return sum(float(part) * share for part, share in self._losses(solution, rows))

    def for_features(self, solution: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give weight (C, features) and bias (C,) that do the same to features as they are."""
        weight = solution[:, :-1] / torch.from_numpy(self.scale)
        return weight.float(), (solution[:, -1] - weight @ torch.from_numpy(self.mean)).float()

    def _losses(self, solution: torch.Tensor, rows: np.ndarray | None) -> Iterator[tuple[torch.Tensor, float]]:
        """Yield the mean loss of each chunk and its share of the whole weight."""
        places = np.arange(len(self.targets)) if rows is None else np.flatnonzero(rows)
        whole = float(self.weights[places].sum()) * len(self.views)
        for view in range(len(self.views)):
            for start in range(0, len(places), _CHUNK):
                chunk = places[start : start + _CHUNK]
                x = self._held[view][chunk] if self._held else self._standardised(view, chunk)
                logits = x @ solution[:, :-1].T + solution[:, -1]
                losses = -(self.wanted[chunk] * logits.log_softmax(1)).sum(1)
                weight = self.weights[chunk]
                yield (losses * weight).sum() / weight.sum(), float(weight.sum()) / whole

    def _standardised(self, view: int, places: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((self.views[view][self.rows[places]] - self.mean) / self.scale)
