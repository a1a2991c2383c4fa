"""The command ``signsclf train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from signsclf.choices import Reading, Tracker
from signsclf.cli.options import (
    Bare,
    CacheOption,
    DataDir,
    ForceInt8Option,
    Int8Option,
    LearnerOption,
    MaxAcceptedError,
    MaxPixels,
    OptionalSource,
    Overwrite,
    Pictures,
    SkipBad,
    Yes,
    chosen_int8,
    given_options,
    new_app,
    reading_options,
)
from signsclf.cli.recipe_options import recipe_options
from signsclf.cli.sources import read_source_or_gtsrb
from signsclf.cli.terminal import TerminalObserver, echo, eprint, quoted, shown_path
from signsclf.errors import SignsclfError, require_extra
from signsclf.recipe import Recipe

DEFAULT_OUT = Path("models/default")
_APPLIED_TO_RUNS = frozenset(
    (
        *("resume", "moved", "overwrite", "max_accepted_error", "int8", "force_int8"),
        *("learner", "pictures", "bare", "cache", "max_pixels"),
    )
)
"""Parameters of ``train`` that --resume takes: they do not influence the weights."""

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
        Path | None, typer.Option("--resume", help="Resume the interrupted run of this model folder.")
    ] = None,
    moved: Annotated[
        str | None,
        typer.Option(
            "--source", help="With --resume: where the images of the run are now, if they have moved.", metavar="SOURCE"
        ),
    ] = None,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    max_accepted_error: MaxAcceptedError = 0.005,
    int8: Int8Option = False,
    force_int8: ForceInt8Option = False,
    learner: LearnerOption = False,
    pictures: Pictures = False,
    bare: Bare = False,
    cache: CacheOption = "auto",
    track: Annotated[
        Tracker | None,
        typer.Option(
            "--track",
            help="Report curves, figures and pictures to TensorBoard (folder runs) or to MLflow (its tracking server, "
            "else folder mlruns).",
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    data_dir: DataDir = None,
    yes: Yes = False,
) -> None:
    """Train a classifier, evaluate it, and write a model folder.

    Options of the training that have no default are chosen from the images; the plan that is printed has the reasons.

    Example: signsclf train photos --out models/pets
    """
    require_extra("train", "train")
    if track is not None:
        require_extra("track", f"--track {track}", track.value)
    from signsclf.runs.folder import claimed, final_folder, partial_folder, read_record, refuse_taken

    observer = TerminalObserver()
    given = given_options(context)
    # All checks come before torch is imported, which takes seconds.
    if resume is not None:
        if kept := [option for name, option in given.items() if name not in _APPLIED_TO_RUNS]:
            hint = "; --source SOURCE tells where its images are now" if "SOURCE" in kept else ""
            belong = "belongs to the run and cannot be changed; leave it out"
            if len(kept) > 1:
                belong = "belong to the run and cannot be changed; leave them out"
            raise SignsclfError(f"--resume: {', '.join(kept)} {belong}{hint}")
        reading = read_record(partial_folder(final_folder(resume.absolute()))).request.reading
        outcome = _trainer().resume(
            resume,
            overwrite=overwrite or None,
            source=moved,
            max_accepted_error=max_accepted_error if "max_accepted_error" in given else None,
            int8=chosen_int8(int8, force_int8) if {"int8", "force_int8"} & given.keys() else None,
            learner=learner or None,
            pictures=pictures or None,
            bare=bare or None,
            cache=cache,
            observer=observer,
            stop=observer.stop.event,
        )
    else:
        if moved is not None:
            raise SignsclfError("--source: only with --resume; give what to train on without an option: train SOURCE")
        target = out or DEFAULT_OUT
        with claimed(target.absolute()):
            refuse_taken(target.absolute(), overwrite)
        found = read_source_or_gtsrb(source, reading, data_dir, yes)
        outcome = _trainer().train(
            found,
            target,
            recipe,
            overwrite=overwrite,
            skip_bad=skip_bad,
            max_accepted_error=max_accepted_error,
            int8=chosen_int8(int8, force_int8),
            learner=learner,
            pictures=pictures,
            bare=bare,
            cache=cache,
            track=track,
            observer=observer,
            stop=observer.stop.event,
        )
    from signsclf.metrics.classification import headline

    folder = shown_path(final_folder(outcome.folder))
    if outcome.stopped:
        eprint(f"stopped; resume with: signsclf train --resume {folder}")
        raise typer.Exit(128 + (observer.stop.signal or 2))
    if outcome.metrics:
        echo(headline(outcome.metrics))
    echo(f"model: {folder}")
    origin = source or shown_path(Path(outcome.source))
    how = "".join(f" {quoted(flag)}" for flag in reading.flags())
    eprint(f"evaluate it: signsclf evaluate {folder} {quoted(origin)}{how}")
    eprint(f"predict with it: signsclf predict --model {folder} image.png")


def _trainer() -> Any:
    """Import the training module, which takes seconds."""
    from signsclf.runs import train
    from signsclf.training.precision import keep_memory

    keep_memory()
    return train
