"""The package's own networks, from a line through the pixels to eleven layers, of stock layers of torch and fastai."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from fastai.layers import ConvLayer, ResBlock
from torch import nn

from signsclf.recipe import Solver

_PIXELS_SIDE = 64
"""Networks that take every pixel as an input grow with the fourth power of the side; theirs ends here."""


@dataclass(frozen=True, kw_only=True)
class OwnNetwork:
    """How one of the package's own networks is built and trained.

    Attributes:
        build: from the number of classes and the side of the images in pixels; what has ``any_size`` ignores the side.
        head_layers: how many layers from the end lead from the last feature map, or from the pixels, to the logits.
        smallest_size, largest_size: sides in pixels that it is built for.
        any_size: whether the same weights serve images of every size.
        solver: what fits it.
    """

    build: Callable[[int, int], nn.Sequential]
    head_layers: int
    smallest_size: int = 8
    largest_size: int = _PIXELS_SIDE
    any_size: bool = False
    solver: Solver = Solver.GRADIENT


def linear(n_classes: int, size: int) -> nn.Sequential:
    """One linear layer on the pixels."""
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(3 * size * size, n_classes)))


def perceptron(n_classes: int, size: int, hidden: int = 256) -> nn.Sequential:
    """One hidden layer on the pixels."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden=nn.Linear(3 * size * size, hidden),
            relu=nn.ReLU(),
            fc=nn.Linear(hidden, n_classes),
        )
    )


def mlp(n_classes: int, size: int) -> nn.Sequential:
    """Three hidden layers on the pixels."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden1=nn.Linear(3 * size * size, 512),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(512, 256),
            relu2=nn.ReLU(),
            hidden3=nn.Linear(256, 128),
            relu3=nn.ReLU(),
            fc=nn.Linear(128, n_classes),
        )
    )


def simple_cnn(n_classes: int, size: int) -> nn.Sequential:
    """PyTorch's tutorial "Training a Classifier" on CIFAR-10: 3 to 6 to 16 channels, then linear layers."""
    side = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * side * side, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc=nn.Linear(84, n_classes),
        )
    )


def signnet(n_classes: int, width: int = 32) -> nn.Sequential:
    """Eleven layers for images of about 32 px, 1.95 M parameters: D. Page's ResNet-9 (2018, "How to train your
    ResNet") at half its width, with a residual block in the middle stage too, of fastai's stock layers.
    """
    w = width
    return _residual(w, n_classes, OrderedDict(stem=ConvLayer(3, w), conv1=ConvLayer(w, 2 * w), pool1=nn.MaxPool2d(2)))


def signnet_fast(n_classes: int, width: int = 32) -> nn.Sequential:
    """`signnet` with one 4×4 layer of stride 2 in place of its first two, which work at full resolution and take the
    most of its time; it needs some more epochs to the same accuracy.
    """
    return _residual(width, n_classes, OrderedDict(stem=ConvLayer(3, 2 * width, ks=4, stride=2, padding=1)))


def _residual(w: int, n_classes: int, start: OrderedDict[str, nn.Module]) -> nn.Sequential:
    """What stands around ``start``, which gives 2w channels at half the resolution.

    Each image is normalised over its own pixels and colours first, so that a dark one, or one in fog, is like the rest.
    """
    return nn.Sequential(
        OrderedDict(
            # eps keeps the noise of a picture of nothing small.
            norm=nn.GroupNorm(1, 3, eps=1e-3),
            **start,
            res1=ResBlock(1, 2 * w, 2 * w),
            conv2=ConvLayer(2 * w, 4 * w),
            pool2=nn.MaxPool2d(2),
            res2=ResBlock(1, 4 * w, 4 * w),
            conv3=ConvLayer(4 * w, 8 * w),
            pool3=nn.MaxPool2d(2),
            res3=ResBlock(1, 8 * w, 8 * w),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(8 * w, n_classes),
        )
    )


OWN = {
    "linear-regression": OwnNetwork(build=linear, head_layers=1, solver=Solver.LEAST_SQUARES),
    "logistic-regression": OwnNetwork(build=linear, head_layers=1),
    "perceptron": OwnNetwork(build=perceptron, head_layers=3),
    "numpy-mlp": OwnNetwork(build=perceptron, head_layers=3, solver=Solver.NUMPY),
    "mlp": OwnNetwork(build=mlp, head_layers=7),
    "simple-cnn": OwnNetwork(build=simple_cnn, head_layers=6, smallest_size=16, largest_size=256),
    "signnet-fast": OwnNetwork(
        build=lambda n_classes, _: signnet_fast(n_classes), head_layers=3, largest_size=1024, any_size=True
    ),
    "signnet": OwnNetwork(
        build=lambda n_classes, _: signnet(n_classes), head_layers=3, largest_size=1024, any_size=True
    ),
}
