"""Hold out validation images, a fraction of them or one of several disjoint folds: stratified by class, every group
(one physical object) entirely in one split."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

import numpy as np

from signsclf.data.rows import is_missing, with_columns
from signsclf.errors import SourceError
from signsclf.recipe import SplitBy, parse_fold


@dataclass(frozen=True, kw_only=True)
class Split:
    """A table whose every row has a split, and facts about it.

    Attributes:
        table: the table with ``split`` filled in: train, valid or test.
        held_out_here: whether the validation images were chosen here rather than by the source.
        not_evaluated: classes with training images but no validation images, if there are any validation images.
        groups_in_both_splits: groups with images in training and in validation; if there are any, the validation
            figures are too good.
        in_no_fold: images that no fold holds out, since a class would be left without training images; 0 where no fold
            was requested.
    """

    table: np.ndarray
    held_out_here: bool
    not_evaluated: tuple[str, ...]
    groups_in_both_splits: int
    in_no_fold: int = 0

    def rows(self, name: str) -> np.ndarray:
        """Return the positions of the rows of one split, ascending, int64 (n,)."""
        return np.flatnonzero(self.table["split"] == name)


def hold_out(table: np.ndarray, by: SplitBy, valid_fraction: float, seed: int, fold: str | None = None) -> Split:
    """Fill in ``split``: rows without one become training, and a part of training is held out unless there is valid.

    Of each class whole groups are held out, in a random order that the seed decides, as close to ``valid_fraction`` of
    its images as groups allow, and at least one group if there are two. An image without a group is a group of its own.
    Classes with one group are not held out; neither is a group that would leave a class without training images.

    Args:
        valid_fraction: share of each class's training images, 0 to 0.9; 0 holds nothing out.
        fold: ``K/N``: hold out the K-th of N `folds` instead of a fraction.

    Raises:
        SourceError: there are no training images, or none of a class that is evaluated; or ``fold`` is given and the
            source has a validation split of its own, or that fold is empty.
        SignsclfError: ``fold`` is not K/N.
    """
    split = np.where(is_missing(table["split"]), "train", table["split"])
    given = bool((split == "valid").any())
    pool = np.flatnonzero(split == "train")
    if len(pool) == 0:
        raise SourceError("source: it has no training images; give one with a training part or without splits")
    groups = table["group"]
    labels, keys = table["label"][pool], _keys(groups[pool], by)
    in_no_fold = 0
    if fold is not None:
        if given:
            raise SourceError(f"--fold {fold}: the source has validation images of its own; leave --fold out")
        k, n = parse_fold(fold)
        number = folds(labels, keys, n, seed)
        if not (number == k).any():
            raise SourceError(f"--fold {fold}: no class has so many groups, so this fold is empty; give fewer folds")
        split[pool[number == k]] = "valid"
        in_no_fold = int((number == 0).sum())
    elif not given and valid_fraction > 0:
        split[pool[_choose(labels, keys, valid_fraction, seed)]] = "valid"
    table = with_columns(table, split=split)
    has_valid = bool((split == "valid").any())
    train_labels = set(table["label"][split == "train"])
    valid_labels = set(table["label"][split == "valid"])
    for name, where in (("valid", "validation"), ("test", "test")):
        if missing := sorted(set(table["label"][split == name]) - train_labels):
            raise SourceError(f"source: class {missing[0]!r} is in {where} but not in training; move images of it over")
    both = set(groups[split == "train"]) & set(groups[split == "valid"]) - {None}
    return Split(
        table=table,
        held_out_here=has_valid and not given,
        not_evaluated=tuple(sorted(train_labels - valid_labels)) if has_valid else (),
        groups_in_both_splits=len(both),
        in_no_fold=in_no_fold,
    )


def _keys(groups: np.ndarray, by: SplitBy) -> np.ndarray:
    alone = is_missing(groups) | (by is SplitBy.RANDOM)
    return np.where(alone, [f"\x01{i}" for i in range(len(groups))], groups)


class _Groups:
    """Groups of images, and how many images of each class they have."""

    def __init__(self, labels: np.ndarray, keys: np.ndarray) -> None:
        sizes = Counter(zip(keys, labels, strict=True))
        self.totals: dict[str, int] = Counter(keys)
        """Images of each group."""
        self.spans: dict[str, dict[str, int]] = {}
        """Images of each class in each group."""
        for (key, label), n in sizes.items():
            self.spans.setdefault(key, {})[label] = n
        self.by_class: dict[str, list[str]] = {label: [] for label in sorted(set(labels))}
        """Groups of each class, in order; a group that spans classes belongs to its commonest one."""
        for key, span in sorted(self.spans.items()):
            self.by_class[max(span, key=lambda label: span[label])].append(key)
        self.images: dict[str, int] = Counter(labels)
        """Images of each class."""


def folds(labels: np.ndarray, keys: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Assign each image to a fold, 1 to ``n``, int (N,): disjoint, whole groups, stratified by class.

    In each class the numbers of images in two folds differ by at most the largest group. 0 means no fold: holding out
    that group would leave a class without training images, as with the only group of a class.

    Args:
        labels: class of each image (N,).
        keys: group of each image (N,), str.
        n: folds, 2 or more.
        seed: the folds depend only on it, ``n`` and the images.
    """
    rng = np.random.default_rng([seed, n, 0xF01D])
    groups = _Groups(labels, keys)
    members: dict[str, list[str]] = {}
    for key, span in groups.spans.items():
        for label in span:
            members.setdefault(label, []).append(key)
    # The only group of a class cannot be held out.
    fixed = {keys[0] for keys in members.values() if len(keys) == 1}
    fold: dict[str, int] = {}
    total = [0] * n
    for by_class in groups.by_class.values():
        # The fold with the fewest images of this class first, then the one with the fewest images of all classes, so
        # that classes of few groups do not all start with the same fold.
        fill = [(0, total[k], k) for k in range(n)]
        heapq.heapify(fill)
        for i in rng.permutation(len(by_class)).tolist():
            if (key := by_class[i]) in fixed:
                continue
            of_class, of_all, k = fill[0]
            fold[key] = k + 1
            total[k] += groups.totals[key]
            heapq.heapreplace(fill, (of_class + groups.totals[key], of_all + groups.totals[key], k))
    # Groups that span classes can put all images of one class into one fold; then the smallest is in no fold.
    for keys_of_class in members.values():
        if len({fold.get(key, 0) for key in keys_of_class}) == 1 and keys_of_class[0] in fold:
            del fold[min(keys_of_class, key=lambda key: (groups.totals[key], key))]
    return np.array([fold.get(key, 0) for key in keys], np.int64)


def _choose(labels: np.ndarray, keys: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose the positions to hold out; a group that spans classes belongs to its commonest one."""
    rng = np.random.default_rng([seed, 0x5B117])
    groups = _Groups(labels, keys)
    left = dict(groups.images)
    held_out: set[str] = set()

    def hold(key: str) -> bool:
        if any(left[label] == n for label, n in groups.spans[key].items()):
            return False
        for label, n in groups.spans[key].items():
            left[label] -= n
        held_out.add(key)
        return True

    for by_class in groups.by_class.values():
        if len(by_class) < 2:
            continue
        target = fraction * sum(groups.totals[key] for key in by_class)
        n_held_out = 0
        order = [by_class[i] for i in rng.permutation(len(by_class))]
        for key in order:
            n = groups.totals[key]
            if abs(n_held_out + n - target) < abs(n_held_out - target) and hold(key):
                n_held_out += n
        if not n_held_out:
            # Every group alone is more than the target: take the smallest that may be held out.
            any(hold(key) for key in sorted(order, key=lambda key: groups.totals[key]))
    return np.flatnonzero([key in held_out for key in keys])
