"""Makes a model folder whole around a network's files: golden outputs, config.json, the card and SHA256SUMS."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from signsclf.export.golden import noise_images, store_golden
from signsclf.export.onnx import Parity, readers
from signsclf.inference.classifier import Classifier
from signsclf.model import folder as modelfolder
from signsclf.model.card import write_card
from signsclf.recipe import Recipe
from signsclf.runs.folder import ERROR_LOG
from signsclf.runs.prepare import Plan
from signsclf.text import visible
from signsclf.training import architectures

_PACKAGES = ("signsclf", "torch", "torchvision", "timm", "fastai", "onnx", "onnxruntime", "numpy", "pillow")
_MODULES = {"pillow": "PIL"}
_N_GOLDEN = 8
_NAMES_IMAGES = ("split.csv", "predictions.csv", "skipped.csv")
_SHOWS_IMAGES = ("plots/batch.png", "plots/mistakes.png")


class ModelFolderWriter:
    """Completes the folder of a model whose network's files are in it; config.json and SHA256SUMS come last.

    Args:
        folder: with model.onnx, model.safetensors, run/ and, where it was asked for, learner.pkl.
        config: what config.json will say, but for the figures, and for fastai among the readers.
        pictures, bare: see `signsclf.runs.folder.RunRequest`.

    Attributes:
        classifier: the exported model.
    """

    def __init__(self, folder: Path, config: modelfolder.Config, *, pictures: bool = False, bare: bool = False) -> None:
        readers = [name for name in config.readers if name != "fastai"]
        if (folder / modelfolder.LEARNER).is_file():
            readers.insert(2, "fastai")
        config = replace(config, readers=tuple(readers))
        self.folder, self.config, self.pictures, self.bare = folder, config, pictures, bare
        self.classifier = Classifier(folder, config=config)

    def write_golden(self, pixels: np.ndarray) -> None:
        """Store what the exported model answers to some of these images, or to noise where it keeps no pictures.

        Args:
            pixels: uint8 (N, H, W, 3), N ≥ 1.

        Raises:
            ModelError: a file cannot be written.
        """
        golden = pixels[:_N_GOLDEN] if self.pictures else noise_images(_N_GOLDEN, self.config.input_size)
        store_golden(self.folder, golden, self.classifier.probabilities(golden))

    def close(self, figures: dict[str, Any]) -> None:
        """Write config.json, the card and SHA256SUMS; delete below run/ what is not to be in the folder.

        Raises:
            ModelError: a file cannot be written.
        """
        self.config = replace(self.config, figures=figures)
        modelfolder.write_config(self.folder, self.config)
        write_card(self.folder, self.config)
        # A log names places of this machine, and what it reports is mended.
        left_out = [ERROR_LOG]
        left_out += () if self.pictures else _SHOWS_IMAGES
        left_out += _NAMES_IMAGES if self.bare else ()
        for name in left_out:
            (self.folder / modelfolder.RUN / name).unlink(missing_ok=True)
        modelfolder.write_sums(self.folder)


def new_config(
    plan: Plan, model: nn.Module, parity: Parity, classifier_weight: str | None, pixels: np.ndarray
) -> modelfolder.Config:
    """Describe a network that was just exported; temperature, threshold, fingerprint and figures are still to be set.

    Args:
        model: the network as it was exported.
        parity, classifier_weight: see `signsclf.export.onnx.ExportedNetwork`.
        pixels: uint8 (N, H, W, 3), N ≥ 1, on which other libraries are compared with it.
    """
    recipe, arch, classes = plan.recipe, plan.arch, plan.source.classes
    initial = _initial_weights(recipe, arch)
    return modelfolder.Config(
        architecture=arch.name,
        classes=classes,
        input_size=(recipe.size, recipe.size),
        mean=arch.mean,
        std=arch.std,
        recipe=recipe.without_places().to_dict(),
        figures={},
        versions=versions(),
        is_gtsrb=plan.source.is_gtsrb,
        crop=recipe.crop.value,
        parity=parity.to_dict(),
        licence=_licence(initial),
        initial_weights=initial,
        readers=readers(model, arch, len(classes), pixels[:2]),
        classifier=classifier_weight,
        fixed_input_size=arch.fixed_size or arch.one_size,
    )


def versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that decide a model."""
    # By the modules: onnxruntime-gpu, pillow-simd and a plain checkout lack the distributions of these names.
    found = {name: import_module(_MODULES.get(name, name)).__version__ for name in _PACKAGES}
    return {"python": platform.python_version(), **{name: str(v).partition("+")[0] for name, v in found.items()}}


def _initial_weights(recipe: Recipe, arch: architectures.Architecture) -> str:
    """Name the weights that training started from as later releases of the libraries do; "" for random weights."""
    if recipe.weights == "none":
        return ""
    return (
        architectures.weights_source(arch, recipe.weights) or f"local {visible(Path(recipe.weights).absolute().name)}"
    )


def _licence(initial_weights: str) -> str:
    if not initial_weights:
        return "Trained from random weights; the rights to the training images are their owners'."
    if initial_weights.startswith("signsclf"):
        return (
            f"Trained from weights under the Apache-2.0 licence ({initial_weights}); the rights to the training images "
            "are their owners'."
        )
    return (
        f"Trained from other weights ({initial_weights}), whose licence applies as well (ImageNet's are for research "
        "in many cases); the rights to the training images are their owners'."
    )
