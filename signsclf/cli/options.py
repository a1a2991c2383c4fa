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
from signsclf.files import user_path

SOURCE_HELP = "A folder, a .zip, a table (.csv, .json, .parquet …), or synthetic; none means GTSRB."
OptionalSource = Annotated[str | None, typer.Argument(help=SOURCE_HELP, metavar="SOURCE")]
Source = Annotated[str, typer.Argument(help="A folder, a .zip, a table (.csv, .json, .parquet …), or synthetic.")]
LayoutOption = Annotated[Layout | None, typer.Option("--layout", help="How the source lies; unset: recognised.")]
ClassLevel = Annotated[
    int | None,
    typer.Option(
        "--class-level", help="How many folders below SOURCE the class folders lie; unset: recognised.", min=1
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
        help="Refuse larger images; unset: 100,000,000, which take 400 MB each.",
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
    typer.Option("--path-column", help="Column of a table with the images: its name, or its number.", metavar="NAME"),
]
LabelColumn = Annotated[
    str | None,
    typer.Option("--label-column", help="Column of a table with the labels: its name, or number.", metavar="NAME"),
]
MergeCase = Annotated[
    bool, typer.Option("--merge-case", help="Make labels that differ by case or spaces alone one class.")
]
_READING: dict[str, Any] = {
    "layout": LayoutOption,
    "class_level": ClassLevel,
    "zip_encoding": ZipEncoding,
    "path_column": PathColumn,
    "label_column": LabelColumn,
    "merge_case": MergeCase,
}
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out, and list them.")]
CacheOption = Annotated[
    str,
    typer.Option(
        "--cache", help="Folder for decoded images, shared by runs; auto is the user's, off none.", metavar="DIR|off"
    ),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where GTSRB lies when no SOURCE is given.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Download GTSRB without asking.")]
ModelDir = Annotated[Path, typer.Argument(help="A model folder.", metavar="MODEL")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what signsclf wrote there.")]
OverwriteFiles = Annotated[bool, typer.Option("--overwrite", help="Replace files that signsclf did not write, too.")]
Int8Option = Annotated[bool, typer.Option("--int8", help="Write model.int8.onnx as well, unless it loses too much.")]
ForceInt8Option = Annotated[bool, typer.Option("--force-int8", help="Keep model.int8.onnx however much it loses.")]
MaxAcceptedError = Annotated[
    float, typer.Option("--max-accepted-error", help="Share of accepted-but-wrong to aim the reject threshold at.")
]
Bare = Annotated[
    bool, typer.Option("--bare", help="No learner.pkl, and nothing that shows or names the images trained on.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SplitOption = Annotated[SplitName | None, typer.Option("--split", help="Unset: test if there is one, else valid.")]
DeviceOption = Annotated[Provider, typer.Option("--device", help="auto takes CUDA where the extra gpu brought it.")]


class _App(typer.Typer):
    """Commands whose paths may begin with ``~``, which a shell leaves alone in ``--out=~/m``."""

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
    """An app for the commands of one module, with plain help; see `signsclf.cli.app.MODULES`."""
    return _App(cls=RenamingGroup, rich_markup_mode=None, pretty_exceptions_enable=False, **settings)


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes ``reading`` one option for each field of `signsclf.choices.Reading`."""
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
    """What stands on the command line, though it be a default: the parameters' names, and what each is called there."""
    given = {}
    for parameter in context.command.params:
        if getattr(context.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE":
            named = max(parameter.opts, key=len)
            given[parameter.name] = named if named.startswith("-") else parameter.human_readable_name
    return given


def chosen_int8(int8: bool, force: bool) -> Int8Policy:
    """The two flags as one choice."""
    return Int8Policy.FORCE if force else Int8Policy.CHECKED if int8 else Int8Policy.NONE


def writable_folder(folder: Path) -> None:
    """Makes a folder for results before the work begins.

    Raises:
        SignsclfError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SignsclfError(f"{folder}: cannot be made ({error.strerror or error}); name another folder") from error
    if not os.access(folder, os.W_OK):
        raise SignsclfError(f"{folder}: cannot be written to; name another folder")


def provider_name(device: Provider) -> str:
    """Where an exported model will run: "cuda" or "cpu"; says so where that is not what was asked for."""
    if device is Provider.CPU:
        return device.value
    from signsclf.inference.runtime import cuda_trouble, has_gpu_package

    trouble = cuda_trouble()
    if trouble is None:
        return Provider.CUDA.value
    if device is Provider.CUDA or has_gpu_package():
        eprint(f"note: running on the CPU: {trouble}")
    return Provider.CPU.value
