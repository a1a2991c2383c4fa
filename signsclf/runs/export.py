"""A run, or a finished model, exported to another folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from signsclf.choices import Int8Policy
from signsclf.data.cache import AUTO, cache_folder
from signsclf.data.table import read_source
from signsclf.errors import ModelError, SignsclfError
from signsclf.files import user_path
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.recipe import Crop
from signsclf.runs.finish import reexport
from signsclf.runs.folder import claimed, make_partial, read_record, refuse_taken
from signsclf.runs.holdouts import evaluate_holdouts, sample_pixels
from signsclf.runs.restore import restore
from signsclf.runs.train import Outcome, build_loaders, finish_run
from signsclf.training.checkpoint import read_checkpoint
from signsclf.training.fit import FitResult
from signsclf.training.loaders import planned_samples
from signsclf.training.settings import own_settings


@own_settings()
def export_run(
    run: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    int8: Int8Policy = Int8Policy.NONE,
    holdouts: Sequence[str | Path] = (),
    source: str | Path | None = None,
    max_accepted_error: float | None = None,
    bare: bool = False,
    cache: str | Path = AUTO,
    observer: Observer | None = None,
) -> Outcome:
    """Exports the best weights so far of a .partial folder, or a finished model folder anew, to another folder.

    The run is left as it is.

    Args:
        int8: whether model.int8.onnx is written as well; needs a .partial folder, whose source it is calibrated on.
        holdouts: models of the same recipe that each held out a part of ``source``: evaluated on it, they give a
            finished model without validation images its temperature, reject threshold and figures.
        source: what all of ``holdouts`` were trained on; for a .partial folder, where its images lie now.
        max_accepted_error: see `train`; None is what the run was started with, and 0.005 for ``holdouts``.
        bare: leaves learner.pkl out, and all that shows or names the images trained on.
        cache: see `train`.

    Raises:
        SignsclfError: arguments that do not go together.
        ModelError: no such run, or no epoch of it is finished; or one of ``holdouts`` is of another recipe.
        SourceError: the images of a .partial folder have changed since, or are gone, see `signsclf.runs.restore`.
        ParityError: what would be exported does not answer as the network does.
    """
    observer = observer or Observer()
    run, out = user_path(run).absolute(), user_path(out).absolute()
    refuse_taken(out, overwrite)
    if not (run / modelfolder.RECORD).is_file():
        config = modelfolder.read_config(run)
        if int8 is not Int8Policy.NONE:
            raise SignsclfError(
                f"--int8: {run} is finished, and its training images, which 8 bits are calibrated on, are not in it; "
                "give --int8 to train"
            )
        if bool(holdouts) != (source is not None):
            raise SignsclfError("--holdout and --source: one does not go without the other")
        evaluated, pixels = None, None
        if holdouts:
            aim = 0.005 if max_accepted_error is None else max_accepted_error
            evaluated = evaluate_holdouts(holdouts, config, source, aim, cache, observer)
            pixels = sample_pixels(read_source(source), config.input_size, config.crop == Crop.ROI.value)
        with _new_folder(out, overwrite) as partial:
            figures = reexport(run, partial, observer, evaluated=evaluated, pixels=pixels, bare=bare).figures
            modelfolder.publish(partial, out, overwrite)
        return Outcome(out, (figures.get("training") or {}).get("source", ""), False, figures.get("valid"))
    if holdouts:
        raise SignsclfError(f"--holdout: for a finished model; {run} is a run: export it first")
    record, checkpoint = read_record(run), read_checkpoint(run)
    order = replace(record.order, overwrite=overwrite, int8=int8, bare=bare or record.order.bare)
    if max_accepted_error is not None:
        order = replace(order, max_accepted_error=max_accepted_error)
    if source is not None:
        order = replace(order, source=user_path(source).absolute().as_posix())
    record = replace(record, order=order)
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
    prepared = restore(run, record, cache_folder(cache, observer), observer)
    loaders = build_loaders(prepared)
    with _new_folder(out, overwrite) as partial:
        shutil.copytree(run / modelfolder.RUN, partial / modelfolder.RUN, dirs_exist_ok=True)
        return finish_run(order, prepared, result, planned_samples(loaders), partial, observer)


@contextlib.contextmanager
def _new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """The .partial folder of an export, which goes with it when it fails."""
    with claimed(out):
        partial = make_partial(out, overwrite)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
