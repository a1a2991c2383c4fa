"""The fields of the recipe as command-line options, for every command that trains."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import typer

from signsclf.errors import SignsclfError
from signsclf.recipe import AUTO_LR, PRESETS, Device, Recipe, preset

HELP = {
    "arch": "Architecture: a rung of the ladder, one of torchvision's, or any timm name.",
    "weights": "Start from: imagenet, none, a .safetensors or .pth FILE, or a model folder.",
    "size": "Side in pixels that images are squashed to.",
    "epochs": "Epochs with all layers trained.",
    "samples": "Images to draw in all, where --epochs is unset.",
    "epoch_images": "Images to draw in an epoch, else as comes to --samples; 0: as many as there are.",
    "freeze_epochs": "Epochs before them with the head alone.",
    "batch_size": "Images a step.",
    "lr": "Highest learning rate, or auto for a search first.",
    "lr_ratio": "The head's learning rate over the first layers'.",
    "optimizer": "Update rule.",
    "weight_decay": "Decoupled weight decay.",
    "batch_norm": "Statistics of each batch, or those of the starting weights.",
    "label_smoothing": "Share of the target spread over all classes.",
    "ema_decay": "Decay of the averaged weights; 0 is off.",
    "balance": "How often images of rare classes are drawn.",
    "augment": "How far training images are changed.",
    "flip": "Mirroring; map is GTSRB's own.",
    "crop": "Show the whole image, or the source's box.",
    "split_by": "What a held-out part keeps whole.",
    "valid_fraction": "Share held out where the source holds none out.",
    "fold": "Not --valid-fraction but the K-th of N disjoint folds is held out.",
    "add_synthetic": "Drawn signs added to each class's training images: GTSRB's alone.",
    "patience": "Stop after so many epochs without a better one; 0 never.",
    "precision": "Arithmetic of training.",
    "device": "Where to train; auto takes a GPU where there is one.",
    "seed": "Of everything drawn at random.",
}
_Device = Enum("Device", {"AUTO": "auto", **{d.name: d.value for d in Device}}, type=str)


def recipe_options(command: Callable[..., None], fields: Sequence[str] | None = None) -> Callable[..., None]:
    """Gives a command that takes ``recipe`` one option for each field of `Recipe`, and ``--recipe`` for the preset.

    Args:
        fields: those that get an option; with them there is no ``--recipe``, since a preset sets others too.
    """
    plain = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)
    names = fields or [field.name for field in dataclasses.fields(Recipe)]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in names}
        name = values.pop("preset_name", None)
        command(recipe=build_recipe(name, chosen), **values)

    kept = [
        p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name])
        for p in plain.parameters.values()
        if p.name != "recipe"
    ]
    given = inspect.Parameter(
        "preset_name",
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(None, "--recipe", help=f"Start from a preset: {', '.join(PRESETS)}."),
        annotation=str | None,
    )
    with_options.__signature__ = plain.replace(
        parameters=[*kept, *([given] if fields is None else []), *map(_option, names)]
    )
    with_options.__annotations__ = {p.name: p.annotation for p in with_options.__signature__.parameters.values()}
    return with_options


def build_recipe(preset_name: str | None, chosen: dict[str, Any]) -> Recipe:
    """The preset's recipe with the chosen values in place of its own; None leaves a field as it is."""
    base = preset(preset_name) if preset_name else Recipe()
    values = {name: value for name, value in chosen.items() if value is not None}
    if "fold" in values and "valid_fraction" in values:
        raise SignsclfError("--fold: it says what is held out, as --valid-fraction does; give one of them")
    if "device" in values:
        values["device"] = None if values["device"].value == "auto" else values["device"].value
    if "lr" in values and values["lr"] != AUTO_LR:
        try:
            values["lr"] = float(values["lr"])
        except ValueError:
            raise SignsclfError(f"--lr: {values['lr']!r} is neither a number nor {AUTO_LR}") from None
    return base.replace(**values)


def _option(name: str) -> inspect.Parameter:
    default = getattr(Recipe(), name)
    shown = f"  [default: {default.value if isinstance(default, Enum) else default}]" if default is not None else ""
    metavar = {"lr": "X|auto", "fold": "K/N"}.get(name)
    # Without a default of its own, so that a preset can have its say.
    option = typer.Option(None, "--" + name.replace("_", "-"), help=HELP[name] + shown, metavar=metavar)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=_kind(name) | None)


def _kind(name: str) -> type:
    """The type that the option is parsed as: the field's own, but for ``auto``."""
    if name == "device":
        return _Device
    if name == "lr":
        return str
    kinds = typing.get_args(_hints()[name]) or (_hints()[name],)
    return next(kind for kind in kinds if kind is not type(None))


@functools.cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Recipe)
