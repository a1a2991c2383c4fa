"""The fields of the recipe as command-line options, for every command that trains."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import typer

from signsclf.errors import SignsclfError
from signsclf.recipe import AUTO_LR, PRESETS, Device, Recipe, describe, is_repeated, option_name, preset, value_type

_Device = Enum("Device", {"AUTO": "auto", **{d.name: d.value for d in Device}}, type=str)


def recipe_options(command: Callable[..., None], fields: Sequence[str] | None = None) -> Callable[..., None]:
    """Give a command that takes ``recipe`` one option for each field of `Recipe`, and ``--recipe`` for a preset.

    Args:
        fields: those that get an option; with them there is no ``--recipe``, since a preset sets others too.
    """
    plain = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)
    names = fields or list(Recipe.__dataclass_fields__)

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
        default=typer.Option(
            None, "--recipe", help=f"Preset to start from: {', '.join(PRESETS)}; other options change its values."
        ),
        annotation=str | None,
    )
    with_options.__signature__ = plain.replace(
        parameters=[*kept, *([given] if fields is None else []), *map(_option, names)]
    )
    with_options.__annotations__ = {p.name: p.annotation for p in with_options.__signature__.parameters.values()}
    return with_options


def build_recipe(preset_name: str | None, chosen: dict[str, Any]) -> Recipe:
    """Return the preset's recipe with the chosen values in place of its own; None leaves a field as it is."""
    base = preset(preset_name) if preset_name else Recipe()
    # An option that may be repeated gives an empty list where it is left out.
    values = {name: value for name, value in chosen.items() if value is not None and value != []}
    if "fold" in values and "valid_fraction" in values:
        raise SignsclfError("--fold: cannot be combined with --valid-fraction; give one of them")
    if "device" in values:
        values["device"] = None if values["device"].value == "auto" else values["device"].value
    if "lr" in values and values["lr"] != AUTO_LR:
        try:
            values["lr"] = float(values["lr"])
        except ValueError:
            raise SignsclfError(f"--lr: {values['lr']!r} is neither a number nor {AUTO_LR}") from None
    return base.replace(**values)


def _option(name: str) -> inspect.Parameter:
    metavar = Recipe.__dataclass_fields__[name].metadata["metavar"]
    # The option has no default, so that a preset's value holds where it is not given.
    option = typer.Option(None, option_name(name), help=describe(name), metavar=metavar)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=_parsed_type(name) | None)


def _parsed_type(name: str) -> type:
    """The type that the option is parsed as: that of the field, except where there is ``auto`` too."""
    if is_repeated(name):
        return list[value_type(name)]
    return {"device": _Device, "lr": str}.get(name) or value_type(name)
