"""What the teachers of a distillation had been trained on: figures on images that they know flatter the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from signsclf.data.cache import Cache, Decoded, decode_some
from signsclf.data.split import Split
from signsclf.evaluation.evaluate import inputs_of, training_record
from signsclf.observer import Observer
from signsclf.recipe import Recipe
from signsclf.training.teachers import Teacher, find_teachers


def seen_by_teachers(
    recipe: Recipe, classes: Sequence[str], split: Split, decoded: Decoded, cache: Cache | None = None
) -> int | None:
    """Count the validation images that a teacher was trained on, recognised by their pixels at the teacher's size.

    Args:
        recipe: resolved.
        classes: of the source.
        decoded: the images of the split's table at the recipe's size.
        cache: see `signsclf.data.cache.decode_all`.

    Returns:
        0 without teachers; None where one does not tell what it was trained on, or an image cannot be read any more.

    Raises:
        ModelError: see `signsclf.training.teachers.find_teachers`.
    """
    rows = split.rows("valid")
    seen = np.zeros(len(rows), bool)
    for teacher in find_teachers(recipe, classes) if len(rows) else ():
        record = training_record(teacher.folder)
        if record is None or not _knows_its_own(teacher):
            return None
        at_its_size, size = [decoded.inputs[row] for row in rows], teacher.config.input_size[0]
        if size != recipe.size:
            at_its_size = decode_some(split.table, rows, size, cache).inputs
        if not all(at_its_size):
            return None
        trained = inputs_of(record, "train")
        seen |= [digest in trained for digest in at_its_size]
    return int(seen.sum())


def _knows_its_own(teacher: Teacher) -> bool:
    """Tell whether all that taught a teacher is in its own record: its teachers know none of what it held out."""
    valid = teacher.config.figures.get("valid") or {}
    return not teacher.config.recipe.get("teacher") or valid.get("n_seen_by_teacher") == 0


def say_seen(n_seen: int | None, n_valid: int, observer: Observer) -> None:
    """Warn of figures that flatter, see `seen_by_teachers`."""
    if n_seen is None:
        observer.say(
            "warning: a teacher does not tell all the images that it was trained on; where validation images are among "
            "them, their figures flatter"
        )
    elif n_seen:
        observer.say(
            f"warning: {n_seen:,} of the {n_valid:,} validation images trained a teacher, so that their figures "
            "flatter; a teacher made with the same --seed and --valid-fraction, or --fold, has not seen them"
        )
