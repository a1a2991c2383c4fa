"""Command-line options that several commands share, each declared once; the recipe's are in `recipe_options`."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from signsclf.choices import Int8Policy, Layout, Provider, Reading, SplitName
from signsclf.cli.renamed import RenamingCommand, RenamingGroup
from signsclf.cli.terminal import eprint
from signsclf.errors import SignsclfError
from signsclf.files import make_folder, user_path

_SOURCE_HELP = (
    "Labelled images: a folder with one folder for each class, a .zip or .tar, WebDataset shards, a table "
    "(.csv, .json, .parquet …), any of these in a store (s3://…), or synthetic, which renders traffic signs"
)
OptionalSource = Annotated[str | None, typer.Argument(help=f"{_SOURCE_HELP}; unset: GTSRB.", metavar="SOURCE")]
SourceArg = Annotated[str, typer.Argument(help=f"{_SOURCE_HELP}.", metavar="SOURCE")]
LayoutOption = Annotated[Layout | None, typer.Option("--layout", help="Layout of SOURCE; unset: recognised.")]
ClassLevel = Annotated[
    int | None,
    typer.Option(
        "--class-level", help="Depth of the class folders below SOURCE; 1: right in it; unset: recognised.", min=1
    ),
]
ZipEncoding = Annotated[
    str | None,
    typer.Option(
        "--zip-encoding",
        help="Encoding of a .zip's names that are not marked as UTF-8, such as cp932; unset: guessed.",
        metavar="NAME",
    ),
]


def _limit_pixels(limit: int | None) -> None:
    if limit is not None:
        from signsclf.images import limit_pixels

        limit_pixels(limit)


MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        help="Refuse images with more pixels; unset: 100,000,000, which take 400 MB.",
        envvar="SIGNSCLF_MAX_PIXELS",
        metavar="N",
        min=1,
        callback=_limit_pixels,
        # Set for the whole process, so that no command passes it on.
        expose_value=False,
    ),
]
PathColumn = Annotated[
    str | None,
    typer.Option(
        "--path-column",
        help="Column of a table that holds the image paths: its name, or its number from 1.",
        metavar="NAME",
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        help="Column of a table that holds the labels: its name, or its number from 1.",
        metavar="NAME",
    ),
]
MergeCase = Annotated[
    bool, typer.Option("--merge-case", help="Make one class of labels that differ only in case or spaces.")
]
_READING: dict[str, Any] = {
    "layout": LayoutOption,
    "class_level": ClassLevel,
    "zip_encoding": ZipEncoding,
    "path_column": PathColumn,
    "label_column": LabelColumn,
    "merge_case": MergeCase,
}
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave unreadable images out and list them, instead of stopping.")
]
CacheOption = Annotated[
    str,
    typer.Option(
        "--cache",
        help="Folder for decoded images, which later runs reuse; auto: the user's cache folder. Images that do not fit "
        "there stay in memory; those that do not fit there either are streamed: decoded anew in every epoch. stream: "
        "always streamed; off: decoded for this run alone.",
        metavar="DIR|stream|off",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of GTSRB, for when no SOURCE is given; unset: $SIGNSCLF_DATA_DIR, else in the user's data folder.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Download GTSRB (366 MB) without asking.")]
ModelDir = Annotated[Path, typer.Argument(help="Model folder, as train and export write it.", metavar="MODEL")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing model folder that signsclf wrote.")]
OverwriteFiles = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing files that signsclf did not write, too.")
]
Int8Option = Annotated[
    bool,
    typer.Option("--int8", help="Also write model.int8.onnx, smaller and faster, unless it loses too much accuracy."),
]
ForceInt8Option = Annotated[
    bool, typer.Option("--force-int8", help="Also write model.int8.onnx, however much accuracy it loses.")
]
MaxAcceptedError = Annotated[
    float,
    typer.Option(
        "--max-accepted-error",
        help="Selective risk to aim at, 0 to 1: how many of the accepted answers may be wrong; sets the threshold.",
    ),
]
Bare = Annotated[bool, typer.Option("--bare", help="Leave out the tables that name the images, such as run/split.csv.")]
LearnerOption = Annotated[
    bool, typer.Option("--learner", help="Also write learner.pkl, for fastai; a pickle can run code when it is opened.")
]
Pictures = Annotated[
    bool, typer.Option("--pictures", help="Keep some of the images: a training batch, the mistakes, golden images.")
]
Rehearsal = Annotated[
    bool,
    typer.Option(
        "--rehearsal/--no-rehearsal",
        help="Where nothing is held out: train again without a fifth of the images, for the calibration.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
SplitOption = Annotated[
    SplitName | None, typer.Option("--split", help="Split to evaluate; unset: test if SOURCE has one, else valid.")
]
DeviceOption = Annotated[
    Provider,
    typer.Option(
        "--device", help="Device to run the model on; auto: CUDA if signsclf[gpu] is installed, else the CPU."
    ),
]


class _App(typer.Typer):
    """An app whose commands expand ``~`` in paths, which a shell does not in ``--out=~/m``."""

    def command(self, *names: Any, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
        register = super().command(*names, cls=RenamingCommand, **settings)

        def add(function: Callable[..., None]) -> Callable[..., None]:
            @functools.wraps(function)
            def expanded(**values: Any) -> None:
                function(**{name: _expanded(value) for name, value in values.items()})

            return register(expanded)

        return add


def _expanded(value: Any) -> Any:
    if isinstance(value, Path):
        return user_path(value)
    return [_expanded(each) for each in value] if isinstance(value, list) else value


def new_app(**settings: Any) -> typer.Typer:
    """Make the app for the commands of one module, with plain help; see `signsclf.cli.app.MODULES`."""
    return _App(cls=RenamingGroup, rich_markup_mode=None, pretty_exceptions_enable=False, **settings)


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes ``reading`` one option for each field of `signsclf.choices.Reading`."""
    plain = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        command(reading=Reading(**{name: values.pop(name) for name in _READING}), **values)

    kept = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name])
        for p in plain.parameters.values()
        if p.name != "reading"
    ]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Reading, name), annotation=kind)
        for name, kind in _READING.items()
    ]
    parameters = [*kept, *options]
    with_options.__signature__ = plain.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options


def given_options(context: typer.Context) -> dict[str, str]:
    """Return what was given on the command line, even if equal to a default: parameter names to option names."""
    given = {}
    for parameter in context.command.params:
        if getattr(context.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE":
            named = max(parameter.opts, key=len)
            given[parameter.name] = named if named.startswith("-") else parameter.human_readable_name
    return given


def chosen_int8(int8: bool, force: bool) -> Int8Policy:
    """Combine the two flags into one choice."""
    return Int8Policy.FORCE if force else Int8Policy.CHECKED if int8 else Int8Policy.NONE


def writable_folder(folder: Path) -> None:
    """Make a folder for results before the work begins.

    Raises:
        SignsclfError: it cannot be made or written to.
    """
    make_folder(folder)
    if not os.access(folder, os.W_OK):
        raise SignsclfError(f"{folder}: cannot be written to; name another folder")


def provider_name(device: Provider) -> str:
    """Return where an exported model will run, "cuda" or "cpu", after a note where that is not what was asked for."""
    if device is Provider.CPU:
        return device.value
    from signsclf.inference.runtime import cuda_trouble, has_gpu_package

    trouble = cuda_trouble()
    if trouble is None:
        return Provider.CUDA.value
    if device is Provider.CUDA or has_gpu_package():
        eprint(f"note: running on the CPU: {trouble}")
    return Provider.CPU.value
