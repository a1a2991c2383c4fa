"""A run, or a finished model, exported to another folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from signsclf.choices import Int8Policy
from signsclf.data.cache import AUTO, choose_cache
from signsclf.data.table import read_source
from signsclf.errors import ModelError, SignsclfError
from signsclf.files import absolute_source, user_path
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.recipe import Crop
from signsclf.runs.building import build_loaders
from signsclf.runs.finish import reexport
from signsclf.runs.folder import CHANGEABLE, RunRequest, claimed, make_partial, read_record, refuse_taken
from signsclf.runs.holdouts import evaluate_holdouts, sample_pixels
from signsclf.runs.restore import restore
from signsclf.runs.train import Outcome, finish_run
from signsclf.training.checkpoint import read_checkpoint
from signsclf.training.fit import FitResult
from signsclf.training.loaders import planned_samples
from signsclf.training.settings import own_settings


@own_settings()
def export_run(
    run: str | Path,
    out: str | Path,
    *,
    holdouts: Sequence[str | Path] = (),
    source: str | Path | None = None,
    cache: str | Path = AUTO,
    observer: Observer | None = None,
    **options: Any,
) -> Outcome:
    """Export the last epoch of a .partial folder, or a finished model folder again, to another folder.

    With patience it is the best epoch so far. The run is left as it is.

    Args:
        holdouts: models of the same recipe that each held out a part of ``source``: evaluated on it, they give a
            finished model without validation images its temperature, reject threshold and figures.
        source: what all of ``holdouts`` were trained on; for a .partial folder, where its images lie now.
        cache: see `signsclf.runs.train.train`.
        options: fields of `signsclf.runs.folder.CHANGEABLE`. Without ``max_accepted_error``, or where it is None, that
            of the run holds. ``int8`` needs a .partial folder, whose source it is calibrated on.

    Raises:
        SignsclfError: arguments that do not go together.
        ModelError: no such run, or no epoch of it is finished; or one of ``holdouts`` is of another recipe.
        SourceError: the images of a .partial folder have changed since, or are gone, see `signsclf.runs.restore`.
        ParityError: what would be exported does not answer as the network does.
        TypeError: an option is not known.
    """
    observer = observer or Observer()
    if unknown := options.keys() - CHANGEABLE:
        raise TypeError(f"export_run: no option {min(unknown)!r}; there are {sorted(CHANGEABLE)}")
    run, out = user_path(run).absolute(), user_path(out).absolute()
    given = {name: value for name, value in options.items() if value is not None}
    if (run / modelfolder.RECORD).is_file():
        if holdouts:
            raise SignsclfError(f"--holdout: for a finished model; {run} is a run: export it first")
        if source is not None:
            given["source"] = absolute_source(source)
        return _export_unfinished(run, out, given, cache, observer)
    request = RunRequest.of(run, **given)
    refuse_taken(out, request.overwrite)
    config = modelfolder.read_config(run)
    if request.int8 is not Int8Policy.NONE:
        raise SignsclfError(
            f"--int8: {run} is finished, and its training images, which 8 bits are calibrated on, are not in it; "
            "give --int8 to train"
        )
    if bool(holdouts) != (source is not None):
        raise SignsclfError("--holdout and --source: one does not go without the other")
    evaluated, pixels = None, None
    if holdouts:
        evaluated = evaluate_holdouts(holdouts, config, source, request.max_accepted_error, cache, observer)
        pixels = sample_pixels(read_source(source), config.input_size, config.crop == Crop.ROI.value)
    with new_folder(out, request.overwrite) as partial:
        figures = reexport(run, partial, observer, evaluated=evaluated, pixels=pixels, request=request).figures
        modelfolder.publish(partial, out, request.overwrite)
    origin = (figures.get("training") or {}).get("source", "")
    return Outcome(folder=out, source=origin, stopped=False, metrics=figures.get("valid"))


def _export_unfinished(run: Path, out: Path, changes: dict[str, Any], cache: str | Path, observer: Observer) -> Outcome:
    record = read_record(run)
    # What becomes of the run's own folder says nothing of this one.
    request = replace(record.request, overwrite=False, int8=Int8Policy.NONE)
    request = replace(request, **{**changes, "bare": bool(changes.get("bare")) or request.bare})
    refuse_taken(out, request.overwrite)
    checkpoint = read_checkpoint(run)
    best = checkpoint["best"]
    if best is None:
        raise ModelError(f"{run}: no epoch is finished yet, so there is nothing to export; --resume it first")
    result = FitResult(
        state=best["state"],
        best_epoch=best["epoch"],
        history=checkpoint["history"],
        samples=checkpoint["samples"].numpy(),
        lr=checkpoint["lr"],
        seconds=checkpoint["seconds"],
        stopped=False,
    )
    prepared = restore(run, replace(record, request=request), choose_cache(cache, observer), observer)
    loaders = build_loaders(prepared)
    with new_folder(out, request.overwrite) as partial:
        shutil.copytree(run / modelfolder.RUN, partial / modelfolder.RUN, dirs_exist_ok=True)
        return finish_run(request, prepared, result, planned_samples(loaders), partial, observer)


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """Make the .partial folder of an export, and delete it when that fails."""
    with claimed(out):
        partial = make_partial(out, overwrite)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
