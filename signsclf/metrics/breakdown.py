"""Accuracy by class, by rarity, by group of classes, by image size and by track."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from signsclf.metrics.classification import Confusion, Report, wilson
from signsclf.text import count

SIZE_BINS = 5
GROUPS_NAMED = 12


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """How many of a set of images, or tracks, are right.

    Attributes:
        label: what the set has in common.
        n: its size.
        right: how many of them are right, 0 to n.
        note: a few words about the set.
    """

    label: str
    n: int
    right: int
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.n:
            raise ValueError(f"{self.label!r}: {self.right} right of {self.n}")

    @property
    def value(self) -> float | None:
        """The share that is right, 0 to 1; None where n is 0."""
        return self.right / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """The share's 95 % Wilson interval."""
        return wilson(self.right, self.n)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, the share and its interval as JSON values."""
        low, high = self.interval
        return {**asdict(self), "share": self.value, "low": low, "high": high}


def by_class(report: Report, counts: Confusion) -> list[tuple[int, Proportion]]:
    """Return (class index, share of its images that are right) for each class present, the lowest F1 first."""
    right = counts.n_right
    present = [i for i, figures in enumerate(report.per_class) if figures.n]
    order = sorted(present, key=lambda i: (report.per_class[i].f1, report.per_class[i].recall, i))
    figures = report.per_class
    return [(i, Proportion(label=figures[i].label, n=figures[i].n, right=int(right[i]))) for i in order]


def by_rarity(confused: Confusion, train_counts: Sequence[int]) -> list[Proportion]:
    """Group the evaluated classes into thirds by how common they are in the training set.

    Args:
        confused: the confusion of C classes.
        train_counts: training images of each of the C classes.

    Returns:
        Three proportions, the commonest classes first; an empty list with fewer than three classes, or where all are
        equally common.
    """
    n_true, n_right = confused.n_true, confused.n_right
    present = np.flatnonzero(n_true)
    counts = np.asarray(train_counts)
    if len(present) < 3 or np.ptp(counts[present]) == 0:
        return []
    order = present[np.argsort(-counts[present], kind="stable")]
    result = []
    for name, third in zip(("common", "middle", "rare"), np.array_split(order, 3), strict=True):
        low, high = counts[third].min(), counts[third].max()
        images = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        note = f"{count(len(third), 'class', 'classes')} with {images} training images each"
        n, right = int(n_true[third].sum()), int(n_right[third].sum())
        result.append(Proportion(label=f"{name} third", n=n, right=right, note=note))
    return result


def by_group(confused: Confusion, groups: Mapping[str, Sequence[int]]) -> list[Proportion]:
    """Group images by groups of classes, the weakest group first; groups without images are left out."""
    shares = []
    for name, members in groups.items():
        members = np.array(members, np.int64)
        n, right = int(confused.n_true[members].sum()), int(confused.n_right[members].sum())
        outside = n - int(confused.among(members).sum())
        note = f"{n - right:,} wrong, {outside:,} of them for another group's sign" if right < n else ""
        shares.append(Proportion(label=name, n=n, right=right, note=note))
    return sorted((share for share in shares if share.n), key=lambda share: share.value)


def by_size(right: np.ndarray, short_sides: np.ndarray) -> list[Proportion]:
    """Group images into fifths by their shorter side, the smallest first; fewer groups where many have one size.

    Args:
        right: bool (N,).
        short_sides: shorter side in pixels, int (N,).
    """
    edges = np.unique(np.quantile(short_sides, np.linspace(0, 1, SIZE_BINS + 1)[1:], method="higher"))
    fifth = np.searchsorted(edges, short_sides)
    shares = []
    for i in range(len(edges)):
        inside = fifth == i
        low, high = int(short_sides[inside].min()), int(short_sides[inside].max())
        label = f"{low} px" if low == high else f"{low} to {high} px"
        shares.append(Proportion(label=label, n=int(inside.sum()), right=int(right[inside].sum())))
    return shares


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """How many tracks (all frames of one physical object) are right.

    Attributes:
        n: tracks.
        majority: tracks of which more than half of the frames are right.
        all_right, all_wrong: tracks of which every frame is right, or none.
    """

    n: int
    majority: int
    all_right: int
    all_wrong: int


def by_track(right: np.ndarray, tracks: np.ndarray) -> Tracks:
    """Count tracks by how many of their frames are right.

    Args:
        right: bool (N,).
        tracks: the track of each image, int (N,) from 0.
    """
    frames, hits = np.bincount(tracks), np.bincount(tracks, right)
    return Tracks(
        n=len(frames),
        majority=int((hits * 2 > frames).sum()),
        all_right=int((hits == frames).sum()),
        all_wrong=int((hits == 0).sum()),
    )


def worst_groups(right: np.ndarray, groups: Sequence[str | None]) -> tuple[Proportion, ...]:
    """Name the groups with a wrong image, those with the smallest share right first, at most `GROUPS_NAMED`.

    Args:
        right: whether each image is right, bool (N,), or how often, float (N,) in [0, 1].
        groups: name of each image's group; None for one without, which is not named.
    """
    counts: dict[str, list[float]] = {}
    for group, share in zip(groups, np.asarray(right, np.float64).tolist(), strict=True):
        if group is not None:
            counts.setdefault(group, []).append(share)
    wrong = [(sum(shares), len(shares), name) for name, shares in counts.items() if sum(shares) < len(shares)]
    wrong.sort(key=lambda row: (row[0] / row[1], -row[1], row[2]))
    return tuple(Proportion(label=name, n=n, right=round(hits)) for hits, n, name in wrong[:GROUPS_NAMED])
