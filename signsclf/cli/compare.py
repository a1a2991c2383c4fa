"""The command ``signsclf compare``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from signsclf.choices import Reading
from signsclf.cli.options import (
    AsJson,
    CacheOption,
    MaxPixels,
    Overwrite,
    SkipBad,
    SourceArg,
    new_app,
    reading_options,
    writable_folder,
)
from signsclf.cli.recipe_options import recipe_options
from signsclf.cli.terminal import TerminalObserver, echo, echo_json, eprint
from signsclf.errors import SignsclfError, require_extra
from signsclf.recipe import COMPARED_ARCHITECTURES, Recipe

FOR_ALL = (
    *("weights", "size", "epochs", "batch_size", "label_smoothing", "balance", "augment", "flip", "crop"),
    *("split_by", "valid_fraction", "fold", "add_synthetic", "device", "seed"),
)
"""Fields of the recipe that make sense for every architecture."""


app = new_app()


@app.command("compare")
@functools.partial(recipe_options, fields=FOR_ALL)
@reading_options
def compare_command(
    recipe: Recipe,
    reading: Reading,
    source: SourceArg,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the comparison, and for a model folder per architecture.")
    ],
    models: Annotated[
        str | None,
        typer.Option(
            "--models",
            help="Architectures to train, separated by commas, such as mlp,signnet.  [default: those of "
            f"{', '.join(COMPARED_ARCHITECTURES)} that suit the images' size]",
            metavar="NAME,…",
        ),
    ] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    cache: CacheOption = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Compare several architectures, trained on the same images.

    Example: signsclf compare photos --out comparison --models mlp,resnet18,signnet
    """
    require_extra("train", "compare")
    names = None if models is None else [name.strip() for name in models.split(",")]
    if names is not None and not all(names):
        raise SignsclfError("--models: a name is empty; give names with commas between, such as mlp,signnet")
    writable_folder(out)
    from signsclf.report.comparison import text_table
    from signsclf.runs.compare import compare
    from signsclf.training.precision import keep_memory

    keep_memory()
    observer = TerminalObserver()
    done = compare(
        source,
        out,
        names,
        recipe,
        layout=reading,
        skip_bad=skip_bad,
        overwrite=overwrite,
        cache=cache,
        observer=observer,
        stop=observer.stop.event,
    )
    if as_json:
        echo_json(done.comparison.to_dict())
    else:
        for line in text_table(done.comparison):
            echo(line)
    for path in done.written:
        eprint(f"written: {path}")
    if done.stopped:
        eprint("stopped; the same command resumes, and keeps the models that are finished")
        raise typer.Exit(128 + (observer.stop.signal or 2))
    if any(result.error for result in done.comparison.results):
        raise typer.Exit(1)
