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
from fastai.callback.training import BnFreeze, bn_types
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
from signsclf.recipe import BatchNorm, Device, Optimizer, Recipe
from signsclf.training.architectures import (
    Architecture,
    body_and_head,
    classifier_name,
    parameter_groups,
    restore_model,
)
from signsclf.training.epochs import EpochHistory
from signsclf.training.fastai_internals import uncut
from signsclf.training.losses import teaching
from signsclf.training.settings import own_settings


def choose_device(wanted: Device | None) -> Device:
    """Choose the device to train on: the one wanted, else CUDA, else the CPU.

    MPS is never chosen: nobody has run the tests on it.

    Raises:
        SignsclfError: the machine lacks the one wanted.
    """
    exists = {
        Device.CUDA: torch.cuda.is_available(),
        Device.MPS: torch.backends.mps.is_available(),
        Device.CPU: True,
    }
    if wanted is not None:
        if not exists[wanted]:
            raise SignsclfError(f"--device {wanted.value}: torch finds none on this machine; use auto or cpu")
        return wanted
    return Device.CUDA if exists[Device.CUDA] else Device.CPU


def describe_device(device: Device) -> str:
    """Name the device for a person: the GPU's name, or the CPU and torch's threads."""
    if device is Device.CUDA:
        return torch.cuda.get_device_name()
    return f"{device.value}, {torch.get_num_threads()} threads"


def has_bf16(device: Device) -> bool:
    """Say whether the device multiplies bf16 matrices in hardware, several times as fast as fp32 ones."""
    if device is Device.CUDA:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device is Device.CPU and platform.machine().lower() in ("x86_64", "amd64"):
        # torch has no public way to ask; where a release renames these, fp32 is right everywhere.
        asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(supported() for supported in asked if supported is not None)
    return False


class KeptStatistics(Callback):
    """Makes batch-norm normalise by the statistics that it has, as when predicting, and leave them as they are."""

    run_after = TrainEvalCallback

    def before_train(self) -> None:
        for module in self.model.modules():
            if isinstance(module, bn_types):
                module.eval()


def build_learner(loaders: DataLoaders, model: nn.Module, arch: Architecture, recipe: Recipe) -> Learner:
    """Make a fastai ``vision_learner`` whose body and head are views of ``model``, which is trained in place.

    Its callback ``epoch_history`` collects a row for every epoch of every fit.

    Args:
        loaders: see `signsclf.training.loaders.dataloaders`.
        model: the whole network, weights filled in.
        recipe: resolved.

    Raises:
        ModelError: the network does not end in one linear layer over the classes; or see
            `signsclf.training.teachers.find_teachers`.
    """
    classifier_name(model, loaders.c)
    body, head = body_and_head(model, arch)
    loss, for_loss = teaching(recipe, arch, loaders.vocab)
    learner = vision_learner(
        loaders,
        partial(_built, uncut(body)),
        custom_head=head,
        init=None,
        n_out=loaders.c,
        normalize=False,
        pretrained=recipe.weights != "none",
        splitter=partial(_groups, n_classes=loaders.c),
        opt_func=partial(SGD, mom=0.9) if recipe.optimizer is Optimizer.SGD else Adam,
        loss_func=loss,
        lr=1e-3,
        wd=recipe.weight_decay,
        # With batch-norm frozen too, the head's epochs need no gradient through the body at all.
        train_bn=False,
        # And its statistics: features normalised batch by batch are not those that the head is evaluated on.
        cbs=[
            *(BnFreeze(), EpochHistory(loaders.c), *for_loss),
            *([KeptStatistics()] if recipe.batch_norm is BatchNorm.KEEP else []),
        ],
    )
    # For loggers, in place of the network itself, which would be exported twice.
    learner.arch = arch.name
    if recipe.device is not Device.MPS:
        model.to(memory_format=torch.channels_last)
    return learner


def _built(network: nn.Module, pretrained: bool) -> nn.Module:
    """Be an architecture to ``vision_learner``: the network is built and filled already."""
    return network


def _groups(model: nn.Module, n_classes: int) -> list[list[nn.Parameter]]:
    return parameter_groups(model, classifier_name(model, n_classes))


def stock_learner(
    model: nn.Module, classes: Sequence[str], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Learner:
    """Make a learner of stock fastai parts around a network: ImageBlock, squish to size, Normalize; without our data.

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


@own_settings()
def load_learner(folder: str | Path) -> Learner:
    """Rebuild a fastai learner from a model folder's safetensors, without a pickle, ready to predict and to train on.

    To train, give it data: ``learner.dls = ...`` with the same vocabulary.

    Raises:
        ModelError: the folder is missing, damaged, or of an unknown version.
    """
    model, config = restore_model(user_path(folder, ModelError))
    return stock_learner(model, config.classes, config.input_size, config.mean, config.std)
