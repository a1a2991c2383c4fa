"""Decodes every image of a source whole, and lists those that spoil training: unreadable, tiny, repeated."""

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

from signsclf import images
from signsclf.errors import BadImageError, SignsclfError, has_extra
from signsclf.files import csv_bytes, write_atomic
from signsclf.observer import Observer
from signsclf.outputs import COUNT_FILES
from signsclf.text import columns, fitted, visible
from signsclf.threads import usable_cores

if TYPE_CHECKING:
    from signsclf.data.table import Source

TINY = 10
"""An image whose shorter side has fewer pixels is called tiny: GTSRB's smallest signs have 15."""
UNASSIGNED = "unassigned"
"""Stands for the split of an image that belongs to none yet."""

_CHUNK = 64
_MOST_WORKERS = 8
# Quicker images are decoded one by one: for them threads lose more by handing Python's lock to and fro.
_WORTH_A_THREAD = 0.25e-3


class DuplicateKind(str, Enum):
    """What a set of equal images harms; of several, the first in this order."""

    ACROSS_CLASSES = "across classes"
    """Some of the labels must be wrong."""
    ACROSS_SPLITS = "across splits"
    """Figures on the one split flatter, since the model has seen these images in the other."""
    WITHIN_CLASS = "within class"
    """These count more than once."""


@dataclass(frozen=True, kw_only=True)
class DuplicateSet:
    """Images, two or more, that are the same pixel for pixel; the three tuples go together.

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
        if len(set(self.labels)) > 1:
            return DuplicateKind.ACROSS_CLASSES
        if len(set(self.splits)) > 1:
            return DuplicateKind.ACROSS_SPLITS
        return DuplicateKind.WITHIN_CLASS


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What `check` found. Paths are relative to the source, lists in the order of the table.

    Attributes:
        n: images in the table, the unreadable included.
        unreadable: (path, reason) of each.
        tiny: (path, width, height) of the images whose shorter side is under `TINY` pixels.
        duplicates: sets of equal images.
        counts: label to split to images, the unreadable included; every class of the source is there, empty
            ones with 0, and every class has the same splits.
        smallest, largest: (width, height) of the images with the fewest and the most pixels; None when no
            image can be read.
    """

    n: int
    unreadable: tuple[tuple[str, str], ...]
    tiny: tuple[tuple[str, int, int], ...]
    duplicates: tuple[DuplicateSet, ...]
    counts: dict[str, dict[str, int]]
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None

    @property
    def ok(self) -> bool:
        """Whether every image can be read, and none stands in two classes or in two splits."""
        harmless = DuplicateKind.WITHIN_CLASS
        return not self.unreadable and all(found.kind is harmless for found in self.duplicates)

    @property
    def totals(self) -> dict[str, int]:
        """Label to images in all splits."""
        return {label: sum(splits.values()) for label, splits in self.counts.items()}

    def to_dict(self) -> dict[str, Any]:
        """The same for `json.dumps`."""
        return {
            "ok": self.ok,
            "n": self.n,
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "tiny": [{"path": path, "width": width, "height": height} for path, width, height in self.tiny],
            "duplicates": [
                {
                    "kind": found.kind.value,
                    "paths": list(found.paths),
                    "labels": list(found.labels),
                    "splits": list(found.splits),
                }
                for found in self.duplicates
            ],
            "counts": {label: dict(splits) for label, splits in self.counts.items()},
            "smallest": list(self.smallest) if self.smallest else None,
            "largest": list(self.largest) if self.largest else None,
        }


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One image, decoded: its size and the hash of its size and pixels, or why it cannot be read."""

    width: int = 0
    height: int = 0
    digest: bytes = b""
    reason: str = ""


def check(source: Source, workers: int | None = None, observer: Observer | None = None) -> CheckResult:
    """Decodes every image of a source whole.

    Duplicates are exact: the same size and the same pixels once decoded to upright RGB, so that a lossless
    copy in another format counts, and a JPEG of a PNG does not. Only hashes are kept, some 100 bytes each.

    Args:
        workers: threads that decode; by default one a core, at most 8.
        observer: told of progress.
    """
    observer = observer or Observer()
    table = source.table
    n = len(table)
    paths = table["path"].tolist()
    labels = table["label"].tolist()
    splits = [UNASSIGNED if split is None else split for split in table["split"]]

    unreadable, tiny = [], []
    # By hash, the rows that have it: most hashes have one row, for which a list would be a waste.
    first: dict[bytes, int] = {}
    repeated: dict[bytes, list[int]] = {}
    smallest = largest = None
    for row, look in enumerate(_looks(paths, workers or min(usable_cores(), _MOST_WORKERS))):
        if look.reason:
            unreadable.append((source.relative(paths[row]), look.reason))
        else:
            size = (look.width, look.height)
            if min(size) < TINY:
                tiny.append((source.relative(paths[row]), *size))
            smallest = min(smallest or size, size, key=_area)
            largest = max(largest or size, size, key=_area)
            if first.setdefault(look.digest, row) != row:
                repeated.setdefault(look.digest, [first[look.digest]]).append(row)
        if (row + 1) % _CHUNK == 0 or row + 1 == n:
            observer.progress("checking", row + 1, n)
    return CheckResult(
        n=n,
        unreadable=tuple(unreadable),
        tiny=tuple(tiny),
        duplicates=tuple(
            DuplicateSet(
                paths=tuple(source.relative(paths[row]) for row in rows),
                labels=tuple(labels[row] for row in rows),
                splits=tuple(splits[row] for row in rows),
            )
            for rows in sorted(repeated.values())
        ),
        counts=_count(source.classes, labels, splits),
        smallest=smallest,
        largest=largest,
    )


def bars(result: CheckResult, width: int = 80, block: str = "█") -> list[str]:
    """Images of each class as bars of text, a line a class in the order of the classes.

    Args:
        width: columns of the longest line; never fewer than some 30.
        block: the letter that bars are made of.
    """
    totals = result.totals
    most = max(totals.values(), default=0)
    for_number = len(f"{most:,}")
    for_name = min(max((columns(visible(label)) for label in totals), default=1), max(10, width // 3))
    for_bar = max(10, width - for_name - for_number - 2)
    lines = []
    for label, count in totals.items():
        # A class that has images has a bar, however short.
        bar = block * max(count > 0, round(for_bar * count / max(most, 1)))
        lines.append(f"{fitted(label, for_name)} {count:>{for_number},} {bar}".rstrip())
    return lines


def write_counts(result: CheckResult, folder: str | Path) -> list[Path]:
    """Write class_counts.csv (label, images, a column per split), and class_counts.png where matplotlib is installed.

    Args:
        folder: where to; made if need be.

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SignsclfError(
            f"{folder}: cannot be written to ({error.strerror or error}): name another folder"
        ) from error
    write_atomic(table, csv_bytes([["label", "images", *splits], *rows]))
    if not has_extra("plots"):
        return [table]
    class_counts(list(totals), list(totals.values()), picture)
    return [table, picture]


def _looks(paths: Sequence[str], workers: int) -> Iterator[_Look]:
    """What `_look` says of each path, in order; a few chunks are under way at any time, never all."""
    # The first one opens the archive and Pillow's plugins, and says nothing of the time that the others take.
    yield from _look_at(paths[:1])
    started = time.perf_counter()
    looks = _look_at(paths[1:_CHUNK])
    each = (time.perf_counter() - started) / _CHUNK
    yield from looks
    chunks = (paths[start : start + _CHUNK] for start in range(_CHUNK, len(paths), _CHUNK))
    if workers == 1 or each < _WORTH_A_THREAD:
        for chunk in chunks:
            yield from _look_at(chunk)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        ahead: deque[Future[list[_Look]]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(_look_at, chunk))
            if len(ahead) > 2 * workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _look_at(paths: Sequence[str]) -> list[_Look]:
    return [_look(path) for path in paths]


def _look(path: str) -> _Look:
    try:
        image = images.decode(images.read(path), path)
    except BadImageError as error:
        return _Look(reason=str(error).removeprefix(f"{path}: "))
    digest = hashlib.blake2b(f"{image.width} {image.height} ".encode(), digest_size=16)
    digest.update(image.tobytes())
    return _Look(width=image.width, height=image.height, digest=digest.digest())


def _area(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * size[1], size[0]


def _count(classes: Sequence[str], labels: Sequence[str], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    # In the order of use, whatever else a source calls its splits.
    known = ("train", "valid", "test", UNASSIGNED)
    present = sorted(set(splits), key=lambda split: (known.index(split) if split in known else 9, split))
    counts = {label: dict.fromkeys(present, 0) for label in classes}
    for label, split in zip(labels, splits, strict=True):
        counts[label][split] += 1
    return counts
