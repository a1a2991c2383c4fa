"""Chooses how a network is trained by trying: successive halving on a part of the training images (arXiv:1502.07943).

The validation images of the run are not touched, so that their figures do not flatter.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from signsclf.data.rows import with_columns
from signsclf.data.split import hold_out
from signsclf.data.table import Source
from signsclf.errors import DivergedError, SignsclfError
from signsclf.metrics.calibrate import fit_temperature, softmax
from signsclf.observer import BatchDone, Observer
from signsclf.recipe import OWN_STARTS, Augment, Recipe, Solver
from signsclf.runs.building import fit_apart
from signsclf.runs.prepare import Plan, Prepared, plan, spread

MOST_IMAGES = 4_000
"""A search looks at so many images at most, of each class its share."""
HELD_OUT = 0.25
"""Share of them that its trainings are compared on."""
_FIRST = 1 / 3
"""Length of the trainings of the first round, of the whole one; half of them go on to the second."""

_PRETRAINED: dict[str, dict[str, Any]] = {
    "linear probe": {"freeze": True},
    "linear probe, then all layers": {"probe_first": True},
    "head, then all layers": {},
    "head, then all layers at nearer rates": {"lr_ratio": 10.0},
}
_FROM_SCRATCH: dict[str, dict[str, Any]] = {
    "light augmentation": {"augment": Augment.LIGHT},
    "standard augmentation": {"augment": Augment.STANDARD},
    "strong augmentation": {"augment": Augment.STRONG},
}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """The result of one training of a search.

    Attributes:
        loss: mean cross-entropy of the images held out, at the temperature that suits them best.
        accuracy: on them, 0 to 1.
        seconds: of training.
    """

    loss: float
    accuracy: float
    seconds: float

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.2f} %, cross-entropy {self.loss:.4f} ({self.seconds:.1f} s)"


def search(
    wanted: Recipe, source: Source, prepared: Prepared, observer: Observer, stop: threading.Event, processes: int = 1
) -> Plan:
    """Choose among the ways of training that leave the fields as they are which the user has set.

    Args:
        wanted: what was asked for, with ``search``.
        source: as it was read.
        prepared: by the plan without a search, which is kept where nothing can be held out.
        processes: that will train together; the search is done in one.

    Raises:
        SignsclfError: no way suits the recipe; the first one's reason.
    """
    arms, refused = _arms(wanted, source, prepared, processes)
    if not arms:
        raise refused or SignsclfError("--search: there is nothing to choose from")
    small = _part(prepared, wanted)
    if small is None:
        observer.say("search: no class has two groups of images to train on, so nothing can be compared; none is made")
        return prepared.plan
    n_train, n = (len(small.split.rows(name)) for name in ("train", "valid"))
    observer.say(f"search: {len(arms)} trainings on {n_train:,} of the training images, compared on {n:,} others")
    found: dict[str, Tried] = {}
    for share in (_FIRST, 1.0):
        for name, planned in arms.items():
            if share == 1.0 and planned.solver is not Solver.GRADIENT:
                continue
            tried = _try(small, planned, share, name, observer, stop)
            if stop.is_set():
                return prepared.plan
            found[name] = tried
            steps = "" if share == 1 or planned.solver is not Solver.GRADIENT else f", {share:.0%} of the steps"
            observer.say(f"search: {name}{steps}: {tried}")
        best = sorted(arms, key=lambda name: found[name].loss)
        arms = {name: arms[name] for name in best[: max(1, -(-len(best) // 2))]}
    name = min(arms, key=lambda name: found[name].loss)
    observer.say(f"search: {name} does best")
    chosen = arms[name]
    reasons = {**chosen.reasons, **dict.fromkeys(_changes(prepared.recipe)[name], f"search: {name} does best")}
    return replace(chosen, reasons=reasons, test_paths=prepared.plan.test_paths)


def _changes(recipe: Recipe) -> dict[str, dict[str, Any]]:
    return _FROM_SCRATCH if recipe.weights in OWN_STARTS else _PRETRAINED


def _arms(
    wanted: Recipe, source: Source, prepared: Prepared, processes: int
) -> tuple[dict[str, Plan], SignsclfError | None]:
    """Plan each way of training for the same pixels; also return why the first of the others does not suit."""
    plans: dict[str, Plan] = {}
    refused = None
    default = Recipe()
    for name, changes in _changes(prepared.recipe).items():
        if any(getattr(wanted, field) not in (getattr(default, field), value) for field, value in changes.items()):
            continue
        try:
            recipe = wanted.replace(search=False, size=prepared.recipe.size, **changes)
            plans[name] = plan(source, recipe, processes)
        except SignsclfError as error:
            refused = refused or error
    return plans, refused


def _part(prepared: Prepared, wanted: Recipe) -> Prepared | None:
    """Take a part of the training images and hold some of it out; None where no class has two groups."""
    rows = prepared.split.rows("train")
    labels = prepared.split.table["label"][rows]
    share = min(1.0, MOST_IMAGES / len(rows))
    if share < 1:
        kept = [spread(rows[labels == label], max(8, round(share * (labels == label).sum()))) for label in set(labels)]
        rows = np.sort(np.concatenate(kept))
    table = prepared.split.table[rows]
    table = with_columns(table, split=np.full(len(table), None, object))
    split = hold_out(table, wanted.split_by, HELD_OUT, wanted.seed)
    if not len(split.rows("valid")):
        return None
    return replace(
        prepared,
        split=split,
        names=tuple(prepared.names[row] for row in rows),
        decoded=prepared.decoded.take(rows.tolist()),
    )


def _try(small: Prepared, planned: Plan, share: float, name: str, observer: Observer, stop: threading.Event) -> Tried:
    recipe = planned.recipe
    if planned.solver is Solver.GRADIENT:
        # As many passes over the part as the training makes over all: its steps are fewer.
        n_train, n_all = len(small.split.rows("train")), len(planned.source.table)
        recipe = recipe.replace(
            epochs=max(1, round(share * recipe.epochs)),
            batch_size=min(recipe.batch_size, n_train),
            shards=1,
            patience=0,
        )
        if recipe.epoch_images:
            images = max(recipe.batch_size, round(recipe.epoch_images * min(1.0, n_train / n_all)))
            recipe = recipe.replace(epoch_images=images)
    held = replace(small, plan=replace(planned, recipe=recipe))
    try:
        result, logits = fit_apart(held, _Steps(observer, name), stop)
    except DivergedError:
        return Tried(loss=float("inf"), accuracy=0.0, seconds=0.0)
    if result.stopped:
        return Tried(loss=float("inf"), accuracy=0.0, seconds=result.seconds)
    targets = held.targets[held.split.rows("valid")]
    logits = logits.astype(np.float64)
    answers = softmax(logits / fit_temperature(logits, targets))
    loss = -np.log(np.maximum(answers[np.arange(len(targets)), targets], 1e-12)).mean()
    accuracy = float((logits.argmax(1) == targets).mean())
    return Tried(loss=float(loss), accuracy=accuracy, seconds=result.seconds)


class _Steps(Observer):
    """Shows a training of the search as one task, and passes nothing else on."""

    def __init__(self, observer: Observer, name: str) -> None:
        self.observer, self.name = observer, name

    def batch_done(self, event: BatchDone) -> None:
        """Pass on how far it is."""
        done = (event.epoch - 1) * event.n_batches + event.batch
        self.observer.progress(f"searching: {self.name}", done, event.n_epochs * event.n_batches)

    def progress(self, task: str, done: int, total: int) -> None:
        """Pass on what is computed before the steps."""
        self.observer.progress(task, done, total)
