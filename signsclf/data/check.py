"""Decode every image of a source completely, and list those that harm training: broken, tiny, repeated, nearly so."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from signsclf import images
from signsclf.data.nearduplicates import DESCRIBED, describe, group_near_duplicates, thumbnail
from signsclf.data.rows import is_missing
from signsclf.errors import BadImageError, has_extra
from signsclf.files import csv_bytes, make_folder, write_atomic
from signsclf.machine import usable_cores
from signsclf.observer import Observer
from signsclf.outputs import COUNT_FILES
from signsclf.text import columns, fitted, visible

if TYPE_CHECKING:
    from signsclf.data.table import Source

TINY = 10
"""An image whose shorter side has fewer pixels is reported as tiny; GTSRB's smallest signs have 15."""
UNASSIGNED = "unassigned"
"""The split of an image that has none yet."""

_CHUNK = 64
_DESCRIBED = 512
_MAX_WORKERS = 8
# Images that decode faster are decoded by one thread: several would lose time to the GIL.
_MIN_SECONDS_FOR_THREADS = 0.25e-3


class DuplicateKind(str, Enum):
    """How a set of equal images is harmful; the first in this order that applies."""

    ACROSS_CLASSES = "across classes"
    """At least one of the labels must be wrong."""
    ACROSS_SPLITS = "across splits"
    """Figures are too good, since the model was trained on images that it is evaluated on."""
    WITHIN_CLASS = "within class"
    """The image counts more than once."""


@dataclass(frozen=True, kw_only=True)
class DuplicateSet:
    """Two or more images with equal pixels, or near-duplicates; the three tuples are parallel.

    Attributes:
        paths: relative to the source, in the order of the table.
        labels: the label of each.
        splits: the split of each, `UNASSIGNED` where it has none.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]

    @property
    def kind(self) -> DuplicateKind:
        """How the set is harmful."""
        if len(set(self.labels)) > 1:
            return DuplicateKind.ACROSS_CLASSES
        if len(set(self.splits)) > 1:
            return DuplicateKind.ACROSS_SPLITS
        return DuplicateKind.WITHIN_CLASS

    def to_dict(self) -> dict[str, Any]:
        """Return the set as JSON values."""
        return {
            "kind": self.kind.value,
            "paths": list(self.paths),
            "labels": list(self.labels),
            "splits": list(self.splits),
        }


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of `check`. Paths are relative to the source, lists in the order of the table.

    Attributes:
        n: images in the table, the unreadable included.
        unreadable: (path, reason) of each.
        tiny: (path, width, height) of the images whose shorter side is under `TINY` pixels.
        duplicates: sets of equal images.
        near_duplicates: groups of images of one class that show the same by their pixels, as
            `signsclf.data.nearduplicates` finds them, among the images without a group; not those that are equal
            images alone. Some may be look-alikes, so they are no reason to stop.
        counts: label to split to number of images, the unreadable included; all classes and splits of the source
            appear, also with 0.
        smallest, largest: (width, height) of the images with the fewest and the most pixels; None if no image can be
            read.
    """

    n: int
    unreadable: tuple[tuple[str, str], ...]
    tiny: tuple[tuple[str, int, int], ...]
    duplicates: tuple[DuplicateSet, ...]
    counts: dict[str, dict[str, int]]
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    near_duplicates: tuple[DuplicateSet, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every image can be read, and none is in two classes or in two splits."""
        harmless = DuplicateKind.WITHIN_CLASS
        return not self.unreadable and all(found.kind is harmless for found in self.duplicates)

    @property
    def totals(self) -> dict[str, int]:
        """Label to images in all splits."""
        return {label: sum(splits.values()) for label, splits in self.counts.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "ok": self.ok,
            "n": self.n,
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "tiny": [{"path": path, "width": width, "height": height} for path, width, height in self.tiny],
            "duplicates": [found.to_dict() for found in self.duplicates],
            "near_duplicates": [found.to_dict() for found in self.near_duplicates],
            "counts": {label: dict(splits) for label, splits in self.counts.items()},
            "smallest": list(self.smallest) if self.smallest else None,
            "largest": list(self.largest) if self.largest else None,
        }


@dataclass(frozen=True, kw_only=True)
class _DecodedImage:
    """One decoded image: its size, a hash of its size and pixels, and a thumbnail; or why it cannot be read."""

    width: int = 0
    height: int = 0
    digest: bytes = b""
    reason: str = ""
    thumbnail: np.ndarray | None = None


def check(source: Source, workers: int | None = None, observer: Observer | None = None) -> CheckResult:
    """Decode every image of a source completely.

    Duplicates have the same size and the same pixels after decoding to upright RGB, so that a lossless copy in another
    format is one, and a JPEG of a PNG is not, but a near-duplicate. Only hashes and, of images without a group, vectors
    to compare are kept in memory, about half a kilobyte each.

    Args:
        workers: decoding threads; by default one per core, at most 8.
        observer: told of progress.
    """
    observer = observer or Observer()
    table = source.table
    n = len(table)
    paths = table["path"].tolist()
    labels = table["label"].tolist()
    splits = [UNASSIGNED if split is None else split for split in table["split"]]

    unreadable, tiny = [], []
    # Hash to rows, in two dicts: most hashes have one row, for which a list would waste memory.
    first: dict[bytes, int] = {}
    repeated: dict[bytes, list[int]] = {}
    smallest = largest = None
    alone = is_missing(table["group"])
    compared = _Compared(int(alone.sum()))
    for row, decoded in enumerate(_decode_all(paths, workers or min(usable_cores(), _MAX_WORKERS))):
        if decoded.reason:
            unreadable.append((source.relative(paths[row]), decoded.reason))
        else:
            size = (decoded.width, decoded.height)
            if min(size) < TINY:
                tiny.append((source.relative(paths[row]), *size))
            smallest = min(smallest or size, size, key=_area)
            largest = max(largest or size, size, key=_area)
            if first.setdefault(decoded.digest, row) != row:
                repeated.setdefault(decoded.digest, [first[decoded.digest]]).append(row)
            if alone[row] and decoded.thumbnail is not None:
                compared.add(row, decoded.thumbnail)
        if (row + 1) % _CHUNK == 0 or row + 1 == n:
            observer.progress("checking", row + 1, n)
    copied = {row: rows[0] for rows in repeated.values() for row in rows}

    def to_set(rows: Sequence[int]) -> DuplicateSet:
        return DuplicateSet(
            paths=tuple(source.relative(paths[row]) for row in rows),
            labels=tuple(labels[row] for row in rows),
            splits=tuple(splits[row] for row in rows),
        )

    near = compared.groups(labels, observer)
    return CheckResult(
        n=n,
        unreadable=tuple(unreadable),
        tiny=tuple(tiny),
        duplicates=tuple(to_set(rows) for rows in sorted(repeated.values())),
        near_duplicates=tuple(to_set(rows) for rows in near if len({copied.get(row, row) for row in rows}) > 1),
        counts=_count(source.classes, labels, splits),
        smallest=smallest,
        largest=largest,
    )


class _Compared:
    """Images to be compared with each other: described in chunks, so that no thumbnail is kept for long.

    Args:
        most: how many there are at most.
    """

    def __init__(self, most: int) -> None:
        self._rows: list[int] = []
        self._waiting: list[np.ndarray] = []
        # Half precision is finer than the distances that are compared. Pages that are not written take no memory.
        self._described = np.empty((most, DESCRIBED), np.float16)

    def add(self, row: int, small: np.ndarray) -> None:
        self._rows.append(row)
        self._waiting.append(small)
        if len(self._waiting) == _DESCRIBED:
            self._describe()

    def groups(self, labels: Sequence[str], observer: Observer) -> list[list[int]]:
        """Return the rows of each group of near-duplicates, in the order of the table."""
        if self._waiting:
            self._describe()
        if not self._rows:
            return []
        first = group_near_duplicates(
            self._described[: len(self._rows)],
            [labels[row] for row in self._rows],
            progress=lambda done, n: observer.progress("comparing", done, n),
        )
        found: dict[int, list[int]] = {}
        for row, group in zip(self._rows, first.tolist(), strict=True):
            found.setdefault(group, []).append(row)
        return [rows for rows in found.values() if len(rows) > 1]

    def _describe(self) -> None:
        stop = len(self._rows)
        self._described[stop - len(self._waiting) : stop] = describe(np.stack(self._waiting))
        self._waiting = []


def bars(result: CheckResult, width: int = 80, block: str = "█") -> list[str]:
    """Render the images of each class as bars of text, one line per class in class order.

    Args:
        width: columns of the longest line, at least about 30.
        block: the character that bars are made of.
    """
    totals = result.totals
    most = max(totals.values(), default=0)
    number_width = len(f"{most:,}")
    name_width = min(max((columns(visible(label)) for label in totals), default=1), max(10, width // 3))
    bar_width = max(10, width - name_width - number_width - 2)
    lines = []
    for label, count in totals.items():
        # A class with images has a bar at least one character long.
        bar = block * max(count > 0, round(bar_width * count / max(most, 1)))
        lines.append(f"{fitted(label, name_width)} {count:>{number_width},} {bar}".rstrip())
    return lines


def write_counts(result: CheckResult, folder: str | Path) -> list[Path]:
    """Write class_counts.csv (label, images, a column per split), and class_counts.png where matplotlib is installed.

    Args:
        folder: created if needed.

    Returns:
        The paths written.

    Raises:
        SignsclfError: the folder cannot be written to.
    """
    from signsclf.report.plots import class_counts

    folder = Path(folder)
    table, picture = (folder / name for name in COUNT_FILES)
    totals = result.totals
    splits = list(next(iter(result.counts.values()), {}))
    rows = [[label, totals[label], *row.values()] for label, row in result.counts.items()]
    make_folder(folder)
    write_atomic(table, csv_bytes([["label", "images", *splits], *rows]))
    if not has_extra("plots"):
        return [table]
    class_counts(list(totals), list(totals.values()), picture)
    return [table, picture]


def _decode_all(paths: Sequence[str], workers: int) -> Iterator[_DecodedImage]:
    """Yield `_decode` of each path, in order, with only a few chunks in progress at any time."""
    # The first image is not timed: it opens the archive and loads Pillow's plugins.
    yield from _decode_chunk(paths[:1])
    started = time.perf_counter()
    decoded = _decode_chunk(paths[1:_CHUNK])
    each = (time.perf_counter() - started) / _CHUNK
    yield from decoded
    chunks = (paths[start : start + _CHUNK] for start in range(_CHUNK, len(paths), _CHUNK))
    if workers == 1 or each < _MIN_SECONDS_FOR_THREADS:
        for chunk in chunks:
            yield from _decode_chunk(chunk)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        pending: deque[Future[list[_DecodedImage]]] = deque()
        for chunk in chunks:
            pending.append(pool.submit(_decode_chunk, chunk))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_chunk(paths: Sequence[str]) -> list[_DecodedImage]:
    return [_decode(path) for path in paths]


def _decode(path: str) -> _DecodedImage:
    try:
        image = images.decode(images.read(path), path)
    except BadImageError as error:
        return _DecodedImage(reason=str(error).removeprefix(f"{path}: "))
    digest = hashlib.blake2b(f"{image.width} {image.height} ".encode(), digest_size=16)
    digest.update(image.tobytes())
    return _DecodedImage(width=image.width, height=image.height, digest=digest.digest(), thumbnail=thumbnail(image))


def _area(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * size[1], size[0]


def _count(classes: Sequence[str], labels: Sequence[str], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    # The usual splits first, in this order; then any others of the source.
    known = ("train", "valid", "test", UNASSIGNED)
    present = sorted(set(splits), key=lambda split: (known.index(split) if split in known else 9, split))
    counts = {label: dict.fromkeys(present, 0) for label in classes}
    for label, split in zip(labels, splits, strict=True):
        counts[label][split] += 1
    return counts
