"""The command ``signsclf train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Rehearsal,
    SkipBad,
    Yes,
    chosen_int8,
    given_options,
    new_app,
    reading_options,
)
from signsclf.cli.recipe_options import recipe_options
from signsclf.cli.sources import read_source_or_gtsrb
from signsclf.cli.terminal import SilentObserver, TerminalObserver, echo, eprint, on_signals, quoted, shown_path
from signsclf.errors import RunError, SignsclfError, require_extra
from signsclf.files import is_remote
from signsclf.recipe import Recipe

if TYPE_CHECKING:
    from signsclf.training.distributed import World

DEFAULT_OUT = Path("models/default")
_APPLIED_TO_RUNS = frozenset(
    (
        *("resume", "moved", "overwrite", "max_accepted_error", "int8", "force_int8"),
        *("learner", "pictures", "bare", "rehearsal", "cache", "max_pixels", "processes"),
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
    rehearsal: Rehearsal = True,
    cache: CacheOption = "auto",
    track: Annotated[
        Tracker | None,
        typer.Option(
            "--track",
            help="Report curves, figures and pictures to TensorBoard (folder runs) or to MLflow (its tracking server, "
            "else folder mlruns).",
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            help="Processes that share each batch, see --shards; with CUDA each takes a GPU of its own.",
            metavar="N",
            min=1,
            max=1_024,
        ),
    ] = 1,
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
    from signsclf.runs.resolve import refuse_processes
    from signsclf.scale.processes import processes_here

    given, together = given_options(context), processes_here()
    if together is not None and "processes" in given and processes != together:
        raise SignsclfError(f"--processes {processes}: torchrun has started {together}; leave it out")
    target = (out or DEFAULT_OUT).absolute() if resume is None else final_folder(resume.absolute())
    shards = recipe.shards
    # All checks come before torch is imported, which takes seconds.
    if resume is not None:
        if kept := [option for name, option in given.items() if name not in _APPLIED_TO_RUNS]:
            hint = "; --source SOURCE tells where its images are now" if "SOURCE" in kept else ""
            belong = "belongs to the run and cannot be changed; leave it out"
            if len(kept) > 1:
                belong = "belong to the run and cannot be changed; leave them out"
            raise SignsclfError(f"--resume: {', '.join(kept)} {belong}{hint}")
        record = read_record(partial_folder(target))
        reading, shards = record.request.reading, record.recipe.shards
    elif moved is not None:
        raise SignsclfError("--source: only with --resume; give what to train on without an option: train SOURCE")
    elif together is None:
        with claimed(target):
            refuse_taken(target, overwrite)
    if together is None and processes > 1:
        if shards is not None:
            refuse_processes(shards, processes)
        if resume is None and source is None:
            # It may ask, and the processes cannot.
            read_source_or_gtsrb(source, reading, data_dir, yes)
        _run_processes(processes, target)
        return
    world = _world() if together is not None else None
    if world is not None and world.rank:
        _take_part(target, world)
        return
    observer = TerminalObserver()
    if resume is not None:
        outcome = _trainer().resume(
            resume,
            overwrite=overwrite or None,
            source=moved,
            max_accepted_error=max_accepted_error if "max_accepted_error" in given else None,
            int8=chosen_int8(int8, force_int8) if {"int8", "force_int8"} & given.keys() else None,
            learner=learner or None,
            pictures=pictures or None,
            bare=bare or None,
            rehearsal=rehearsal if "rehearsal" in given else None,
            cache=cache,
            observer=observer,
            stop=observer.stop.event,
            world=world,
        )
    else:
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
            rehearsal=rehearsal,
            cache=cache,
            track=track,
            observer=observer,
            stop=observer.stop.event,
            world=world,
        )
    from signsclf.metrics.classification import headline

    folder = shown_path(final_folder(outcome.folder))
    if outcome.stopped:
        begun = partial_folder(final_folder(outcome.folder)).exists()
        resuming = f"stopped; resume with: signsclf train --resume {folder}"
        eprint(resuming if begun else "stopped before the training began")
        raise typer.Exit(128 + (observer.stop.signal or 2))
    if outcome.metrics:
        echo(headline(outcome.metrics))
    echo(f"model: {folder}")
    origin = source or (outcome.source if is_remote(outcome.source) else shown_path(Path(outcome.source)))
    how = "".join(f" {quoted(flag)}" for flag in reading.flags())
    if outcome.source == "synthetic":
        eprint("validated on rendered signs, which says nothing of photographs; a folder of some labelled ones does:")
        origin = "FOLDER"
    eprint(f"evaluate it: signsclf evaluate {folder} {quoted(origin)}{how}")
    eprint(f"predict with it: signsclf predict --model {folder} image.png")


def _trainer() -> Any:
    """Import the training module, which takes seconds."""
    from signsclf.runs import train
    from signsclf.training.precision import keep_memory

    keep_memory()
    return train


def _run_processes(n: int, target: Path) -> None:
    """Run this command line in ``n`` processes that train together.

    Raises:
        RunError: one of them has failed; the others were ended.
        typer.Exit: the first has told how it ended.
    """
    from signsclf.model.folder import RECORD
    from signsclf.runs.folder import partial_folder
    from signsclf.scale.processes import Processes

    with Processes(n, sys.argv[1:]) as running:
        on_signals(lambda number, _: running.signal(number))
        ended = running.wait()
    if ended.trouble:
        resumes = ""
        if (partial_folder(target) / RECORD).is_file():
            resumes = f"; signsclf train --resume {shown_path(target)} --processes {n} continues the run"
        error = RunError(ended.trouble + resumes)
        error.exit_code = ended.code
        raise error
    if ended.code:
        raise typer.Exit(ended.code)


def _world() -> World:
    """Join the processes that were started together with this one."""
    from signsclf.scale.processes import end_with_parent, is_started_here
    from signsclf.training.distributed import World

    if is_started_here():
        end_with_parent()
    return World.from_environment()


def _take_part(target: Path, world: World) -> None:
    """Be one of the processes other than the first: it writes and prints nothing."""
    observer = SilentObserver()
    _trainer().follow(target, world, observer=observer, stop=observer.stop.event)
