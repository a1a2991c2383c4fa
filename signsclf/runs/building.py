"""Builds what a training needs from what was prepared: network, loaders, and the fits without torch's gradients."""

from __future__ import annotations

import threading

import numpy as np
import torch
from fastai.data.core import DataLoaders
from torch import nn

from signsclf.data.gtsrb import class_names_mirror
from signsclf.export.onnx import torch_logits
from signsclf.observer import Observer
from signsclf.recipe import Flip, Solver
from signsclf.runs.prepare import Plan, Prepared, training_rows
from signsclf.training import architectures
from signsclf.training.augment import STRENGTHS, BatchAugment
from signsclf.training.direct import DirectFit, LeastSquares, NumpyFit
from signsclf.training.fit import Fit, FitResult
from signsclf.training.learner import build_learner
from signsclf.training.loaders import LoaderConfig, SourceRows, dataloaders, mix_seed
from signsclf.training.probe import ProbeData, ProbeFit

_CHUNK = 1_024


def build_network(planned: Plan, observer: Observer, fresh: bool = True) -> nn.Module:
    """Build the network of a plan at its seed; where ``fresh``, with the weights that training starts from.

    Raises:
        SignsclfError: the recipe's size does not suit it.
        ModelError: the weights cannot be had or do not fit.
    """
    recipe, arch, classes = planned.recipe, planned.arch, planned.source.classes
    torch.manual_seed(mix_seed(recipe.seed))
    model = architectures.create(arch, len(classes), recipe.size)
    architectures.refuse_size(model, arch, recipe.size)
    if fresh:
        told = architectures.load_weights(model, arch, len(classes), recipe.weights, classes)
        observer.say(f"start: {told}")
    return model


def build_loaders(prepared: Prepared) -> DataLoaders:
    """Make the training and the validation loader."""
    recipe, classes = prepared.recipe, prepared.source.classes
    mirror = None
    if recipe.flip is Flip.MAP:
        index = {name: i for i, name in enumerate(classes)}
        mirror = np.array([index.get(class_names_mirror().get(name, ""), -1) for name in classes])
    labels, train_rows, rendered = training_rows(prepared)
    render = None
    if rendered is not None:
        # Photographs never meet the renderer, not even its import.
        from signsclf.training.synthetic import render_batch as render
    paths = prepared.split.table["path"].tolist()
    rows = SourceRows(
        pixels=prepared.decoded.pixels,
        labels=labels,
        classes=classes,
        paths=paths + [""] * (len(labels) - len(paths)),
        rendered=rendered,
        render=render,
    )
    config = LoaderConfig(
        batch_size=recipe.batch_size,
        mean=prepared.arch.mean,
        std=prepared.arch.std,
        balance=recipe.balance,
        augment=BatchAugment(STRENGTHS[recipe.augment], recipe.flip, mirror, recipe.outliers or 0.0),
        device=recipe.device.value,
        seed=recipe.seed,
        epoch_images=recipe.epoch_images,
    )
    return dataloaders(rows, train_rows, prepared.split.rows("valid"), config)


def direct_fit(
    prepared: Prepared, loaders: DataLoaders, model: nn.Module, observer: Observer, stop: threading.Event
) -> DirectFit:
    """Make the fit of a network that is not trained by torch's gradients."""
    recipe, solver = prepared.recipe, prepared.plan.solver
    if solver is Solver.PROBE:
        return ProbeFit(loaders, model, recipe, data=_probe_data(prepared), observer=observer, stop=stop)
    kind = LeastSquares if solver is Solver.LEAST_SQUARES else NumpyFit
    return kind(loaders, model, recipe, observer=observer, stop=stop)


def start_head(
    prepared: Prepared, loaders: DataLoaders, model: nn.Module, observer: Observer, stop: threading.Event
) -> None:
    """Set the last layer of a network to a linear probe, from which all layers are trained (arXiv:2202.10054)."""
    # The images as they are: mirrored ones follow in the training.
    recipe = prepared.recipe.replace(weight_decay=None, flip=Flip.NEVER)
    ProbeFit(loaders, model, recipe, data=_probe_data(prepared), observer=observer, stop=stop).run()


def fit_apart(prepared: Prepared, observer: Observer, stop: threading.Event) -> tuple[FitResult, np.ndarray]:
    """Train a network of its own, without a checkpoint, and give its logits of the validation images, float32 (N, C).

    A training that is stopped has none.
    """
    model, loaders = build_network(prepared.plan, Observer()), build_loaders(prepared)
    if prepared.plan.solver is Solver.GRADIENT:
        if prepared.recipe.probe_first:
            start_head(prepared, loaders, model, Observer(), stop)
        learner = build_learner(loaders, model, prepared.arch, prepared.recipe)
        found = Fit(learner, model, prepared.recipe, observer=observer, stop=stop).run()
    else:
        found = direct_fit(prepared, loaders, model, observer, stop).run()
    rows, pixels = prepared.split.rows("valid"), prepared.decoded.pixels
    if found.stopped:
        return found, np.zeros((0, len(prepared.classes)), np.float32)
    model.load_state_dict(found.state)
    model.cpu()
    starts = range(0, len(rows), _CHUNK)
    return found, np.concatenate([torch_logits(model, prepared.arch, pixels[rows[i : i + _CHUNK]]) for i in starts])


def _probe_data(prepared: Prepared) -> ProbeData:
    groups = prepared.split.table["group"]
    named = [f"image {row}" if group is None else group for row, group in enumerate(groups)]
    folder = prepared.cache.folder if prepared.cache is not None else None
    return ProbeData(inputs=prepared.decoded.inputs, groups=named, folder=folder)
