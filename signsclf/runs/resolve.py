"""What a recipe leaves unset, chosen from the data and the machine, each with its reason. No torch."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

from signsclf.errors import SignsclfError
from signsclf.recipe import (
    AUTO_LR,
    NAMED_WEIGHTS,
    OWN_STARTS,
    SYNTHETIC_WEIGHTS,
    Augment,
    BatchNorm,
    Device,
    Flip,
    Optimizer,
    Precision,
    Recipe,
    Solver,
    option_name,
)

SMALL_SIDE = 56.0
"""Images whose median side is smaller, in pixels, are small: signs, CIFAR-10."""
_ENOUGH_FROM_SCRATCH = 2_000
_FASTEST = "signnet-fast"
_OWN = "signnet"
_OF_SGD = (_OWN, _FASTEST)
_SHALLOW = ("logistic-regression", "perceptron", "mlp", "simple-cnn")
_FEW_EPOCHS, _VERY_FEW_EPOCHS = 5, 4
_SYNTHETIC_PER_CLASS, _SYNTHETIC_PER_CLASS_AT_MOST = 200, 500
_OUTLIERS = 0.08
_TEACHER_WEIGHT, _TEACHER_TEMPERATURE = 0.9, 2.0
_PLAIN = (
    *(("freeze_epochs", 0), ("lr_ratio", 1.0), ("ema_decay", 0.0), ("batch_norm", BatchNorm.TRAIN)),
    *(("shards", 1), ("freeze", False), ("probe_first", False), ("outliers", 0.0)),
)
"""The only values that networks without torch's gradients take."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What `resolve` knows of the data, the architecture and the machine.

    Attributes:
        n_train: training images.
        n_classes: classes.
        is_gtsrb: whether the classes are GTSRB's.
        is_synthetic: whether the images are signs rendered by the package.
        median_side: median of the geometric mean of width and height, in pixels.
        native_size: side in pixels that the architecture's pretrained weights were made for; None where there are none.
        device: where training will run.
        has_bf16: whether that device multiplies bf16 matrices in hardware.
        smallest_size, largest_size: sides in pixels between which the architecture runs.
        is_normalised: whether it has layers such as batch-norm.
        solver: how it is trained.
        processes: that train together.
    """

    n_train: int
    n_classes: int
    is_gtsrb: bool
    is_synthetic: bool
    median_side: float
    native_size: int | None
    device: Device
    has_bf16: bool
    smallest_size: int = 1
    largest_size: int | None = None
    is_normalised: bool = True
    solver: Solver = Solver.GRADIENT
    processes: int = 1


def refuse_processes(shards: int, processes: int) -> None:
    """Raise SignsclfError where so many processes cannot share the micro-batches of a batch evenly."""
    if shards == 1 and processes > 1:
        raise SignsclfError(f"{processes} processes: the batches are whole ones (--shards 1), for one process only")
    if shards % processes:
        *numbers, largest = (str(n) for n in range(1, shards + 1) if shards % n == 0)
        raise SignsclfError(
            f"{processes} processes: they cannot share the {shards} shards of a batch evenly; start "
            f"{', '.join(numbers)} or {largest}"
        )


def choose_arch(recipe: Recipe, is_synthetic: bool, n_images: int, median_side: float) -> tuple[Recipe, dict[str, str]]:
    """Choose an architecture; return the recipe with it, and the reason by field.

    Comes before `resolve`, whose `Facts` need to know the architecture.
    """
    chosen = _Choices(recipe)
    if is_synthetic:
        chosen.choose("arch", _OWN, "synthetic signs: a small network, nothing to download")
    elif recipe.weights == SYNTHETIC_WEIGHTS:
        chosen.choose("arch", _OWN, "that of --weights")
    elif recipe.weights in (None, "none") and median_side < SMALL_SIDE and n_images >= _ENOUGH_FROM_SCRATCH:
        chosen.choose("arch", _OWN, f"{n_images:,} small images: enough for a small network from scratch")
    else:
        chosen.choose("arch", "resnet34", "the default")
    return chosen.recipe, chosen.reasons


def resolve(recipe: Recipe, facts: Facts) -> tuple[Recipe, dict[str, str]]:
    """Set every field that the training uses; return the recipe, and the reason for each field chosen here by its name.

    Raises:
        SignsclfError: a field that the data, the architecture or the device cannot take.
    """
    chosen = _Choices(recipe)
    # Who wants no synthetic signs added wants none to start from either.
    if facts.is_gtsrb and not facts.is_synthetic and recipe.arch in _OF_SGD and recipe.add_synthetic != 0:
        chosen.choose("weights", SYNTHETIC_WEIGHTS, "GTSRB: the network has learnt these classes from rendered signs")
    elif facts.native_size is None:
        chosen.choose("weights", "none", f"{recipe.arch} has no pretrained weights")
    else:
        chosen.choose("weights", "imagenet", "the default")
    _choose_synthetic(chosen, facts)
    facts = replace(facts, n_train=facts.n_train + chosen.recipe.add_synthetic * facts.n_classes)
    _choose_size(chosen, facts)
    size = chosen.recipe.size
    if size >= 160:
        few = facts.n_train < 300
        chosen.choose("batch_size", 16 if few else 32, f"{facts.n_train} images: steps count" if few else f"{size} px")
    else:
        chosen.choose("batch_size", 64 if size >= 64 or facts.n_train < 2_000 else 128, f"{size} px")
    if facts.n_train < chosen.recipe.batch_size:
        chosen.set("batch_size", max(2, facts.n_train), f"there are only {facts.n_train} training images")
    if 0 < (chosen.recipe.epoch_images or 0) < chosen.recipe.batch_size:
        chosen.set("batch_size", chosen.recipe.epoch_images, "as many as an epoch samples")
    if facts.solver is Solver.GRADIENT:
        _choose_shards(chosen, facts)
    elif facts.processes > 1:
        what = "--freeze" if facts.solver is Solver.PROBE else f"--arch {recipe.arch}"
        raise SignsclfError(f"{what}: not trained by torch's gradients, so in one process only")
    if facts.solver is Solver.PROBE:
        _choose_probe(chosen, facts)
    elif facts.solver is Solver.LEAST_SQUARES:
        _choose_solved(chosen, facts)
    elif facts.solver is Solver.NUMPY:
        _choose_numpy(chosen, facts)
    elif chosen.recipe.weights not in OWN_STARTS:
        _choose_pretrained(chosen, facts)
    else:
        _choose_from_scratch(chosen, facts)
    steps = chosen.recipe.epochs * (chosen.epoch(facts) // chosen.recipe.batch_size)
    decay = round(max(0.0, min(0.998, 1 - 20 / max(1, steps))), 4)
    chosen.choose("ema_decay", decay if steps >= 50 else 0.0, f"a twentieth of {steps:,} steps")
    if facts.is_synthetic:
        chosen.choose("augment", Augment.NONE, "each sign is rendered anew every epoch, place and camera included")
    elif facts.is_gtsrb and chosen.recipe.weights == "imagenet":
        chosen.choose("augment", Augment.CAMERA, "GTSRB: as a moving car's camera sees signs, ImageNet's photos do not")
    else:
        chosen.choose("augment", Augment.STANDARD, "the default")
    if facts.is_gtsrb:
        chosen.choose("flip", Flip.MAP, "GTSRB: mirrored where the mirrored sign is a sign")
    else:
        chosen.choose("flip", Flip.NEVER, "the default: a mirrored picture can mean something else")
    if recipe.flip is Flip.MAP and not facts.is_gtsrb:
        raise SignsclfError("--flip map: the mirror map is GTSRB's, and these classes are not; use never or always")
    learns_signs = facts.is_gtsrb and not facts.is_synthetic and facts.solver is Solver.GRADIENT
    if learns_signs and chosen.recipe.weights in OWN_STARTS:
        chosen.choose("outliers", _OUTLIERS, "GTSRB: a sign is told by the whole of it")
    else:
        chosen.choose("outliers", 0.0, "only for signs learnt from scratch")
    _choose_precision(chosen, facts)
    chosen.choose("device", facts.device, "found on this machine")
    _choose_teaching(chosen)
    return chosen.recipe, chosen.reasons


class _Choices:
    """A recipe being filled in, and the reasons by field."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.reasons: dict[str, str] = {}

    def choose(self, name: str, value: Any, reason: str) -> None:
        """Fill a field that is unset."""
        if getattr(self.recipe, name) is None:
            self.set(name, value, reason)

    def set(self, name: str, value: Any, reason: str) -> None:
        """Fill a field whatever it was."""
        self.recipe, self.reasons[name] = self.recipe.replace(**{name: value}), reason

    def choose_length(self, facts: Facts, samples: int, longest: int, reason: str) -> None:
        """Fill ``samples`` and ``epochs``, either from the other where that is set; at most ``longest`` epochs.

        Where whole epochs come to more than ``samples``, each is shortened, to whole batches.
        """
        n, epoch = facts.n_train, self.epoch(facts)
        if self.recipe.epochs is None:
            self.choose("samples", samples, reason)
            in_all = f"{self.recipe.samples:,} images in all"
            epochs = math.ceil(min(self.recipe.samples, longest * n) / epoch)
            self.choose("epochs", epochs, f"{in_all}, {epoch:,} an epoch at most")
            batches = math.ceil(self.recipe.samples / epochs / self.recipe.batch_size)
            if batches * self.recipe.batch_size < n:
                self.choose("epoch_images", batches * self.recipe.batch_size, in_all)
        else:
            self.choose("samples", max(1, self.recipe.epochs) * epoch, "what --epochs comes to")
        self.choose("epoch_images", 0, "as many as there are")

    def epoch(self, facts: Facts) -> int:
        """Count the images of an epoch."""
        return self.recipe.epoch_images or facts.n_train

    def passes(self, facts: Facts) -> float:
        """Count how often the training sees each image, by the length that was filled in."""
        return self.recipe.epochs * self.epoch(facts) / facts.n_train

    def fix(self, name: str, value: Any, reason: str) -> None:
        """Fill a field that takes one value only; raise SignsclfError where the user wants another."""
        wanted = getattr(self.recipe, name)
        if wanted not in (None, value):
            flag, shown = name.replace("_", "-"), getattr(wanted, "value", wanted)
            shown = " ".join(shown) if isinstance(shown, tuple) else shown
            given = f"--{flag}" if isinstance(shown, bool) else f"--{flag} {shown}"
            raise SignsclfError(f"{given}: not for {self.recipe.arch}: {reason}; leave it out")
        if value is not None:
            self.choose(name, value, reason)


def _choose_teaching(chosen: _Choices) -> None:
    for name in ("teacher_weight", "teacher_temperature"):
        if not chosen.recipe.teacher and getattr(chosen.recipe, name) is not None:
            raise SignsclfError(f"--{name.replace('_', '-')}: there is no teacher; give --teacher too, or leave it out")
    if chosen.recipe.teacher:
        chosen.choose("teacher_weight", _TEACHER_WEIGHT, "distillation")
        chosen.choose("teacher_temperature", _TEACHER_TEMPERATURE, "distillation")


def _choose_shards(chosen: _Choices, facts: Facts) -> None:
    together = facts.processes > 1
    chosen.choose("shards", facts.processes, "one for each process" if together else "one process: whole batches")
    shards, images = chosen.recipe.shards, chosen.recipe.batch_size
    refuse_processes(shards, facts.processes)
    if images % shards and "batch_size" in chosen.reasons and images > shards:
        images -= images % shards
        chosen.set("batch_size", images, f"{chosen.reasons['batch_size']}; a multiple of {shards} shards")
    if images % shards or (shards > 1 and images < 2 * shards):
        raise SignsclfError(
            f"--shards {shards}: a batch of {images} images is not cut evenly into so many micro-batches of at least "
            f"two; change it, or give --batch-size a multiple of {shards}"
        )


def _choose_synthetic(chosen: _Choices, facts: Facts) -> None:
    if facts.is_synthetic or not facts.is_gtsrb:
        reason = "all of these signs are synthetic"
        if not facts.is_synthetic:
            reason = "these classes are not GTSRB's, of which signs can be rendered"
        if chosen.recipe.add_synthetic:
            raise SignsclfError(f"--add-synthetic: {reason}; leave it out")
        chosen.choose("add_synthetic", 0, reason)
    elif facts.solver is Solver.GRADIENT and chosen.recipe.weights in NAMED_WEIGHTS:
        # A long training from scratch gains from as many as there are real ones; in a short one they would take the
        # place of those.
        most = min(_SYNTHETIC_PER_CLASS_AT_MOST, facts.n_train // facts.n_classes) if chosen.recipe.arch == _OWN else 0
        # No hours of rendering for a handful of real signs.
        added = min(max(most, _SYNTHETIC_PER_CLASS), 5 * facts.n_train // facts.n_classes)
        chosen.choose("add_synthetic", added, "GTSRB: they help most where real signs are few")
    else:
        chosen.choose(
            "add_synthetic", 0, "synthetic signs are for training by gradients, not from weights of one's own"
        )


def _choose_size(chosen: _Choices, facts: Facts) -> None:
    median, native = facts.median_side, facts.native_size
    smallest = 32 * math.ceil(facts.smallest_size / 32)
    if chosen.recipe.weights in OWN_STARTS or native is None:
        size = 32 if median < SMALL_SIDE else 64 if median < 112 else 128
        reason = f"the images' median is {median:.0f} px"
    elif median >= 0.6 * native:
        size, reason = native, "what the pretrained weights were made for"
    else:
        size = min(native, max(64, 32 * round(2 * median / 32)))
        reason = f"pretrained weights need more than the images' median of {median:.0f} px"
    if size < smallest:
        size, reason = smallest, f"the smallest that {chosen.recipe.arch} runs at"
    elif facts.largest_size is not None and size > facts.largest_size:
        size, reason = facts.largest_size, f"the largest that {chosen.recipe.arch} is built for"
    chosen.choose("size", size, reason)


def _choose_pretrained(chosen: _Choices, facts: Facts) -> None:
    imagenet = chosen.recipe.weights == "imagenet"
    near = imagenet and not facts.is_gtsrb
    if chosen.recipe.probe_first:
        chosen.fix("freeze_epochs", 0, "the head starts from a linear probe")
    elif imagenet:
        steps = max(1, chosen.epoch(facts) // chosen.recipe.batch_size)
        chosen.choose("freeze_epochs", max(1, min(8, math.ceil(60 / steps))), "the new head first, some 60 steps")
    else:
        chosen.choose("freeze_epochs", 0, "weights of one's own: all layers from the start")
    chosen.choose("lr", 2e-3 if imagenet and not near else 1e-3, "pretrained, Adam")
    if near:
        chosen.choose("batch_norm", BatchNorm.KEEP, "ImageNet's statistics suit photos, those of small batches waver")
        chosen.choose("lr_ratio", 100.0, "ImageNet's first layers suit photos: a hundredth of the head's rate")
    else:
        reason = "the weights come from images unlike these"
        chosen.choose("batch_norm", BatchNorm.TRAIN, reason)
        chosen.choose("lr_ratio", 1.0 if imagenet else 5.0, f"{reason}: all layers have to move")
    chosen.choose("optimizer", Optimizer.ADAM, "pretrained")
    chosen.choose("weight_decay", 0.01, "pretrained, Adam")
    if near:
        chosen.choose_length(facts, max(2_000, 3 * facts.n_train), 8, "photos: 2,000 images, or each three times")
    else:
        chosen.choose_length(facts, max(4_000, 4 * facts.n_train), 12, "pretrained: 4,000 images, or each four times")


def _choose_from_scratch(chosen: _Choices, facts: Facts) -> None:
    recipe = chosen.recipe
    start, pace = "from scratch", 1.0
    if recipe.weights == "none":
        for name in ("freeze_epochs", "probe_first"):
            if getattr(recipe, name):
                raise SignsclfError(f"{option_name(name)}: from scratch there is nothing worth freezing; leave it out")
        chosen.fix("batch_norm", BatchNorm.TRAIN, "from scratch there are no statistics to keep")
    else:
        start, pace = "from synthetic signs", 0.5
    chosen.choose("batch_norm", BatchNorm.TRAIN, f"{start}: all layers have to move")
    chosen.choose("freeze_epochs", 0, f"{start}: all layers at once")
    sgd = recipe.optimizer is Optimizer.SGD or (recipe.optimizer is None and recipe.arch in _OF_SGD)
    chosen.choose("optimizer", Optimizer.SGD if sgd else Optimizer.ADAM, start)
    _choose_length_from_scratch(chosen, facts)
    short = chosen.passes(facts) <= _FEW_EPOCHS
    if sgd:
        reason = f"{start}, in {chosen.recipe.epochs} epochs"
        chosen.choose("lr", pace * (0.3 if short else 0.2) * min(1.0, recipe.batch_size / 128), reason)
    elif facts.is_normalised or recipe.arch in _SHALLOW:
        chosen.choose("lr", 2e-3, start)
    else:
        chosen.choose("lr", 4e-4, f"{start}, and many layers without batch-norm diverge at higher rates")
    chosen.choose("lr_ratio", 1.0, f"{start}: one rate for all layers")
    chosen.choose("weight_decay", 5e-4 if sgd else 0.01, start)
    if chosen.passes(facts) <= _VERY_FEW_EPOCHS and not facts.is_synthetic:
        chosen.choose(
            "augment", Augment.LIGHT, f"{chosen.recipe.epochs} epochs: images that change little teach faster"
        )


def _choose_probe(chosen: _Choices, facts: Facts) -> None:
    if chosen.recipe.weights == "none" or facts.is_synthetic:
        what = "synthetic signs are new ones every epoch" if facts.is_synthetic else "random weights"
        raise SignsclfError(f"--freeze: {what}, whose features are not worth keeping; leave it out")
    why = "with --freeze a linear probe is solved, not trained in steps"
    for name in ("lr", "optimizer", "teacher"):
        chosen.fix(name, None, why)
    for name, only in (
        *(("freeze_epochs", 0), ("lr_ratio", 1.0), ("ema_decay", 0.0), ("batch_norm", BatchNorm.KEEP)),
        *(("shards", 1), ("patience", 0), ("add_synthetic", 0), ("augment", Augment.NONE), ("outliers", 0.0)),
        *(("precision", Precision.FP32), ("epochs", 1), ("epoch_images", 0), ("samples", facts.n_train)),
    ):
        chosen.fix(name, only, why)


def _choose_solved(chosen: _Choices, facts: Facts) -> None:
    why = "it is solved, not trained in steps"
    for name in ("lr", "optimizer", "teacher"):
        chosen.fix(name, None, why)
    for name, only in (*_PLAIN, ("patience", 0), ("weights", "none")):
        chosen.fix(name, only, why)
    chosen.choose("weight_decay", 0.01, "a little ridge: neighbouring pixels are nearly alike")
    chosen.choose_length(facts, facts.n_train, 60, "each image, as augmented, counts once")
    _choose_plain_precision(chosen)


def _choose_numpy(chosen: _Choices, facts: Facts) -> None:
    why = "its steps are plain SGD with momentum, in NumPy"
    if chosen.recipe.lr == AUTO_LR:
        raise SignsclfError(f"--lr auto: not for {chosen.recipe.arch}: {why}; give a number")
    for name, only in (*_PLAIN, ("optimizer", Optimizer.SGD), ("teacher", None)):
        chosen.fix(name, only, why)
    chosen.choose("lr", 0.02, "SGD on pixels")
    chosen.choose("weight_decay", 5e-4, "SGD")
    _choose_length_from_scratch(chosen, facts)
    _choose_plain_precision(chosen)


def _choose_plain_precision(chosen: _Choices) -> None:
    why = "it is computed without torch's gradients"
    chosen.fix("precision", Precision.FP32, why)
    chosen.fix("device", Device.CPU, why)


def _choose_length_from_scratch(chosen: _Choices, facts: Facts) -> None:
    if facts.is_synthetic:
        samples = 300_000 if chosen.recipe.arch == _FASTEST else 1_000_000
        reason = "synthetic signs are new ones every time, so that more of them teach more"
    elif chosen.recipe.arch == _FASTEST and chosen.recipe.weights == SYNTHETIC_WEIGHTS:
        samples, reason = max(36_000, facts.n_train // 2), "synthetic signs have taught it most: 36,000 images, or half"
    elif chosen.recipe.arch == _FASTEST:
        samples, reason = max(72_000, facts.n_train), "a network that learns quickly: 72,000 images, or each once"
    else:
        samples, reason = max(240_000, 6 * facts.n_train), "from scratch: 240,000 images, or each six times"
    # Synthetic signs are not repeated.
    chosen.choose_length(facts, samples, sys.maxsize if facts.is_synthetic else 60, reason)


def _choose_precision(chosen: _Choices, facts: Facts) -> None:
    if facts.has_bf16:
        chosen.choose("precision", Precision.BF16, f"this {facts.device.value} multiplies bf16 in hardware")
    elif facts.device is Device.CUDA and chosen.recipe.shards == 1:
        chosen.choose("precision", Precision.FP16, "this GPU has no bf16")
    else:
        chosen.choose("precision", Precision.FP32, f"this {facts.device.value} has no bf16 units")
    if chosen.recipe.precision is Precision.FP16 and chosen.recipe.shards > 1:
        raise SignsclfError("--precision fp16: not for several processes or --shards; use bf16 or fp32")
    if chosen.recipe.precision is Precision.FP16 and facts.device is not Device.CUDA:
        raise SignsclfError(f"--precision fp16: it needs CUDA, and this runs on {facts.device.value}; use bf16 or fp32")
