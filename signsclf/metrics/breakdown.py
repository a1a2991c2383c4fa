"""Where a classifier is right and where it is not: by class, rarity, group of classes, image size and track."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from signsclf.metrics.classification import Confusion, Report, wilson
from signsclf.text import count

SIZE_BINS = 5


@dataclass(frozen=True)
class Proportion:
    """How many of some images, or tracks, are right.

    Attributes:
        label: what they have in common.
        n: how many they are.
        right: how many of them are right, 0 to n.
        note: what else to say of them, in a few words.
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
        """The share that is right, 0 to 1; None of none."""
        return self.right / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % Wilson interval."""
        return wilson(self.right, self.n)

    def to_dict(self) -> dict[str, Any]:
        """The fields, with the share and its interval, as JSON values."""
        low, high = self.interval
        return {**asdict(self), "share": self.value, "low": low, "high": high}


def by_class(report: Report, counts: Confusion) -> list[tuple[int, Proportion]]:
    """(class index, share of its images that are right) of the classes present, those of the lowest F1 first."""
    right = counts.n_right
    present = [i for i, figures in enumerate(report.per_class) if figures.n]
    order = sorted(present, key=lambda i: (report.per_class[i].f1, report.per_class[i].recall, i))
    return [(i, Proportion(report.per_class[i].label, report.per_class[i].n, int(right[i]))) for i in order]


def by_rarity(confused: Confusion, train_counts: Sequence[int]) -> list[Proportion]:
    """The images of the commonest, the middle and the rarest third of the classes that were judged.

    Args:
        confused: of C classes.
        train_counts: images of each of the C classes that the training had.

    Returns:
        Three shares, the commonest classes first; none with fewer than three classes, or all equally common.
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
        result.append(Proportion(f"{name} third", int(n_true[third].sum()), int(n_right[third].sum()), note))
    return result


def by_group(confused: Confusion, groups: Mapping[str, Sequence[int]]) -> list[Proportion]:
    """The images of each group of classes, the weakest group first; groups without images are left out."""
    shares = []
    for name, members in groups.items():
        members = np.array(members, np.int64)
        n, right = int(confused.n_true[members].sum()), int(confused.n_right[members].sum())
        outside = n - int(confused.among(members).sum())
        note = f"{n - right:,} wrong, {outside:,} of them for another group's sign" if right < n else ""
        shares.append(Proportion(name, n, right, note))
    return sorted((share for share in shares if share.n), key=lambda share: share.value)


def by_size(right: np.ndarray, sides: np.ndarray) -> list[Proportion]:
    """Fifths of the images by their shorter side, the smallest first; fewer rows where many are of one size.

    Args:
        right: bool (N,).
        sides: shorter side in pixels, int (N,).
    """
    edges = np.unique(np.quantile(sides, np.linspace(0, 1, SIZE_BINS + 1)[1:], method="higher"))
    which = np.searchsorted(edges, sides)
    shares = []
    for i in range(len(edges)):
        inside = which == i
        low, high = int(sides[inside].min()), int(sides[inside].max())
        label = f"{low} px" if low == high else f"{low} to {high} px"
        shares.append(Proportion(label, int(inside.sum()), int(right[inside].sum())))
    return shares


@dataclass(frozen=True)
class Tracks:
    """Frames of one physical object taken together.

    Attributes:
        n: tracks.
        majority: of how many more than half of the frames are right.
        all_right, all_wrong: of how many every frame is right, or none.
    """

    n: int
    majority: int
    all_right: int
    all_wrong: int


def by_track(right: np.ndarray, units: np.ndarray) -> Tracks:
    """Counts tracks by how many of their frames are right.

    Args:
        right: bool (N,).
        units: the track of each image, int (N,) from 0.
    """
    frames, hits = np.bincount(units), np.bincount(units, right)
    return Tracks(
        n=len(frames),
        majority=int((hits * 2 > frames).sum()),
        all_right=int((hits == frames).sum()),
        all_wrong=int((hits == 0).sum()),
    )
