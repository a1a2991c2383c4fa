"""The recipe: everything that decides the weights, in one frozen dataclass. Without torch, so that the CLI stays fast.

Each field carries its help text, its default and its range; the command line is made from them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from signsclf.errors import SignsclfError


class Balance(str, Enum):
    """How often the images of a class with n images are sampled."""

    NONE = "none"  # each image once an epoch
    SQRT = "sqrt"  # a class is sampled in proportion to the square root of n
    EFFECTIVE = "effective"  # in proportion to n over the effective number of samples, arXiv:1901.05555
    FULL = "full"  # every class equally often


class SplitBy(str, Enum):
    """What is never divided between training and validation when validation images are held out."""

    GROUP = "group"
    KNOWN = "known"
    RANDOM = "random"


class Crop(str, Enum):
    """Which part of an image is shown to the network."""

    NONE = "none"
    ROI = "roi"


class Augment(str, Enum):
    """How much training images are rotated, scaled, sheared, relit and blurred."""

    NONE = "none"
    LIGHT = "light"
    STANDARD = "standard"
    STRONG = "strong"
    CAMERA = "camera"  # a moving car's camera: light, haze, blur, noise, few pixels
    HARSH = "harsh"  # that camera in bad light and weather, with signs partly covered


class Flip(str, Enum):
    """Whether training images are mirrored left to right."""

    NEVER = "never"
    MAP = "map"  # GTSRB: only where the mirrored sign is a sign, and the class changes with the picture
    ALWAYS = "always"


class Precision(str, Enum):
    """The precision of training: fp32, or mixed precision; the exported model is always fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Optimizer(str, Enum):
    """The optimizer."""

    ADAM = "adam"
    SGD = "sgd"


class BatchNorm(str, Enum):
    """Which batch-norm statistics are used while all layers train; with frozen layers it is always ``keep``."""

    TRAIN = "train"  # those of each batch, averaged
    KEEP = "keep"  # those of the starting weights


class Solver(str, Enum):
    """How an architecture is fitted."""

    GRADIENT = "gradient"  # torch's gradients
    PROBE = "probe"  # logistic regression on the features of the network, which is frozen
    LEAST_SQUARES = "least squares"  # a linear system, solved
    NUMPY = "NumPy"  # gradients written out by hand


class Device(str, Enum):
    """Where training runs."""

    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


AUTO_LR = "auto"
SYNTHETIC_WEIGHTS = "synthetic"
"""``--weights synthetic``: of a network of the package's own that saw rendered traffic signs, and no photograph."""
NAMED_WEIGHTS = ("none", "imagenet", SYNTHETIC_WEIGHTS)
"""Weights that are no file's nor folder's."""
OWN_STARTS = ("none", SYNTHETIC_WEIGHTS)
"""Weights from which networks are trained at the images' own size, and with high learning rates."""


def _setting(
    help_text: str,
    *,
    default: Any = None,
    low: float | None = None,
    high: float | None = None,
    metavar: str | None = None,
) -> Any:
    """Declare a field of `Recipe`: what it means, its default, and for a number the range of its values.

    Args:
        help_text: for the command line and for `Recipe`'s own documentation.
        default: None leaves it to be chosen from the data.
        low, high: the smallest and the largest value; both or neither.
        metavar: what stands for the value on the command line; None is the type's own.
    """
    return field(default=default, metadata={"help": help_text, "low": low, "high": high, "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the weights. A field that is None is chosen from the data by `signsclf.runs.resolve.resolve`."""

    arch: str | None = _setting(
        "Architecture: one of signsclf's own (linear-regression, mlp, signnet …), of torchvision's, or any timm name."
    )
    weights: str | None = _setting(
        "Weights to start from: imagenet; synthetic, learnt from rendered traffic signs (signnet, signnet-fast); none; "
        "a .safetensors or .pth FILE; or a model folder."
    )
    size: int | None = _setting("Side, in pixels, of the square that images are resized to.", low=8, high=1024)
    epochs: int | None = _setting("Epochs in which all layers are trained.", low=0, high=10_000)
    samples: int | None = _setting(
        "Images to sample over the whole training; sets the epochs where --epochs is not given.", low=1, high=10**12
    )
    epoch_images: int | None = _setting(
        "Images to sample in an epoch, synthetic signs included; 0: as many as there are.", low=0, high=10**9
    )
    freeze_epochs: int | None = _setting(
        "Epochs before --epochs, in which only the head is trained.", low=0, high=1_000
    )
    freeze: bool = _setting(
        "Train the last layer alone: a linear probe, solved on the features of the network, which are computed once.",
        default=False,
    )
    probe_first: bool = _setting(
        "Start the last layer from a linear probe in place of --freeze-epochs, then train all layers.", default=False
    )
    search: bool = _setting(
        "Try a linear probe, and fine-tuning of several kinds, on a part of the training images, by successive "
        "halving; train with the one that does best on the rest of them.",
        default=False,
    )
    batch_size: int | None = _setting("Images in a batch.", low=2, high=8_192)
    shards: int | None = _setting(
        "Micro-batches that each batch is cut into, with batch-norm statistics of their own: the weights are the same, "
        "bit for bit, with any number of processes that divides them; unset: one for each process.",
        low=1,
        high=1_024,
    )
    lr: float | str | None = _setting(
        "Highest learning rate of the one-cycle schedule, or auto for a learning-rate search first; not for least "
        "squares.",
        low=1e-8,
        high=100,
        metavar="X|auto",
    )
    lr_ratio: float | None = _setting(
        "Learning rate of the head over that of the first layers; 1: one rate for all.", low=1, high=10**6
    )
    optimizer: Optimizer | None = _setting("Optimizer; not for least squares.")
    weight_decay: float | None = _setting(
        "Decoupled weight decay; for least squares the ridge penalty per image.", low=0, high=1
    )
    batch_norm: BatchNorm | None = _setting(
        "Batch-norm statistics while all layers train: those of each batch (train), or those of the starting weights "
        "(keep)."
    )
    label_smoothing: float = _setting(
        "Label smoothing: part of the target that is spread over all classes.", default=0.1, low=0, high=0.5
    )
    ema_decay: float | None = _setting(
        "Decay, per step, of the exponential moving average (EMA) of the weights that is evaluated and kept; 0: none.",
        low=0,
        high=0.99999,
    )
    balance: Balance = _setting(
        "Class-balanced sampling: a class of n images is sampled in proportion to n (none), to its square root (sqrt), "
        "to the effective number of samples (effective), or as often as any other (full).",
        default=Balance.SQRT,
    )
    augment: Augment | None = _setting(
        "Augmentation of training images; camera: as seen from a moving car; harsh: in bad light and weather, too."
    )
    outliers: float | None = _setting(
        "Share of each batch to replace by images of no class (parts of images, shuffled ones, textures): fewer "
        "out-of-distribution images are accepted then; for classes told by the whole of one object, such as signs.",
        low=0,
        high=0.5,
    )
    flip: Flip | None = _setting(
        "Mirroring of training images, left to right; map: only signs whose mirror image is a sign (GTSRB)."
    )
    crop: Crop = _setting("Use whole images (none), or the boxes that the source gives (roi).", default=Crop.NONE)
    split_by: SplitBy = _setting(
        "Hold out whole groups, such as all images of one object, and of near-duplicates found by their pixels "
        "(group), only groups that the source or the names tell (known), or single images (random).",
        default=SplitBy.GROUP,
    )
    valid_fraction: float = _setting(
        "Part of the training images to hold out for validation where the source has no validation images.",
        default=0.2,
        low=0,
        high=0.9,
    )
    fold: str | None = _setting(
        "Hold out the K-th of N disjoint folds, which together cover all images; excludes --valid-fraction.",
        metavar="K/N",
    )
    teacher: tuple[str, ...] | None = _setting(
        "Model folder of the same classes whose answers to the same augmented images are taught, beside the labels "
        "(distillation); given several times: the mean of theirs.",
        metavar="FOLDER",
    )
    teacher_weight: float | None = _setting(
        "Part of the loss that is the teacher's; the labels have the rest.", low=0, high=1
    )
    teacher_temperature: float | None = _setting(
        "Temperature by which the logits of teacher and network are divided where they are compared.", low=0.1, high=100
    )
    add_synthetic: int | None = _setting(
        "Synthetic signs to add to the training images of each class, rendered anew every epoch; GTSRB's classes only.",
        low=0,
        high=100_000,
    )
    patience: int = _setting(
        "Early stopping: epochs without a better macro-F1, or a lower loss at the same one; keeps the best epoch, "
        "chosen on the validation images, so that figures on them flatter. 0: never, and the last epoch is kept.",
        default=0,
        low=0,
        high=10_000,
    )
    precision: Precision | None = _setting("Precision of training; bf16 and fp16 are mixed precision.")
    device: Device | None = _setting("Device to train on; auto: a CUDA GPU if there is one, else the CPU.")
    seed: int = _setting("Seed of everything random.", default=0, low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if (value is None and setting.default is None) or (setting.name == "lr" and value == AUTO_LR):
                continue
            kind = value_type(setting.name)
            if issubclass(kind, Enum):
                object.__setattr__(self, setting.name, _choice(setting.name, kind, value))
            elif kind is bool:
                if not isinstance(value, bool):
                    raise SignsclfError(f"{option_name(setting.name)}: {value!r} is neither true nor false")
            elif kind is not str:
                _check_number(setting, kind, value)
        for name in ("arch", "weights"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise SignsclfError(f"{option_name(name)}: {value!r} is not a name; give one, or leave it out")
        object.__setattr__(self, "teacher", _names("teacher", self.teacher))
        if self.fold is not None:
            _, n = parse_fold(self.fold)
            if self.valid_fraction not in (Recipe.valid_fraction, 1 / n):
                raise SignsclfError("--fold: cannot be combined with --valid-fraction; give one of them")
            object.__setattr__(self, "valid_fraction", 1 / n)
        if self.epoch_images == 1:
            raise SignsclfError(
                "--epoch-images: 1 is too few for a batch; give 0 for as many as there are, or at least 2"
            )
        if self.freeze and self.probe_first:
            raise SignsclfError("--probe-first: with --freeze nothing is trained after the probe; leave one out")
        if self.epochs is not None and (self.epochs + (self.freeze_epochs or 0)) == 0:
            raise SignsclfError("--epochs: 0 with no --freeze-epochs trains nothing; give at least one epoch")

    def replace(self, **changes: Any) -> Recipe:
        """Return a copy with these fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {setting.name: _json_value(getattr(self, setting.name)) for setting in dataclasses.fields(self)}

    def without_places(self) -> Recipe:
        """Return a copy that names files and folders by the last part of their paths: the rest is private."""
        return self.replace(
            weights=self.weights and Path(self.weights).name,
            teacher=self.teacher and tuple(Path(folder).name for folder in self.teacher),
        )

    def to_json(self) -> str:
        """Return the recipe as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Read the recipe from such a dictionary.

        Raises:
            SignsclfError: an unknown field, or a value outside its range.
        """
        if not isinstance(values, dict):
            raise SignsclfError("recipe: not a JSON object of fields")
        known = {setting.name for setting in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise SignsclfError(f"recipe: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read the recipe from JSON text; see `from_dict`."""
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise SignsclfError(f"recipe: not JSON ({error})") from None


def describe(name: str) -> str:
    """Describe a field: its help text, and in brackets its range and its default."""
    setting = Recipe.__dataclass_fields__[name]
    low, high, default = setting.metadata["low"], setting.metadata["high"], setting.default
    bounds = [] if low is None else [f"{low:,} to {high:,}"]
    if default is not None and not isinstance(default, bool):
        bounds.append(f"default: {default.value if isinstance(default, Enum) else default}")
    text: str = setting.metadata["help"]
    return text + (f"  [{'; '.join(bounds)}]" if bounds else "")


Recipe.__doc__ = "\n    ".join(
    [f"{Recipe.__doc__}\n", "Attributes:", *(f"    {name}: {describe(name)}" for name in Recipe.__dataclass_fields__)]
)


@functools.cache
def value_type(name: str) -> type:
    """Return the type of a field's values: `int`, `float`, `str`, `bool` or an enumeration; `float` for ``lr``.

    Of a field with several values (see `is_repeated`) it is that of each.
    """
    hint = typing.get_type_hints(Recipe)[name]
    kinds: list[type] = [kind for kind in (*typing.get_args(hint), hint) if kind is not type(None)]
    return typing.get_args(kinds[0])[0] if typing.get_origin(kinds[0]) is tuple else kinds[0]


def is_repeated(name: str) -> bool:
    """Tell whether a field holds several values, so that its option may be given several times."""
    hint = typing.get_type_hints(Recipe)[name]
    return any(typing.get_origin(kind) is tuple for kind in typing.get_args(hint))


def option_name(name: str) -> str:
    """Return the option of the command line that sets a field."""
    return "--" + name.replace("_", "-")


def _json_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.value if isinstance(value, Enum) else value


def _names(name: str, values: Any) -> tuple[str, ...] | None:
    """Return names of files or folders, of which there may be one alone, as a tuple; None for none."""
    if values is None:
        return None
    listed = (values,) if isinstance(values, (str, Path)) else values
    if not isinstance(listed, (list, tuple)) or not all(isinstance(v, (str, Path)) and str(v).strip() for v in listed):
        raise SignsclfError(
            f"{option_name(name)}: {values!r} is no name, nor a list of them; give one, or leave it out"
        )
    return tuple(str(value) for value in listed) or None


def _choice(name: str, kind: type[Enum], value: Any) -> Enum:
    try:
        return kind(value)
    except ValueError:
        allowed = ", ".join(choice.value for choice in kind)
        raise SignsclfError(f"{option_name(name)}: {value!r} is none of {allowed}") from None


def _check_number(setting: dataclasses.Field[Any], kind: type, value: Any) -> None:
    low, high = setting.metadata["low"], setting.metadata["high"]
    fits = isinstance(value, int if kind is int else (int, float))
    if isinstance(value, bool) or not fits or value != value:
        number = "a whole number" if kind is int else "a number"
        raise SignsclfError(f"{option_name(setting.name)}: {value!r} is not {number} from {low:,} to {high:,}")
    if not low <= value <= high:
        raise SignsclfError(f"{option_name(setting.name)}: {value} is outside {low:,} to {high:,}; choose one within")


def parse_fold(text: str) -> tuple[int, int]:
    """Parse ``K/N``, 1 ≤ K ≤ N ≤ 1,000 and N ≥ 2.

    Raises:
        SignsclfError: it is no such text.
    """
    found = re.fullmatch("([1-9][0-9]{0,3})/([1-9][0-9]{0,3})", text) if isinstance(text, str) else None
    if found is None:
        raise SignsclfError(f"--fold: {text!r} is not K/N, such as 1/5, the first of five folds")
    k, n = int(found[1]), int(found[2])
    if not (k <= n and 2 <= n <= 1000):
        raise SignsclfError(f"--fold: {text} is no fold; give K/N with N from 2 to 1,000 and K from 1 to N")
    return k, n


def transfer() -> Recipe:
    """Fine-tune a pretrained ResNet-34: the head first, then all layers."""
    return Recipe(arch="resnet34", weights="imagenet")


def fast() -> Recipe:
    """Train a small residual network, for small images such as signs: minutes on a CPU.

    Batches are small: in two epochs the number of steps matters more than the noise of each.
    """
    return Recipe(arch="signnet-fast", size=32, batch_size=64, lr=0.2)


def best() -> Recipe:
    """Train a larger network for longer, with the augmentation ``camera``: within half an hour on two cores."""
    return Recipe(arch="signnet", size=32, samples=600_000, augment=Augment.CAMERA)


def photos() -> Recipe:
    """Fine-tune a pretrained EfficientNet-Lite0 on a folder of photos; its weights come with the extra ``weights``."""
    return Recipe(arch="tf_efficientnet_lite0", weights="imagenet", balance=Balance.SQRT, flip=Flip.ALWAYS)


def small_photos() -> Recipe:
    """Train the network of `best` with mirroring, on small photos such as CIFAR-10's."""
    return Recipe(arch="signnet", weights="none", size=32, flip=Flip.ALWAYS)


def auto() -> Recipe:
    """Fine-tune as `photos` does, or otherwise: whatever does best on a part of the training images."""
    return photos().replace(search=True)


PRESETS = {
    "transfer": transfer,
    "fast": fast,
    "best": best,
    "photos": photos,
    "small-photos": small_photos,
    "auto": auto,
}

COMPARED_ARCHITECTURES = (
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
"""Architectures that ``signsclf compare`` trains where none are named, the simplest first."""


def preset(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        SignsclfError: there is no such preset.
    """
    if name not in PRESETS:
        raise SignsclfError(f"--recipe: {name!r} is none of {', '.join(PRESETS)}")
    return PRESETS[name]()
