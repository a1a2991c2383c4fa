"""Trains several models on the same images and the same split, each to a model folder, and compares them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from signsclf import images
from signsclf.choices import Layout
from signsclf.data.cache import AUTO, choose_cache
from signsclf.data.split import Split
from signsclf.data.table import Source, describe, read_source
from signsclf.errors import BadImageError, ModelError, SignsclfError, SourceError
from signsclf.files import user_path
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.outputs import COMPARISON_FILES, refuse_replacing
from signsclf.recipe import COMPARED_ARCHITECTURES, Recipe, SplitBy
from signsclf.report.comparison import Comparison, ModelResult, write_comparison
from signsclf.runs.building import build_network
from signsclf.runs.folder import RunRequest, claimed
from signsclf.runs.preflight import preflight
from signsclf.runs.prepare import Plan, Prepared, plan, prepare
from signsclf.runs.train import begin
from signsclf.text import file_text
from signsclf.training import architectures
from signsclf.training.learner import describe_device
from signsclf.training.settings import own_settings


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """The result of `compare`.

    Attributes:
        comparison: the models that were trained, kept or failed.
        written: the comparison's files.
        stopped: whether it was interrupted; the same call continues, since finished models are kept.
    """

    comparison: Comparison
    written: list[Path]
    stopped: bool


@own_settings()
def compare(
    source: str | Path | Source,
    out: str | Path,
    names: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    *,
    cache: str | Path = AUTO,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
    **options: Any,
) -> CompareResult:
    """Train each architecture as `signsclf.runs.train.train` would, below ``out``, and write the comparison there.

    A model folder that exists, of the same images and recipe, is kept. A model that fails is a row with its error. All
    are evaluated on the same validation images.

    Args:
        source: what `signsclf.data.table.read_source` takes or gave.
        out: folder for one model folder per architecture, named after it.
        names: of architectures; None takes those of `COMPARED_ARCHITECTURES` that suit the images, see `suitable`.
        recipe: for all models; its ``arch`` is not used, and synthetic signs are added only where it says so.
        cache: where decoded images are kept, see `signsclf.runs.train.train`: with one, each size is decoded once.
        observer: told of everything that happens.
        stop: once it is set, the training under way ends after its batch, and no other begins.
        options: ``layout``, ``skip_bad`` and ``overwrite`` of `signsclf.runs.train.train`; ``overwrite`` trains models
            again that exist.

    Raises:
        SourceError, BadImageError: the source cannot be used.
        SignsclfError: an architecture is not known or named twice, nothing is held out, or ``out`` cannot be written.
        TypeError: an option is not known.
    """
    out = user_path(out).absolute()
    request = RunRequest.of(source.origin if isinstance(source, Source) else source, **options)
    runner = _Runner(out, request, cache, observer or Observer(), stop or threading.Event())
    with claimed(out):
        return runner.run(source, names, recipe or Recipe())


def suitable(table: np.ndarray) -> tuple[str, ...]:
    """Return those of `COMPARED_ARCHITECTURES` that suit the images of a table: some are for small images only."""
    side = images.median_side(table["path"].tolist())
    largest = {name: architectures.find_architecture(name).largest_size for name in COMPARED_ARCHITECTURES}
    return tuple(name for name in COMPARED_ARCHITECTURES if largest[name] is None or side <= largest[name])


class _Runner:
    """Trains one model after the other, on one split."""

    def __init__(
        self, out: Path, request: RunRequest, cache: str | Path, observer: Observer, stop: threading.Event
    ) -> None:
        self.out, self.request, self.observer, self.stop = out, request, observer, stop
        self.cache = choose_cache(cache, observer)
        self.split: Split | None = None
        self.device = ""

    def run(self, source: str | Path | Source, names: Sequence[str] | None, recipe: Recipe) -> CompareResult:
        """Train all models, or those that are left until `stop` is set, and write the comparison."""
        for file in COMPARISON_FILES:
            refuse_replacing(self.out / file, self.request.overwrite, [self.request.source])
        for name in names or ():
            architectures.find_architecture(name)
            if list(names).count(name) > 1:
                raise SignsclfError(f"--models: {name} is named twice")
        found = source if isinstance(source, Source) else read_source(source, self.request.reading)
        self.observer.source_read(partial(describe, found))
        if recipe.add_synthetic is None:
            # All learn from the same images, also the models that by themselves would add no synthetic signs.
            recipe = recipe.replace(add_synthetic=0)
        names = names or suitable(found.table)
        self.observer.say(f"models: {', '.join(names)}")
        results: dict[str, ModelResult] = {}
        plans: dict[str, Plan] = {}
        for name in names:
            try:
                plans[name] = plan(found, recipe.replace(arch=name))
            # Wrong for every model alike.
            except SourceError:
                raise
            except SignsclfError as error:
                results[name] = _failed(name, error, self.observer)
        for number, (name, planned) in enumerate(plans.items(), 1):
            self.observer.say(f"model {number} of {len(plans)}: {name}")
            try:
                result = self.result(planned)
            except (SourceError, BadImageError):
                raise
            # Whatever goes wrong with one network, out of memory included, the others are trained.
            except Exception as error:
                results[name] = _failed(name, error, self.observer)
                continue
            if result is None:
                break
            results[name] = result
        comparison = self.comparison(found, recipe, tuple(results[name] for name in names if name in results))
        self.out.mkdir(parents=True, exist_ok=True)
        written = write_comparison(self.out, comparison)
        return CompareResult(comparison=comparison, written=written, stopped=self.stop.is_set())

    def result(self, planned: Plan) -> ModelResult | None:
        """Train a model, or keep the one that exists; None when it was stopped."""
        name, observer = planned.arch.name, self.observer
        prepared = prepare(planned, self.request.skip_bad, observer, self.cache, self.split)
        if not len(prepared.split.rows("valid")):
            raise SourceError("compare: no image is held out, so there is nothing to compare on; give --valid-fraction")
        if prepared.decoded.entry is None and prepared.source.layout is not Layout.SYNTHETIC:
            # It does not fit or cannot be written, which was said: the other models do without.
            self.cache = replace(self.cache, folder=None)
        self.split, self.device = prepared.split, describe_device(prepared.recipe.device)
        folder = self.out / name
        kept = folder.exists() and not self.request.overwrite
        if kept:
            _refuse_other(folder, prepared)
            observer.say(f"{name}: kept, it exists already, of the same images and recipe")
        else:
            source = prepared.source
            # An interrupted run of a model starts anew: its own split need not be this one.
            request = replace(self.request, source=source.origin, reading=source.reading, overwrite=True)
            model = build_network(planned, observer)
            with claimed(folder):
                preflight(planned, model, folder, request.int8, None, observer)
                if begin(request, prepared, model, folder, observer, self.stop).stopped:
                    return None
        return _evaluated(folder, prepared, kept)

    def comparison(self, source: Source, recipe: Recipe, results: tuple[ModelResult, ...]) -> Comparison:
        """Put all models together, with what they share."""
        split = self.split
        how = ""
        if split is not None:
            how = "by single images" if recipe.split_by is SplitBy.RANDOM else "by whole groups"
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
    shipped = recipe.without_places().to_dict()
    if config.fingerprint != prepared.fingerprint or {**Recipe().to_dict(), **config.recipe} != shipped:
        raise ModelError(
            f"{folder} exists already, of other images or another recipe: --overwrite replaces it, --out DIR writes "
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
        parameters=architectures.count_parameters(prepared.arch, len(prepared.classes), prepared.recipe.size),
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
