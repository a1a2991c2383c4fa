"""Rows of labelled images, which every layout is read into, and tracks recognised by file names."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from signsclf.choices import Layout
from signsclf.data.gtsrb import MAX_FRAMES, MAX_TRACKS

_TRACK = re.compile(r"([0-9]{5})_[0-9]{5}")
_GTSRB_FRAME = re.compile(r"(?:[0-9]{5}_)?([0-9]{5})_([0-9]{5})")
_KAGGLE_TRACK = re.compile(r"([0-9]{5})_([0-9]{5})_[0-9]{5}")


class Row(NamedTuple):
    """One image: a row of the table, and the image's (width, height) in pixels that its roi refers to."""

    path: str
    label: str
    split: str | None = None
    group: str | None = None
    roi: tuple[int, int, int, int] | None = None
    image_wh: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class ParsedSource:
    """A recognised layout: its rows, and the folder (ending in '/', or '') to which names are relative.

    ``missing`` describes the rows whose image does not exist, in one line without a remedy; or it is "".
    """

    layout: Layout
    rows: list[Row]
    base: str
    is_gtsrb: bool = False
    notes: tuple[str, ...] = ()
    missing: str = ""


def gtsrb_tracks_fit(paths: Iterable[str]) -> bool | None:
    """Tell whether file names fit GTSRB's tracks, numbered within a class; None where none is a track's."""
    numbers = [match.groups()[-2:] for path in paths if (match := _GTSRB_FRAME.fullmatch(stem(path)))]
    return all(int(track) < MAX_TRACKS and int(frame) < MAX_FRAMES for track, frame in numbers) if numbers else None


def tracks(labels: list[str], paths: list[str], kaggle: bool = False) -> list[str | None]:
    """Return the group of each image, 'label/TTTTT', if every file is called TTTTT_FFFFF; else None for all.

    Args:
        kaggle: accept CCCCC_TTTTT_FFFFF too, as in Kaggle's copy of GTSRB.
    """
    for pattern in (_TRACK, _KAGGLE_TRACK) if kaggle else (_TRACK,):
        # Stops at the first name that does not match, so that a million photos cost nothing.
        matches = list(takewhile(bool, (pattern.fullmatch(stem(path)) for path in paths)))
        if len(matches) == len(paths):
            return [f"{label}/{match[pattern.groups]}" for label, match in zip(labels, matches, strict=True) if match]
    return [None] * len(labels)


def stem(path: str) -> str:
    """Return the last part of a path without its suffix."""
    return posixpath.splitext(posixpath.basename(path))[0]
