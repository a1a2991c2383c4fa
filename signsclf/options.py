"""Command-line options that several commands share, each declared once; the recipe's are in `recipe_options`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from signsclf.choices import Int8, Layout, Part, Provider
from signsclf.errors import SignsclfError
from signsclf.terminal import tell

SOURCE_HELP = "A folder, a .zip, a .csv or .parquet table, or synthetic; none means GTSRB."
OptionalSource = Annotated[str | None, typer.Argument(help=SOURCE_HELP, metavar="SOURCE")]
Source = Annotated[str, typer.Argument(help="A folder, a .zip, a .csv or .parquet table, or synthetic.")]
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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Int8Option = Annotated[bool, typer.Option("--int8", help="Write model.int8.onnx as well, unless it loses too much.")]
ForceInt8Option = Annotated[bool, typer.Option("--force-int8", help="Keep model.int8.onnx however much it loses.")]
AcceptError = Annotated[
    float, typer.Option("--accept-error", help="Share of accepted-but-wrong to aim the reject threshold at.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SplitOption = Annotated[Part | None, typer.Option("--split", help="Unset: test if there is one, else valid.")]
DeviceOption = Annotated[Provider, typer.Option("--device", help="auto takes CUDA where the extra gpu brought it.")]


def new_app(**settings: Any) -> typer.Typer:
    """An app for the commands of one module, with plain help; see `signsclf.cli.MODULES`."""
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, **settings)


def chosen_int8(int8: bool, force: bool) -> Int8:
    """The two flags as one choice."""
    return Int8.FORCE if force else Int8.CHECKED if int8 else Int8.NONE


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
    from signsclf.runtime import cuda_trouble, has_gpu_package

    trouble = cuda_trouble()
    if trouble is None:
        return Provider.CUDA.value
    if device is Provider.CUDA or has_gpu_package():
        tell(f"note: running on the CPU: {trouble}")
    return Provider.CPU.value
