"""A few hundred drawn images of three coloured shapes, and a tiny network, that a test trains on in seconds."""

from __future__ import annotations

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import nn

from signsclf.recipe import Recipe
from signsclf.training.architectures import Architecture, Family
from signsclf.training.augment import STRENGTHS, BatchAugment
from signsclf.training.learner import build_learner
from signsclf.training.loaders import LoaderConfig, SourceRows, dataloaders
from signsclf.training.networks import signnet

CLASSES = ("blue disc", "green square", "red bar")
SIZE = 16
TINY = Architecture(name="signnet", family=Family.OWN)


def draw(n: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """uint8 (n, 16, 16, 3) and their labels: noise, with a shape of a colour of its own somewhere."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (n, SIZE, SIZE, 3), dtype=np.uint8)
    targets = rng.integers(0, 3, n)
    ys, xs = np.mgrid[:SIZE, :SIZE]
    for image, target in zip(pixels, targets, strict=True):
        y, x = rng.integers(5, SIZE - 5, 2)
        shape = [
            (ys - y) ** 2 + (xs - x) ** 2 <= 16,
            (abs(ys - y) <= 3) & (abs(xs - x) <= 3),
            abs(ys - y) <= 1,
        ][target]
        image[shape, (2, 1, 0)[target]] = rng.integers(150, 256)
    return pixels, [CLASSES[target] for target in targets]


def recipe(**changes: object) -> Recipe:
    """Resolved, for a few quick epochs on the processor."""
    values: dict = {
        "arch": "signnet",
        "weights": "none",
        "size": SIZE,
        "epochs": 2,
        "freeze_epochs": 0,
        "batch_size": 16,
        "lr": 0.05,
        "lr_ratio": 1.0,
        "optimizer": "sgd",
        "weight_decay": 5e-4,
        "ema_decay": 0.0,
        "augment": "light",
        "flip": "never",
        "precision": "fp32",
        "device": "cpu",
    }
    return Recipe(**{**values, **changes})


def network(seed: int = 0, dropout: bool = False, width: int = 4) -> nn.Sequential:
    """signnet an eighth as wide."""
    torch.manual_seed(seed)
    model = signnet(len(CLASSES), width)
    if dropout:
        model.flatten = nn.Sequential(nn.Flatten(), nn.Dropout(0.3))
    return model


def loaders(of: Recipe, n_train: int = 80, n_valid: int = 40) -> DataLoaders:
    pixels, labels = draw(n_train + n_valid)
    config = LoaderConfig(
        batch_size=of.batch_size,
        mean=TINY.mean,
        std=TINY.std,
        balance=of.balance,
        augment=BatchAugment(STRENGTHS[of.augment], of.flip, outliers=of.outliers or 0.0),
        seed=of.seed,
    )
    rows = SourceRows(pixels=pixels, labels=labels, classes=CLASSES)
    return dataloaders(rows, np.arange(n_train), np.arange(n_train, n_train + n_valid), config)


def learner(of: Recipe, model: nn.Module, n_train: int = 80, n_valid: int = 40) -> Learner:
    return build_learner(loaders(of, n_train, n_valid), model, TINY, of)
