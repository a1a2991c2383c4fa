"""Trains: from a source of labelled images to an evaluated, exported model folder; can be stopped and resumed."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from signsclf.choices import Layout, Reading, Tracker
from signsclf.data.cache import AUTO, Cache, choose_cache
from signsclf.data.table import Source, read_source
from signsclf.errors import RunError, SignsclfError, is_out_of_memory
from signsclf.files import absolute_source, csv_bytes, json_bytes, user_path, write_atomic
from signsclf.machine import usable_cores
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer, Observers, PlanSummary
from signsclf.recipe import NAMED_WEIGHTS, Recipe, Solver
from signsclf.report import plots
from signsclf.runs import rehearsal
from signsclf.runs.building import build_loaders, build_network, direct_fit, fit_apart, start_head
from signsclf.runs.finish import finish
from signsclf.runs.folder import (
    CHANGEABLE,
    ERROR_LOG,
    Held,
    Record,
    RunRequest,
    claimed,
    final_folder,
    make_partial,
    partial_folder,
    read_record,
    refuse_images_inside,
    refuse_taken,
    write_record,
)
from signsclf.runs.preflight import preflight
from signsclf.runs.prepare import Prepared, prepare, read_plan
from signsclf.runs.resolve import refuse_processes
from signsclf.runs.restore import follow as prepare_again
from signsclf.runs.restore import restore
from signsclf.runs.search import search
from signsclf.runs.tracking import create_run, reporting, require_tracker
from signsclf.training.checkpoint import read_checkpoint
from signsclf.training.direct import DirectFit
from signsclf.training.distributed import Share, World
from signsclf.training.fit import Fit, FitResult, LrSearch, find_lr, phases
from signsclf.training.learner import build_learner, describe_device
from signsclf.training.loaders import planned_samples
from signsclf.training.pace import Pace, estimate
from signsclf.training.settings import own_settings

if TYPE_CHECKING:
    from fastai.data.core import DataLoaders


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a training.

    Attributes:
        folder: the model folder, or the .partial folder of a stopped run; of one that is stopped while it searches
            there is none yet.
        source: what was trained on: an absolute path, or "synthetic".
        stopped: whether it was interrupted and can be resumed.
        metrics: figures on the validation images, from the exported file; None where there are none.
    """

    folder: Path
    source: str
    stopped: bool
    metrics: dict[str, Any] | None


@own_settings()
def train(
    source: str | Path | Source,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    cache: str | Path = AUTO,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
    world: World | None = None,
    **options: Any,
) -> Outcome:
    """Train a classifier and write a model folder.

    Args:
        source: what `signsclf.data.table.read_source` takes or gave: a folder, a .zip, a table, or "synthetic".
        out: the model folder to write.
        recipe: what is None in it is chosen from the data; None takes the default recipe.
        cache: where decoded images are kept: a folder, or "auto" for the user's own, also for the next run; "off" for
            this run alone; "stream" for nowhere, see `signsclf.data.cache.choose_cache`.
        observer: told of everything that happens.
        stop: once it is set, training ends after the current batch; `resume` continues from there.
        world: the processes that share the training, of which this is the first; the others call `follow`.
        options: ``layout``, how the source is read (see `signsclf.choices.Reading`); ``track``, where curves, figures
            and pictures are reported to (a `signsclf.choices.Tracker`; unset: nowhere); and the fields of
            `signsclf.runs.folder.RunRequest` from ``skip_bad`` to ``rehearsal``.

    Raises:
        LockedError: another process writes ``out``.
        SourceError, BadImageError, ModelError, ParityError, RunError, SignsclfError: see their docstrings.
        TypeError: an option is not known.
    """
    observer, world = observer or Observer(), world or World()
    track: Tracker | None = options.pop("track", None)
    request = RunRequest.of(source.origin if isinstance(source, Source) else source, **options)
    out = user_path(out).absolute()
    if track is not None:
        require_tracker(track)
    with claimed(out), _shared_cache(choose_cache(cache, observer, world.size), world) as kept:
        refuse_taken(out, request.overwrite)
        found = source if isinstance(source, Source) else read_source(source, request.reading)
        recipe = recipe or Recipe()
        planned = read_plan(found, request.reading, recipe.replace(search=False), observer, world.size)
        request = replace(request, source=planned.source.origin, reading=planned.source.reading)
        model = build_network(planned, observer)
        leave = preflight(planned, model, out, request.int8, kept, observer)
        prepared = prepare(planned, request.skip_bad, observer, kept, leave=leave)
        if recipe.search:
            stop = stop or threading.Event()
            chosen = search(recipe, found, prepared, observer, stop, world.size)
            if stop.is_set():
                return Outcome(folder=out, source=request.source, stopped=True, metrics=None)
            prepared = replace(prepared, plan=replace(chosen, source=planned.source))
        if track is not None:
            request = replace(request, track=create_run(track, out.name))
        return begin(request, prepared, model, out, observer, stop, world)


def begin(
    request: RunRequest,
    prepared: Prepared,
    model: nn.Module,
    out: Path,
    observer: Observer,
    stop: threading.Event | None,
    world: World | None = None,
) -> Outcome:
    """Do the second half of `train`: make the run's folder, train ``model``, see `build_network`, and finish.

    The caller holds the lock on ``out``, see `signsclf.runs.folder.claimed`.
    """
    refuse_images_inside(out, prepared.split.table["path"])
    partial = make_partial(out, request.overwrite)
    with _logged(partial):
        write_inputs(partial / modelfolder.RUN, prepared)
        _record(partial, request, prepared)
        return _run(request, prepared, model, partial, None, observer, stop, world or World())


@own_settings()
def follow(
    out: str | Path, world: World, *, observer: Observer | None = None, stop: threading.Event | None = None
) -> Outcome:
    """Take part in the `train` or `resume` of another process, the first of ``world``; only that one writes.

    Args:
        out: the model folder that the first process writes.
        observer, stop: see `train`; setting ``stop`` ends the training in all processes.

    Raises:
        LostContactError: another process has ended.
        ModelError, SourceError, RunError: see `resume`.
    """
    observer = observer or Observer()
    partial = partial_folder(user_path(out).absolute())
    world.wait()
    record = read_record(partial)
    checkpoint = read_checkpoint(partial) if (partial / modelfolder.CHECKPOINT).is_file() else None
    with _logged(partial):
        prepared = prepare_again(partial, record, world.size, observer)
        # The first process hands out its weights.
        model = build_network(prepared.plan, observer, fresh=False)
        return _fit_and_finish(record.request, prepared, model, partial, checkpoint, observer, stop, world)


@own_settings()
def resume(
    out: str | Path,
    *,
    source: str | Path | None = None,
    cache: str | Path = AUTO,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
    world: World | None = None,
    **changes: Any,
) -> Outcome:
    """Continue an interrupted run; on a CPU it ends in the weights of the unbroken run, bit for bit.

    Args:
        out: the model folder that the run was to write, or its .partial folder.
        source: where the same images lie now.
        cache, observer, stop, world: see `train`; the run may have begun on another number of processes.
        changes: options of `train` that decide no weights, see `signsclf.runs.folder.CHANGEABLE`, in place of those of
            the run; None leaves one as it is.

    Raises:
        LockedError: another process writes ``out``.
        ModelError: there is no such run, or its checkpoint is damaged; or its model folder exists by now.
        SourceError: its images have changed since, or are gone and held nowhere, see `signsclf.runs.restore.restore`.
        RunError: something unexpected ended it.
        TypeError: an option is not known, or decides the weights.
    """
    observer, world = observer or Observer(), world or World()
    if unknown := changes.keys() - CHANGEABLE:
        raise TypeError(f"resume: {min(unknown)!r} belongs to the run; what may change is {sorted(CHANGEABLE)}")
    out = final_folder(user_path(out).absolute())
    partial = partial_folder(out)
    with claimed(out), _shared_cache(choose_cache(cache, observer, world.size), world) as kept:
        record = read_record(partial)
        refuse_processes(record.recipe.shards, world.size)
        if source is not None:
            changes["source"] = absolute_source(source)
        record = replace(record, request=_changed(record.request, changes, observer))
        request = record.request
        refuse_taken(out, request.overwrite, resuming=True)
        checkpoint = read_checkpoint(partial) if (partial / modelfolder.CHECKPOINT).is_file() else None
        observer.say(f"resuming {partial}" + ("" if checkpoint else ": it has no checkpoint yet, so from the start"))
        with _logged(partial):
            prepared = restore(partial, record, kept, observer)
            write_record(partial, replace(record, held=_held(prepared) or record.held))
            model = build_network(prepared.plan, observer, fresh=checkpoint is None)
            preflight(prepared.plan, model, out, request.int8, None, observer)
            return _run(request, prepared, model, partial, checkpoint, observer, stop, world)


def _changed(request: RunRequest, changes: dict[str, Any], observer: Observer) -> RunRequest:
    changed = replace(request, **{name: value for name, value in changes.items() if value is not None})
    for name in changes:
        before, now = getattr(request, name), getattr(changed, name)
        if now != before:
            told = getattr(now, "value", now), getattr(before, "value", before)
            observer.say(f"{name.replace('_', '-')}: {told[0]}, in place of {told[1]}")
    return changed


@own_settings()
def search_lr(
    source: str | Path | Source,
    recipe: Recipe | None = None,
    *,
    layout: Layout | Reading | None = None,
    skip_bad: bool = False,
    cache: str | Path = AUTO,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
) -> LrSearch:
    """Search for a learning rate; arguments as of `train`. Nothing is kept; setting ``stop`` cuts the search short."""
    observer = observer or Observer()
    planned = read_plan(source, layout, recipe or Recipe(), observer)
    if planned.solver is not Solver.GRADIENT:
        what = "--freeze" if planned.recipe.freeze else f"--arch {planned.arch.name}"
        raise SignsclfError(f"{what}: not trained by torch's gradients, so no rate can be searched")
    model = build_network(planned, observer)
    prepared = prepare(planned, skip_bad, observer, choose_cache(cache, observer))
    learner = build_learner(build_loaders(prepared), model, prepared.arch, prepared.recipe)
    share = _share(learner.dls, prepared.recipe, World(), stop or threading.Event())
    return find_lr(learner, prepared.recipe, observer=observer, stop=stop, share=share)


@contextlib.contextmanager
def _shared_cache(cache: Cache, world: World) -> Iterator[Cache]:
    """Give the cache a temporary folder where it has none: several processes map the same images, or share digests."""
    if cache.folder is not None or world.size == 1:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="signsclf-", ignore_cleanup_errors=True) as tmp:
        yield replace(cache, folder=Path(tmp))


@contextlib.contextmanager
def _logged(partial: Path) -> Iterator[None]:
    """Leave the traceback of an unexpected error in the run's folder.

    Raises:
        RunError: in place of an unexpected error; names the file.
    """
    try:
        yield
    except SignsclfError:
        raise
    except Exception as error:
        log = partial / modelfolder.RUN / ERROR_LOG
        try:
            write_atomic(log, traceback.format_exc().encode("utf-8", "backslashreplace"))
        except SignsclfError:
            raise error from None
        # Of these the command line knows what to say.
        if isinstance(error, OSError) or is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise RunError(
            f"unexpected {reason}; the traceback is in {log}: report it; once that is mended, --resume "
            f"{final_folder(partial)} continues the run"
        ) from error


def _run(
    request: RunRequest,
    prepared: Prepared,
    model: nn.Module,
    partial: Path,
    checkpoint: dict[str, Any] | None,
    observer: Observer,
    stop: threading.Event | None,
    world: World,
) -> Outcome:
    with reporting(request.track, prepared.recipe, observer) as tracking:
        watching = observer if tracking is None else Observers(observer, tracking)
        outcome = _fit_and_finish(request, prepared, model, partial, checkpoint, watching, stop, world)
        if tracking is not None and not outcome.stopped:
            tracking.finish(outcome.folder, outcome.metrics)
        return outcome


def _fit_and_finish(
    request: RunRequest,
    prepared: Prepared,
    model: nn.Module,
    partial: Path,
    checkpoint: dict[str, Any] | None,
    observer: Observer,
    stop: threading.Event | None,
    world: World,
) -> Outcome:
    recipe, loaders, run, is_first = prepared.recipe, build_loaders(prepared), partial / modelfolder.RUN, not world.rank
    stop = stop or threading.Event()
    rehearsals = rehearsal.networks(prepared) if request.rehearsal else 0
    world.announce()
    with world.connected(recipe.device.value):
        if recipe.probe_first and checkpoint is None and is_first:
            start_head(prepared, loaders, model, observer, stop)
        world.hand_out(list(model.state_dict().values()))
        fit = _fitter(prepared, loaders, model, partial, checkpoint, observer, stop, world)
        observer.planned(_summary(prepared, fit.seconds_left if isinstance(fit, Fit) else None, world, rehearsals))
        if is_first:
            (run / "plots").mkdir(parents=True, exist_ok=True)
        if is_first and request.pictures:
            shown, labels = loaders.train.augmented_batch(min(36, recipe.batch_size))
            classes = prepared.source.classes
            named = [classes[i] if i >= 0 else "no class" for i in labels]
            plots.batch(shown, named, run / "plots" / "batch.png", classes)
        observer.training_began()
        if isinstance(fit, Fit) and (search := fit.search()) is not None and is_first:
            write_search(search, run)
        result = fit.run()
    rehearsed, stopped = None, result.stopped
    if rehearsals and is_first and not stopped:
        rehearsed, stopped = _rehearse(prepared, result, observer, stop)
    observer.training_ended()
    if stopped or not is_first:
        return Outcome(folder=partial, source=request.source, stopped=stopped, metrics=None)
    return finish_run(request, prepared, result, planned_samples(loaders), partial, observer, rehearsed)


def _rehearse(
    prepared: Prepared, result: FitResult, observer: Observer, stop: threading.Event
) -> tuple[rehearsal.Rehearsal | None, bool]:
    """Train again with images held out, for the calibration; there is none where nothing can be held out.

    It has no checkpoint: a run that is stopped meanwhile (then the second value is true) rehearses from the start when
    it is resumed.
    """
    held = rehearsal.held_out(prepared, result.lr)
    if not held:
        observer.say("not calibrated: no class has two groups of images, so nothing can be held out")
        return None, False
    logits, seconds = [], 0.0
    for number, of_fold in enumerate(held, start=1):
        found, of_one = fit_apart(of_fold, rehearsal.Steps(observer, number, len(held)), stop)
        if found.stopped:
            return None, True
        logits.append(of_one)
        seconds += found.seconds
    answers = rehearsal.answers(held, logits)
    like_it = "a training like it" if len(held) == 1 else f"{len(held)} trainings like it"
    observer.say(
        f"rehearsed for the calibration: {len(answers.targets):,} images held out of {like_it}, "
        f"accuracy {100 * (answers.logits.argmax(1) == answers.targets).mean():.2f} % ({seconds:.1f} s)"
    )
    return answers, False


def _fitter(
    prepared: Prepared,
    loaders: DataLoaders,
    model: nn.Module,
    partial: Path,
    checkpoint: dict[str, Any] | None,
    observer: Observer,
    stop: threading.Event,
    world: World,
) -> Fit | DirectFit:
    """Make what will train the network."""
    recipe = prepared.recipe
    if prepared.plan.solver is not Solver.GRADIENT:
        return direct_fit(prepared, loaders, model, observer, stop)
    learner = build_learner(loaders, model, prepared.arch, recipe)
    share = _share(loaders, recipe, world, stop)
    threads = torch.get_num_threads()
    if checkpoint is not None:
        # With another number of threads the last bits of the weights would be others.
        torch.set_num_threads(checkpoint.get("threads", threads))
    elif share is not None:
        _choose_threads(prepared, world)
    choosing = checkpoint is None and share is None and "OMP_NUM_THREADS" not in os.environ
    pace = estimate(learner, model, recipe, phases(recipe), choosing_threads=choosing)
    if choosing and torch.get_num_threads() != threads:
        observer.say(f"threads: 1 in place of {threads}, which is faster while other programs use the CPU")
    if world.size > 1:
        # They stop together: the first step in which one of them is asked to tells all.
        stop = threading.Event()
        pace = Pace([seconds / world.size for seconds in pace.steps], pace.valid / world.size)
    folder = partial if not world.rank else None
    fit = Fit(learner, model, recipe, folder, observer=observer, stop=stop, checkpoint=checkpoint, pace=pace)
    fit.share = share
    return fit


def _share(loaders: DataLoaders, recipe: Recipe, world: World, stop: threading.Event) -> Share | None:
    """Give this process's share of each batch; None where batches are not cut.

    Raises:
        SignsclfError: there are too few images for so many micro-batches.
    """
    if recipe.shards == 1:
        return None
    images = min(loaders.train.n, recipe.batch_size)
    if images < 2 * recipe.shards:
        raise SignsclfError(
            f"--shards {recipe.shards}: a batch of {images} images gives each fewer than two; at most {images // 2}"
        )
    return Share(shards=recipe.shards, world=world, asked=stop)


def _choose_threads(prepared: Prepared, world: World) -> None:
    """Set torch's threads: one where the weights are not to depend on the processes, else the cores by process."""
    if "shards" not in prepared.plan.reasons:
        torch.set_num_threads(1)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // world.size))
    threads = torch.tensor([torch.get_num_threads()])
    # The other processes do not know which fields of the recipe were chosen.
    world.hand_out([threads])
    torch.set_num_threads(int(threads))


def _summary(prepared: Prepared, seconds: float | None, world: World, rehearsals: int) -> PlanSummary:
    recipe = prepared.recipe
    together = f", {world.size} processes" if world.size > 1 else ""
    return PlanSummary(
        arch=recipe.arch,
        size=recipe.size,
        device=describe_device(recipe.device) + together,
        precision=recipe.precision.value,
        freeze_epochs=recipe.freeze_epochs,
        epochs=recipe.epochs,
        n_train=len(prepared.split.rows("train")),
        epoch_images=recipe.epoch_images,
        samples=recipe.samples,
        n_synthetic=recipe.add_synthetic * len(prepared.source.classes),
        chosen=tuple(
            (name, value, prepared.plan.reasons[name])
            for name, value in recipe.to_dict().items()
            if name in prepared.plan.reasons
        ),
        seconds=seconds if seconds is None or not rehearsals else seconds + rehearsal.seconds(prepared, seconds),
        rehearsals=rehearsals,
    )


def finish_run(
    request: RunRequest,
    prepared: Prepared,
    result: FitResult,
    planned: np.ndarray,
    partial: Path,
    observer: Observer,
    rehearsed: rehearsal.Rehearsal | None = None,
) -> Outcome:
    """Fill the .partial folder of a trained network and put it in its place; see `signsclf.runs.finish.finish`.

    Raises:
        ParityError, ModelError: see `signsclf.runs.finish.finish` and `signsclf.model.folder.publish`.
    """
    out = final_folder(partial)
    metrics = finish(prepared, request, result, planned, partial, observer, rehearsed)
    modelfolder.publish(partial, out, request.overwrite)
    return Outcome(folder=out, source=request.source, stopped=False, metrics=metrics)


def write_search(search: LrSearch, folder: Path) -> None:
    """Write lr_find.json and lr_find.png."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "lrs": search.lrs,
        "losses": search.losses,
        "suggestions": search.suggestions,
        "diverged_early": search.diverged_early,
    }
    write_atomic(folder / "lr_find.json", json_bytes(values))
    found = {name: rate for name, rate in search.suggestions.items() if rate is not None}
    plots.lr_find(search.lrs, search.losses, found, folder / "lr_find.png")


def write_inputs(run: Path, prepared: Prepared) -> None:
    """Write what a model was made from below its folder's run/: the split, the recipe, and what was left out."""
    table = prepared.split.table
    rows: list[tuple[str, ...]] = [("path", "label", "group", "split", "input")]
    for name, label, group, split, digest in zip(
        prepared.names, table["label"], table["group"], table["split"], prepared.decoded.inputs, strict=True
    ):
        rows.append((name, label, group or "", split, digest))
    write_atomic(run / "split.csv", csv_bytes(rows))
    if prepared.skipped:
        write_atomic(run / "skipped.csv", csv_bytes([("path", "reason"), *prepared.skipped]))
    write_atomic(run / "recipe.json", prepared.recipe.without_places().to_json().encode())


def _record(partial: Path, request: RunRequest, prepared: Prepared) -> None:
    recipe = prepared.recipe
    if recipe.weights not in NAMED_WEIGHTS:
        recipe = recipe.replace(weights=str(Path(recipe.weights).expanduser().absolute()))
    # Last: with it the folder is a run.
    record = Record(request=request, recipe=recipe, fingerprint=prepared.fingerprint, held=_held(prepared))
    write_record(partial, record)


def _held(prepared: Prepared) -> Held | None:
    entry, source = prepared.decoded.entry, prepared.source
    if entry is None:
        return None
    return Held(entry=str(entry), layout=source.layout.value, classes=source.classes, is_gtsrb=source.is_gtsrb)
