"""Trains the rungs of the ladder on the same images and the same split, each to a model folder, and compares them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from signsclf import images
from signsclf.choices import Int8Policy, Layout, Reading
from signsclf.data.cache import AUTO, cache_folder
from signsclf.data.split import Split
from signsclf.data.table import Source, describe, read_source
from signsclf.errors import BadImageError, ModelError, SignsclfError, SourceError
from signsclf.files import user_path
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.outputs import COMPARISON_FILES, refuse_replacing
from signsclf.recipe import COMPARED_ARCHITECTURES, Recipe, SplitBy
from signsclf.report.comparison import Comparison, ModelResult, write_comparison
from signsclf.runs.folder import RunRequest, claimed
from signsclf.runs.preflight import preflight
from signsclf.runs.prepare import Plan, Prepared, plan, prepare
from signsclf.runs.train import begin, build_network
from signsclf.text import file_text
from signsclf.training import architectures
from signsclf.training.learner import describe_device
from signsclf.training.settings import own_settings


@dataclass(frozen=True)
class CompareResult:
    """What `compare` ended in.

    Attributes:
        ladder: the rungs that were trained, kept or failed.
        written: the ladder's files.
        stopped: whether it was interrupted; the same call goes on, since finished rungs are kept.
    """

    ladder: Comparison
    written: list[Path]
    stopped: bool


@own_settings()
def compare(
    source: str | Path | Source,
    out: str | Path,
    names: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    *,
    layout: Layout | Reading | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    cache: str | Path = AUTO,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
) -> CompareResult:
    """Trains each architecture as `signsclf.runs.train.train` would, below ``out``, and writes ladder.* there.

    A rung whose model folder is there already, of the same images and recipe, is kept. A rung that fails is a row
    with its error. All are judged on the same validation images.

    Args:
        source: what `signsclf.data.table.read_source` takes or gave.
        out: folder for a model folder a rung, named after it.
        names: of architectures; None takes those of `COMPARED_ARCHITECTURES` that suit the images, see `suitable`.
        recipe: for all rungs; its ``arch`` is not used, and drawn signs are added only where it says so.
        layout: forces how the source is read.
        skip_bad: leaves unreadable images out.
        overwrite: trains rungs anew that are there.
        cache: where decoded images are kept, see `signsclf.runs.train.train`: with one, each size is decoded once.
        observer: told of everything that happens.
        stop: once it is set, the training under way ends after its batch, and no other begins.

    Raises:
        SourceError, BadImageError: the source cannot be used.
        SignsclfError: an architecture is not known or named twice, nothing is held out, or ``out`` cannot be written.
    """
    out = user_path(out).absolute()
    with claimed(out):
        return _compare(
            source,
            out,
            names,
            recipe or Recipe(),
            layout,
            skip_bad,
            overwrite,
            cache,
            observer or Observer(),
            stop or threading.Event(),
        )


def _compare(
    source: str | Path | Source,
    out: Path,
    names: Sequence[str] | None,
    recipe: Recipe,
    layout: Layout | Reading | None,
    skip_bad: bool,
    overwrite: bool,
    cache: str | Path,
    observer: Observer,
    stop: threading.Event,
) -> CompareResult:
    for file in COMPARISON_FILES:
        refuse_replacing(out / file, overwrite, [source.origin if isinstance(source, Source) else source])
    for name in names or ():
        architectures.find(name)
        if list(names).count(name) > 1:
            raise SignsclfError(f"--models: {name} is named twice")
    found = source if isinstance(source, Source) else read_source(source, layout)
    observer.source_read(partial(describe, found))
    if recipe.add_synthetic is None:
        # All rungs learn from the same images, those too that would have no drawn signs of themselves.
        recipe = recipe.replace(add_synthetic=0)
    names = names or suitable(found.table)
    observer.say(f"rungs: {', '.join(names)}")
    results: dict[str, ModelResult] = {}
    plans: dict[str, Plan] = {}
    for name in names:
        try:
            plans[name] = plan(found, recipe.replace(arch=name))
        # It is not the rung's fault.
        except SourceError:
            raise
        except SignsclfError as error:
            results[name] = _failed(name, error, observer)
    climb = _Climb(out, skip_bad, overwrite, cache_folder(cache, observer), observer, stop)
    for number, name in enumerate(plans, 1):
        observer.say(f"rung {number} of {len(plans)}: {name}")
        try:
            result = climb.result(plans[name])
        except (SourceError, BadImageError):
            raise
        # Whatever it is that one network runs into, out of memory included, the others go on.
        except Exception as error:
            results[name] = _failed(name, error, observer)
            continue
        if result is None:
            break
        results[name] = result
    ladder = climb.ladder(found, recipe, tuple(results[name] for name in names if name in results))
    out.mkdir(parents=True, exist_ok=True)
    return CompareResult(ladder, write_comparison(out, ladder), stop.is_set())


def suitable(table: np.ndarray) -> tuple[str, ...]:
    """Return those of `COMPARED_ARCHITECTURES` that suit the images of a table: some are for small images only."""
    side = images.median_side(table["path"].tolist())
    largest = {name: architectures.find(name).largest_size for name in COMPARED_ARCHITECTURES}
    return tuple(name for name in COMPARED_ARCHITECTURES if largest[name] is None or side <= largest[name])


class _Climb:
    """One rung after the other, on one split."""

    def __init__(
        self,
        out: Path,
        skip_bad: bool,
        overwrite: bool,
        cache: Path | None,
        observer: Observer,
        stop: threading.Event,
    ) -> None:
        self.out, self.skip_bad, self.overwrite, self.cache, self.observer = out, skip_bad, overwrite, cache, observer
        self.stop = stop
        self.split: Split | None = None
        self.device = ""

    def result(self, planned: Plan) -> ModelResult | None:
        """Trains it, or keeps what is there; None when it was stopped."""
        name = planned.arch.name
        prepared = prepare(planned, self.skip_bad, self.observer, self.cache, self.split)
        if not len(prepared.split.rows("valid")):
            raise SourceError("compare: no image is held out, so there is nothing to compare on; give --valid-fraction")
        if prepared.decoded.entry is None and prepared.source.layout is not Layout.SYNTHETIC:
            # It could not be written, which was said: the other rungs do without.
            self.cache = None
        self.split, self.device = prepared.split, describe_device(prepared.recipe.device)
        folder = self.out / name
        kept = folder.exists() and not self.overwrite
        if kept:
            _refuse_other(folder, prepared)
            self.observer.say(f"{name}: kept, it is there already, of the same images and recipe")
        else:
            source = prepared.source
            # An interrupted run of a rung starts anew: its own split need not be this one.
            order = RunRequest(source.origin, source.reading, self.skip_bad, overwrite=True)
            model = build_network(prepared, self.observer)
            with claimed(folder):
                preflight(prepared, model, folder, Int8Policy.NONE, None, self.observer)
                if begin(order, prepared, model, folder, self.observer, self.stop).stopped:
                    return None
        return _evaluated(folder, prepared, kept)

    def ladder(self, source: Source, recipe: Recipe, results: tuple[ModelResult, ...]) -> Comparison:
        """All rungs, with what they share."""
        split = self.split
        how = ""
        if split is not None:
            how = "by whole groups" if recipe.split_by is SplitBy.GROUP else "by single images"
            how = f"{how}, seed {recipe.seed}" if split.held_out_here else "by the source"
        return Comparison(
            source=file_text(Path(source.origin).name),
            n_classes=len(source.classes),
            n_train=0 if split is None else len(split.rows("train")),
            n_valid=0 if split is None else len(split.rows("valid")),
            split=how,
            device=self.device,
            results=results,
        )


def _refuse_other(folder: Path, prepared: Prepared) -> None:
    config = modelfolder.read_config(folder)
    recipe = prepared.recipe
    shipped = recipe.replace(weights=Path(recipe.weights).name).to_dict()
    if config.fingerprint != prepared.fingerprint or {**Recipe().to_dict(), **config.recipe} != shipped:
        raise ModelError(
            f"{folder} is there already, of other images or another recipe: --overwrite replaces it, --out DIR writes "
            "elsewhere"
        )


def _evaluated(folder: Path, prepared: Prepared, kept: bool) -> ModelResult:
    figures = modelfolder.read_config(folder).figures
    training, valid = figures["training"], figures["valid"]
    shown = ("n", "accuracy", "accuracy_low", "accuracy_high", "top5", "macro_f1")
    return ModelResult(
        name=prepared.arch.name,
        size=prepared.recipe.size,
        epochs=training["epochs"],
        parameters=architectures.count_parameters(prepared.arch, len(prepared.source.classes), prepared.recipe.size),
        bytes=(folder / modelfolder.ONNX).stat().st_size,
        seconds=training["seconds"],
        kept=kept,
        **{name: valid[name] for name in shown},
    )


def _failed(name: str, error: Exception, observer: Observer) -> ModelResult:
    known = isinstance(error, SignsclfError)
    line = " ".join((str(error) if known else f"unexpected {type(error).__name__}: {error}").split())[:300]
    observer.say(f"{name} failed: {line}")
    return ModelResult(name=name, error=line)
