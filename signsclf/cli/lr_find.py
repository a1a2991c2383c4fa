"""The command ``signsclf lr-find``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from signsclf.choices import Reading
from signsclf.cli.options import (
    CacheOption,
    DataDir,
    MaxPixels,
    OptionalSource,
    OverwriteFiles,
    SkipBad,
    Yes,
    new_app,
    reading_options,
    writable_folder,
)
from signsclf.cli.recipe_options import recipe_options
from signsclf.cli.sources import read_source_or_gtsrb
from signsclf.cli.terminal import TerminalObserver, echo, eprint
from signsclf.errors import require_extra
from signsclf.outputs import SEARCH_FILES, refuse_replacing
from signsclf.recipe import Recipe

app = new_app()


@app.command("lr-find")
@recipe_options
@reading_options
def lr_find_command(
    recipe: Recipe,
    reading: Reading,
    source: OptionalSource = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for lr_find.png and lr_find.json.")] = Path("lr_find"),
    overwrite: OverwriteFiles = False,
    skip_bad: SkipBad = False,
    cache: CacheOption = "auto",
    max_pixels: MaxPixels = None,
    data_dir: DataDir = None,
    yes: Yes = False,
) -> None:
    """Search for a learning rate, with a plot and suggestions.

    Example: signsclf lr-find photos --out lr_find
    """
    require_extra("train", "lr-find")
    found = read_source_or_gtsrb(source, reading, data_dir, yes)
    writable_folder(out)
    for name in SEARCH_FILES:
        refuse_replacing(out / name, overwrite, [found.origin])
    from signsclf.runs.train import search_lr, write_search
    from signsclf.training.precision import keep_memory

    keep_memory()
    observer = TerminalObserver()
    search = search_lr(found, recipe, skip_bad=skip_bad, cache=cache, observer=observer)
    write_search(search, out)
    for name, rate in search.suggestions.items():
        echo(f"{name:8} {'none: the curve is too short' if rate is None else f'{rate:.2e}'}")
    if search.diverged_early:
        eprint(f"the loss diverged after {len(search.lrs)} rates; trust the suggestions less")
    eprint(f"written: {out / 'lr_find.png'}, {out / 'lr_find.json'}")
