"""The commands ``signsclf train`` and ``signsclf lr-find``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from signsclf.choices import Reading
from signsclf.cli.data import gtsrb_source
from signsclf.cli.options import (
    AcceptError,
    Bare,
    CacheOption,
    DataDir,
    ForceInt8Option,
    Int8Option,
    MaxPixels,
    OptionalSource,
    Overwrite,
    OverwriteFiles,
    SkipBad,
    Yes,
    chosen_int8,
    given_options,
    new_app,
    reading_options,
    writable_folder,
)
from signsclf.cli.recipe_options import recipe_options
from signsclf.cli.terminal import TerminalObserver, echo, eprint, quoted, shown_path
from signsclf.errors import SignsclfError, require_extra
from signsclf.outputs import SEARCH_FILES, refuse_replacing
from signsclf.recipe import Recipe

DEFAULT_OUT = Path("models/default")
_APPLIED_TO_RUNS = frozenset(
    {"resume", "moved", "overwrite", "accept_error", "int8", "force_int8", "bare", "cache", "max_pixels"}
)
"""Parameters of ``train`` that a run which goes on can take: they decide no weights."""

app = new_app()


@app.command("train")
@recipe_options
@reading_options
def train_command(
    context: typer.Context,
    recipe: Recipe,
    reading: Reading,
    source: OptionalSource = None,
    out: Annotated[Path | None, typer.Option("--out", help="Model folder to write.  [default: models/default]")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the interrupted run of this model folder.")
    ] = None,
    moved: Annotated[
        str | None, typer.Option("--source", help="With --resume: where the same images lie now.", metavar="SOURCE")
    ] = None,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    accept_error: AcceptError = 0.005,
    int8: Int8Option = False,
    force_int8: ForceInt8Option = False,
    bare: Bare = False,
    cache: CacheOption = "auto",
    max_pixels: MaxPixels = None,
    data_dir: DataDir = None,
    yes: Yes = False,
) -> None:
    """Train a classifier, judge it, and export it to a model folder."""
    require_extra("train", "signsclf train")
    from signsclf.runs.folder import claimed, final_folder, partial_folder, read_record, refuse_taken

    observer = TerminalObserver()
    given = given_options(context)
    # What can be wrong is looked at before torch is imported, which takes seconds.
    if resume is not None:
        if kept := [option for name, option in given.items() if name not in _APPLIED_TO_RUNS]:
            hint = "; --source SOURCE names another place of the same images" if "SOURCE" in kept else ""
            belong = "belongs to the run and cannot be changed; leave it out"
            if len(kept) > 1:
                belong = "belong to the run and cannot be changed; leave them out"
            raise SignsclfError(f"--resume: {', '.join(kept)} {belong}{hint}")
        reading = read_record(partial_folder(final_folder(resume.absolute()))).order.reading
        train = _trainer()
        outcome = train.resume(
            resume,
            overwrite=overwrite,
            source=moved,
            accept_error=accept_error if "accept_error" in given else None,
            int8=chosen_int8(int8, force_int8) if {"int8", "force_int8"} & given.keys() else None,
            bare=bare or None,
            cache=cache,
            observer=observer,
            stop=observer.stop.event,
        )
    else:
        if moved is not None:
            raise SignsclfError("--source: goes with --resume; what to train on stands without an option: train SOURCE")
        target = out or DEFAULT_OUT
        with claimed(target.absolute()):
            refuse_taken(target.absolute(), overwrite)
        found = _read_source(source, reading, data_dir, yes)
        train = _trainer()
        outcome = train.train(
            found,
            target,
            recipe,
            overwrite=overwrite,
            skip_bad=skip_bad,
            accept_error=accept_error,
            int8=chosen_int8(int8, force_int8),
            bare=bare,
            cache=cache,
            observer=observer,
            stop=observer.stop.event,
        )
    from signsclf.metrics.classification import headline

    folder = shown_path(final_folder(outcome.folder))
    if outcome.stopped:
        eprint(f"stopped; go on with: signsclf train --resume {folder}")
        raise typer.Exit(128 + (observer.stop.signal or 2))
    if outcome.metrics:
        echo(headline(outcome.metrics))
    echo(f"model: {folder}")
    origin = source or shown_path(Path(outcome.source))
    how = "".join(f" {quoted(flag)}" for flag in reading.flags())
    eprint(f"evaluate it: signsclf evaluate {folder} {quoted(origin)}{how}")
    eprint(f"predict with it: signsclf predict --model {folder} image.png")


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
    """Search for a learning rate: a plot, its numbers, and four suggestions."""
    require_extra("train", "signsclf lr-find")
    found = _read_source(source, reading, data_dir, yes)
    writable_folder(out)
    for name in SEARCH_FILES:
        refuse_replacing(out / name, overwrite, [found.origin])
    train = _trainer()
    observer = TerminalObserver()
    search = train.search_lr(found, recipe, skip_bad=skip_bad, cache=cache, observer=observer)
    train.write_search(search, out)
    for name, rate in search.suggestions.items():
        echo(f"{name:8} {'none: the curve is too short' if rate is None else f'{rate:.2e}'}")
    if search.diverged_early:
        eprint(f"the loss diverged after {len(search.lrs)} rates; trust the suggestions less")
    eprint(f"written: {out / 'lr_find.png'}, {out / 'lr_find.json'}")


def _read_source(source: str | None, reading: Reading, data_dir: Path | None, yes: bool) -> Any:
    from signsclf.data.table import read_source

    return read_source(source or gtsrb_source(data_dir, yes), reading)


def _trainer() -> Any:
    """The module that trains, in a process that may be set up for it."""
    from signsclf.runs import train
    from signsclf.training.precision import keep_memory

    keep_memory()
    return train
