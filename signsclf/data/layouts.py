"""Rows of labelled images: what every layout becomes, and the tracks that its file names tell."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from signsclf.choices import Layout
from signsclf.data.gtsrb import MOST_FRAMES, MOST_TRACKS

_TRACK = re.compile(r"([0-9]{5})_[0-9]{5}")
_GTSRB_FRAME = re.compile(r"(?:[0-9]{5}_)?([0-9]{5})_([0-9]{5})")
_KAGGLE_TRACK = re.compile(r"([0-9]{5})_([0-9]{5})_[0-9]{5}")


class Row(NamedTuple):
    """One image: a row of the table, and the (width, height) in pixels that its roi is measured on."""

    path: str
    label: str
    split: str | None = None
    group: str | None = None
    roi: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class ParsedSource:
    """A recognised layout: its rows, and the folder (ending in '/', or '') that names are relative to.

    ``missing`` says which rows name an image that is not there, one line without what to do; or it is "".
    """

    layout: Layout
    rows: list[Row]
    base: str
    is_gtsrb: bool = False
    notes: tuple[str, ...] = ()
    missing: str = ""


def gtsrb_tracks_fit(paths: Iterable[str]) -> bool | None:
    """Whether file names are GTSRB's tracks, numbered within a class; None where none is a track."""
    numbers = [match.groups()[-2:] for path in paths if (match := _GTSRB_FRAME.fullmatch(stem(path)))]
    return all(int(track) < MOST_TRACKS and int(frame) < MOST_FRAMES for track, frame in numbers) if numbers else None


def tracks(labels: list[str], paths: list[str], kaggle: bool = False) -> list[str | None]:
    """Group of each image, 'label/TTTTT', where every file is called TTTTT_FFFFF; else None for all.

    Args:
        kaggle: whether CCCCC_TTTTT_FFFFF, as in Kaggle's copy of GTSRB, counts too.
    """
    for pattern in (_TRACK, _KAGGLE_TRACK) if kaggle else (_TRACK,):
        # The first of a million photos shows that they are no tracks.
        matches = list(takewhile(bool, (pattern.fullmatch(stem(path)) for path in paths)))
        if len(matches) == len(paths):
            return [f"{label}/{match[pattern.groups]}" for label, match in zip(labels, matches, strict=True) if match]
    return [None] * len(labels)


def stem(path: str) -> str:
    """The last part of a path without its suffix."""
    return posixpath.splitext(posixpath.basename(path))[0]
