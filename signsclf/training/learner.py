"""fastai learners: the one that trains, and the stock one that other programs load."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.callback.training import BnFreeze
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import ItemGetter, Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD, Adam
from fastai.vision.augment import Resize, ResizeMethod
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner
from PIL import Image
from torch import nn

from signsclf.errors import ModelError, SignsclfError
from signsclf.files import user_path
from signsclf.model import folder as modelfolder
from signsclf.recipe import BatchNorm, Device, Optimizer, Recipe
from signsclf.training.architectures import (
    Architecture,
    body_and_head,
    classifier_name,
    create,
    find,
    parameter_groups,
    read_weights,
)
from signsclf.training.settings import own_settings


def choose_device(wanted: Device | None) -> Device:
    """The device to train on: the one wanted, else CUDA, else the CPU.

    MPS is never chosen: nobody has run the tests on it.

    Raises:
        SignsclfError: the one wanted is not there.
    """
    there = {
        Device.CUDA: torch.cuda.is_available(),
        Device.MPS: torch.backends.mps.is_available(),
        Device.CPU: True,
    }
    if wanted is not None:
        if not there[wanted]:
            raise SignsclfError(f"--device {wanted.value}: torch finds none on this machine; use auto or cpu")
        return wanted
    return Device.CUDA if there[Device.CUDA] else Device.CPU


def describe_device(device: Device) -> str:
    """Name the device for a person: the GPU's name, or the CPU and torch's threads."""
    if device is Device.CUDA:
        return torch.cuda.get_device_name()
    return f"{device.value}, {torch.get_num_threads()} threads"


def has_bf16(device: Device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware: there it is several times fp32's speed."""
    if device is Device.CUDA:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device is Device.CPU and platform.machine().lower() in ("x86_64", "amd64"):
        # torch has no public way to ask; where a release renames these, fp32 is right everywhere.
        asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(supported() for supported in asked if supported is not None)
    return False


class KeptStatistics(Callback):
    """Batch-norm normalises by the statistics that it has, as when predicting, and does not change them."""

    run_after = TrainEvalCallback

    def before_train(self) -> None:
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def build_learner(loaders: DataLoaders, model: nn.Module, arch: Architecture, recipe: Recipe) -> Learner:
    """A fastai ``vision_learner`` whose body and head are views of ``model``: training it trains ``model`` in place.

    Args:
        loaders: see `signsclf.training.loaders.dataloaders`.
        model: the whole network, weights filled in.
        recipe: resolved.
    """
    body, head = body_and_head(model, arch)
    # vision_learner takes a cut and drops it: it cuts before the last pooling layer, so here is one to cut at.
    whole = nn.Sequential(body, nn.AdaptiveAvgPool2d(1))
    groups = parameter_groups(model, classifier_name(model, loaders.c))
    learner = vision_learner(
        loaders,
        lambda pretrained: whole,
        custom_head=head,
        init=None,
        n_out=loaders.c,
        normalize=False,
        pretrained=recipe.weights != "none",
        splitter=lambda _: groups,
        opt_func=partial(SGD, mom=0.9) if recipe.optimizer is Optimizer.SGD else Adam,
        loss_func=nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
        lr=1e-3,
        wd=recipe.weight_decay,
        # With batch-norm frozen too, the head's epochs need no gradient through the body at all.
        train_bn=False,
        # And its statistics: features normalised batch by batch are not those that the head will be judged on.
        cbs=[BnFreeze(), *([KeptStatistics()] if recipe.batch_norm is BatchNorm.KEEP else [])],
    )
    learner.remove_cbs([cb for cb in learner.cbs if type(cb).__name__ == "ProgressCallback"])
    if recipe.device is not Device.MPS:
        model.to(memory_format=torch.channels_last)
    return learner


def stock_learner(
    model: nn.Module, classes: Sequence[str], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Learner:
    """A learner of stock fastai parts around a network: ImageBlock, squish to size, Normalize; no data of ours in it.

    It takes what fastai's own ``predict`` and ``test_dl`` take, and pickles without a reference to this package.
    """
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(classes), sort=False)),
        getters=[ItemGetter(0), ItemGetter(1)],
        item_tfms=Resize(size, method=ResizeMethod.Squish),
        batch_tfms=Normalize.from_stats(list(mean), list(std), cuda=False),
    )
    with tempfile.TemporaryDirectory() as folder:
        blank = Path(folder) / "blank.png"
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(blank)
        items = [(blank, classes[0]), (blank, classes[-1])]
        loaders = block.dataloaders(items, bs=2, num_workers=0, device=torch.device("cpu"), path=Path())
        learner = Learner(loaders, model, loss_func=CrossEntropyLossFlat(), path=Path())
        learner.dls = loaders.new_empty()
    # A PosixPath within a pickle cannot be opened on Windows.
    learner.path = learner.dls.path = PurePosixPath()
    return learner


def restore_model(folder: Path) -> tuple[nn.Module, modelfolder.Config]:
    """The network of a model folder with its weights, in eval mode, and the folder's configuration.

    Raises:
        ModelError: the folder is missing, damaged or does not fit its architecture.
    """
    config = modelfolder.read_config(folder)
    modelfolder.verify_sums(folder, [modelfolder.CONFIG, modelfolder.WEIGHTS])
    model = create(find(config.architecture), len(config.classes), config.input_size[0])
    state = read_weights(folder / modelfolder.WEIGHTS)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{folder}: the weights are not those of {config.architecture}") from error
    return model.eval(), config


@own_settings()
def load_learner(folder: str | Path) -> Learner:
    """A fastai learner rebuilt from a model folder's safetensors, without a pickle, ready to predict and to train on.

    To train, give it data: ``learner.dls = ...`` with the same vocabulary.

    Raises:
        ModelError: the folder is missing, damaged, or of an unknown version.
    """
    model, config = restore_model(user_path(folder, ModelError))
    return stock_learner(model, config.classes, config.input_size, config.mean, config.std)
