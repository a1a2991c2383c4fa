"""The recipe: everything that decides the weights, in one frozen dataclass. No torch, so that the CLI stays quick."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from signsclf.errors import SignsclfError


class Balance(str, Enum):
    """How often the images of a class with n images are drawn."""

    NONE = "none"  # each image once an epoch
    SQRT = "sqrt"  # a class is drawn in proportion to the square root of n
    EFFECTIVE = "effective"  # to n over the effective number of samples, Cui et al. 2019, arXiv:1901.05555
    FULL = "full"  # every class equally often


class SplitBy(str, Enum):
    """What is kept whole on one side when validation images are held out."""

    GROUP = "group"
    RANDOM = "random"


class Crop(str, Enum):
    """Which part of an image is shown to the network."""

    NONE = "none"
    ROI = "roi"


class Augment(str, Enum):
    """How training images are turned, scaled, sheared, lit and blurred."""

    NONE = "none"
    LIGHT = "light"
    STANDARD = "standard"
    STRONG = "strong"
    CAMERA = "camera"  # as the camera of a moving car sees them: light, haze, blur, noise, few pixels
    HARSH = "harsh"  # that camera in bad light and weather, what it sees covered: for images as bad as that


class Flip(str, Enum):
    """Whether training images are mirrored left to right."""

    NEVER = "never"
    MAP = "map"  # GTSRB: only where the mirrored sign is a sign, and the class changes with the picture
    ALWAYS = "always"


class Precision(str, Enum):
    """The arithmetic of training; what is exported is always fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Optimizer(str, Enum):
    """The update rule."""

    ADAM = "adam"
    SGD = "sgd"


class BatchNorm(str, Enum):
    """What becomes of batch-norm's statistics while all layers train."""

    TRAIN = "train"  # taken from each batch, and averaged
    KEEP = "keep"  # as the starting weights bring them


class Solver(str, Enum):
    """What fits an architecture."""

    GRADIENT = "gradient"  # torch's gradients
    LEAST_SQUARES = "least squares"  # a linear system, solved
    NUMPY = "NumPy"  # gradients written out by hand


class Device(str, Enum):
    """Where training runs."""

    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


AUTO_LR = "auto"


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights. A field that is None is chosen from the data by `signsclf.runs.resolve.resolve`.

    Attributes:
        arch: name of an architecture: one of the package's own (`LADDER` has them), of torchvision's that fastai
            knows, or of timm's.
        weights: where training starts: ``imagenet``, ``none``, a weights file, or a model folder.
        size: side of the square that images are squashed to, in pixels, 8 to 1024.
        epochs: epochs with all layers trained, 0 to 10,000.
        samples: images to draw in all, 1 to 1e12, from which ``epochs`` follows where that is unset.
        epoch_images: images to draw in an epoch, drawn signs among them, 2 to 1e9, or 0: as many as there are.
        freeze_epochs: epochs before them in which only the head is trained, 0 to 1,000.
        batch_size: images a step, 2 to 8,192.
        lr: the highest learning rate of the one-cycle schedule, or ``auto`` for a learning-rate search first; stays
            None for least squares, as ``optimizer`` does.
        lr_ratio: the head's learning rate over the first layers', at least 1; 1 is one rate for all layers.
        optimizer: the update rule.
        weight_decay: decoupled weight decay, 0 to 1; for least squares the ridge penalty an image.
        batch_norm: whether batch-norm's statistics are those of each batch or stay those of the starting weights; while
            only the head is trained they stay in any case.
        label_smoothing: share of the target spread over all classes, 0 to 0.5.
        ema_decay: decay a step of the exponential moving average of the weights that is judged and kept; 0 is off.
        balance: how often rare classes are drawn.
        augment: how far training images are changed.
        flip: mirroring left to right.
        crop: whole images or the boxes that the source gives.
        split_by: what a validation split keeps whole.
        valid_fraction: share of the training images held out when the source holds none out, 0 to 0.9; with ``fold``
            it follows from that.
        fold: ``K/N``, 1 ≤ K ≤ N ≤ 1,000 and N ≥ 2: the training images held out are the K-th of N disjoint folds, which
            are the same for every K; see `signsclf.data.split.folds`. None holds ``valid_fraction`` out.
        add_synthetic: signs drawn by the package that are added to each class's training images, new ones every epoch,
            0 to 100,000; GTSRB's classes only. Never among those held out.
        patience: stop after so many epochs without a better macro-F1, or a lower loss at the same one; 0 never stops
            early.
        precision: arithmetic of training.
        device: where it runs.
        seed: of everything drawn at random, 0 to 2**32 - 1.
    """

    arch: str | None = None
    weights: str | None = None
    size: int | None = None
    epochs: int | None = None
    samples: int | None = None
    epoch_images: int | None = None
    freeze_epochs: int | None = None
    batch_size: int | None = None
    lr: float | str | None = None
    lr_ratio: float | None = None
    optimizer: Optimizer | None = None
    weight_decay: float | None = None
    batch_norm: BatchNorm | None = None
    label_smoothing: float = 0.1
    ema_decay: float | None = None
    balance: Balance = Balance.SQRT
    augment: Augment | None = None
    flip: Flip | None = None
    crop: Crop = Crop.NONE
    split_by: SplitBy = SplitBy.GROUP
    valid_fraction: float = 0.2
    fold: str | None = None
    add_synthetic: int | None = None
    patience: int = 0
    precision: Precision | None = None
    device: Device | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if (value is None and name in _UNSET) or (name == "lr" and value == AUTO_LR):
                continue
            fits = isinstance(value, int if name in _WHOLE else (int, float))
            if isinstance(value, bool) or not fits or value != value:
                raise SignsclfError(f"{_flag(name)}: {value!r} is not a number from {low:g} to {high:g}")
            if not low <= value <= high:
                raise SignsclfError(f"{_flag(name)}: {value} is outside {low:g} to {high:g}; choose one within")
        for name, kind in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and not (value is None and name in _UNSET):
                try:
                    object.__setattr__(self, name, kind(value))
                except ValueError:
                    allowed = ", ".join(choice.value for choice in kind)
                    raise SignsclfError(f"{_flag(name)}: {value!r} is none of {allowed}") from None
        for name in ("arch", "weights"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise SignsclfError(f"{_flag(name)}: {value!r} is not a name")
        if self.fold is not None:
            _, n = parse_fold(self.fold)
            if self.valid_fraction not in (Recipe.valid_fraction, 1 / n):
                raise SignsclfError("--fold: it says what is held out, as --valid-fraction does; give one of them")
            object.__setattr__(self, "valid_fraction", 1 / n)
        if self.epoch_images == 1:
            raise SignsclfError(
                "--epoch-images: 1 is too few for a batch; give 0 for as many as there are, or at least 2"
            )
        if self.epochs is not None and (self.epochs + (self.freeze_epochs or 0)) == 0:
            raise SignsclfError("--epochs: 0 with no --freeze-epochs trains nothing; give at least one epoch")

    def replace(self, **changes: Any) -> Recipe:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            field.name: value.value if isinstance(value := getattr(self, field.name), Enum) else value
            for field in dataclasses.fields(self)
        }

    def to_json(self) -> str:
        """The recipe as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The recipe of such a dictionary.

        Raises:
            SignsclfError: an unknown field, or a value outside its range.
        """
        if not isinstance(values, dict):
            raise SignsclfError("recipe: not a JSON object of fields")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise SignsclfError(f"recipe: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe of JSON text; see `from_dict`."""
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise SignsclfError(f"recipe: not JSON ({error})") from None


_RANGES: dict[str, tuple[float, float]] = {
    "size": (8, 1024),
    "epochs": (0, 10_000),
    "samples": (1, 1e12),
    "epoch_images": (0, 1e9),
    "freeze_epochs": (0, 1_000),
    "batch_size": (2, 8_192),
    "lr": (1e-8, 100),
    "lr_ratio": (1, 1e6),
    "weight_decay": (0, 1),
    "label_smoothing": (0, 0.5),
    "ema_decay": (0, 0.99999),
    "valid_fraction": (0, 0.9),
    "add_synthetic": (0, 100_000),
    "patience": (0, 10_000),
    "seed": (0, 2**32 - 1),
}
_WHOLE = {
    "size",
    "epochs",
    "samples",
    "epoch_images",
    "freeze_epochs",
    "batch_size",
    "add_synthetic",
    "patience",
    "seed",
}
_CHOICES: dict[str, type[Enum]] = {
    "optimizer": Optimizer,
    "batch_norm": BatchNorm,
    "balance": Balance,
    "augment": Augment,
    "flip": Flip,
    "crop": Crop,
    "split_by": SplitBy,
    "precision": Precision,
    "device": Device,
}

# What `signsclf.runs.resolve` chooses may be left unset; the other fields have a default that holds for all data.
_UNSET = {field.name for field in dataclasses.fields(Recipe) if field.default is None}


def parse_fold(text: str) -> tuple[int, int]:
    """K and N of ``K/N``.

    Raises:
        SignsclfError: it is no such text, or not 1 ≤ K ≤ N ≤ 1,000 with N ≥ 2.
    """
    found = re.fullmatch("([1-9][0-9]{0,3})/([1-9][0-9]{0,3})", text) if isinstance(text, str) else None
    if found is None:
        raise SignsclfError(f"--fold: {text!r} is not K/N, such as 1/5, the first of five folds")
    k, n = int(found[1]), int(found[2])
    if not (k <= n and 2 <= n <= 1000):
        raise SignsclfError(f"--fold: {text} is no fold; give K/N with N from 2 to 1,000 and K from 1 to N")
    return k, n


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def transfer() -> Recipe:
    """A pretrained ResNet-34, head first, then all layers."""
    return Recipe(arch="resnet34", weights="imagenet")


def fast() -> Recipe:
    """A small residual net from scratch for small images such as signs: minutes on a plain processor.

    Batches are small, since in two epochs it is steps that count.
    """
    return Recipe(arch="signnet-fast", weights="none", size=32, batch_size=64, lr=0.2)


def best() -> Recipe:
    """A finer net trained for longer on images as a moving car's camera sees them: within half an hour on two cores."""
    return Recipe(arch="signnet", weights="none", size=32, samples=600_000, augment=Augment.CAMERA)


def photos() -> Recipe:
    """A pretrained EfficientNet-Lite0 for a folder of photos; its weights come with the extra ``weights``."""
    return Recipe(arch="tf_efficientnet_lite0", weights="imagenet", balance=Balance.SQRT, flip=Flip.ALWAYS)


def small_photos() -> Recipe:
    """The small net of `best` for small photos such as CIFAR-10's: mirrored."""
    return Recipe(arch="signnet", weights="none", size=32, flip=Flip.ALWAYS)


PRESETS = {"transfer": transfer, "fast": fast, "best": best, "photos": photos, "small-photos": small_photos}

LADDER = (
    "linear-regression",
    "logistic-regression",
    "perceptron",
    "numpy-mlp",
    "mlp",
    "simple-cnn",
    "alexnet",
    "vgg16_bn",
    "resnet18",
    "resnet34",
    "tf_efficientnet_lite0",
    "signnet",
)
"""Architectures from the simplest up: the rungs that ``signsclf compare`` climbs."""


def preset(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        SignsclfError: there is no such preset.
    """
    if name not in PRESETS:
        raise SignsclfError(f"--recipe: {name!r} is none of {', '.join(PRESETS)}")
    return PRESETS[name]()
