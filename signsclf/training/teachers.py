"""Model folders as teachers: found, checked, and asked about the batches of another network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from signsclf.errors import ModelError
from signsclf.files import file_hash, user_path
from signsclf.model import folder as modelfolder
from signsclf.recipe import Recipe
from signsclf.training.architectures import Architecture, restore_model
from signsclf.training.precision import Autocast

_PINNED = re.compile("(.+)@sha256:([0-9a-f]{64})", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model folder that teaches.

    Attributes:
        folder: absolute path.
        sha256: of its model.safetensors.
        config: its config.json.
    """

    folder: Path
    sha256: str
    config: modelfolder.Config

    @property
    def pinned(self) -> str:
        """How a recipe names it: the folder, and which weights are to be in it."""
        return f"{self.folder}@sha256:{self.sha256}"


def find_teachers(recipe: Recipe, classes: Sequence[str]) -> tuple[Teacher, ...]:
    """Find the teachers of a recipe for these classes.

    Args:
        recipe: each of its teachers is a folder, or what `Teacher.pinned` gives.
        classes: of what is trained on, in any order.

    Raises:
        ModelError: a folder is missing or damaged, has other weights than those pinned, knows other classes, or sees
            another part of an image.
    """
    return tuple(_find(named, recipe, classes) for named in recipe.teacher or ())


def _find(named: str, recipe: Recipe, classes: Sequence[str]) -> Teacher:
    pinned = _PINNED.fullmatch(named)
    try:
        folder = user_path(pinned[1] if pinned else named, ModelError).absolute()
        config = modelfolder.read_config(folder)
        modelfolder.verify_sums(folder, [modelfolder.CONFIG, modelfolder.WEIGHTS])
        sha256 = file_hash(folder / modelfolder.WEIGHTS)
    except (ModelError, OSError) as error:
        again = "; put back the one that the training began with" if pinned else ""
        raise ModelError(f"--teacher {error}{again}") from error
    if pinned and pinned[2] != sha256:
        raise ModelError(f"--teacher {folder}: its weights are not those of SHA-256 {pinned[2]}; put those back")
    if set(config.classes) != set(classes):
        lacking, more = sorted(set(classes) - set(config.classes)), sorted(set(config.classes) - set(classes))
        what = f"does not know {lacking[0]!r}" if lacking else f"also knows {more[0]!r}"
        raise ModelError(f"--teacher {folder}: it {what}; a teacher has the very classes of the images, in any order")
    if config.crop != recipe.crop.value:
        raise ModelError(
            f"--teacher {folder}: it was trained with --crop {config.crop}, and this is --crop {recipe.crop.value}; "
            "both have to see the same part of an image"
        )
    return Teacher(folder=folder, sha256=sha256, config=config)


class Teachers:
    """Networks of model folders, in evaluation mode, that answer to batches made for another network.

    Each sees the pixels of the batch, with its own normalisation, resized where it was made for another size. Its
    logits are as it ships them, divided by its own temperature, so that those of several are alike.

    Args:
        teachers: at least one.
        recipe: of the network that is taught, resolved.
        arch: of that network.
        classes: in its order.
    """

    def __init__(self, teachers: Sequence[Teacher], recipe: Recipe, arch: Architecture, classes: Sequence[str]) -> None:
        device = torch.device(recipe.device.value)
        self.autocast = Autocast(device.type, recipe.precision)
        self.members = []
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (arch.mean, arch.std))
        for teacher in teachers:
            config = teacher.config
            network, _ = restore_model(teacher.folder)
            own_mean, own_std = (
                torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (config.mean, config.std)
            )
            order = torch.tensor([config.classes.index(name) for name in classes], device=device)
            # From the batch's normalisation to the teacher's in one step.
            scale, shift = std / own_std, (mean - own_mean) / own_std
            network = network.to(device, memory_format=torch.channels_last).requires_grad_(False)
            self.members.append((network, config.input_size, scale, shift, order))

    @torch.no_grad()
    def __call__(self, view: torch.Tensor, temperature: float) -> torch.Tensor:
        """Give the mean of their probabilities at a temperature, float (N, C).

        Args:
            view: a batch as the network that is taught sees it, float (N, 3, H, W).
        """
        answers = []
        for network, size, scale, shift, order in self.members:
            x = view * scale + shift
            if x.shape[2:] != size:
                x = F.interpolate(x, size, mode="bilinear", antialias=True)
            with self.autocast.context(network):
                logits = network(x)
            answers.append((logits.float()[:, order] / temperature).softmax(1))
        return torch.stack(answers).mean(0)
