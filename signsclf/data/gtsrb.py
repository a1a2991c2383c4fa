"""Facts about the German Traffic Sign Recognition Benchmark: names of classes, counts, archives.

Standard library only, so that any module may import it at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CLASS_NAMES: tuple[str, ...] = (
    "Speed limit 20 km/h",
    "Speed limit 30 km/h",
    "Speed limit 50 km/h",
    "Speed limit 60 km/h",
    "Speed limit 70 km/h",
    "Speed limit 80 km/h",
    "End of speed limit 80 km/h",
    "Speed limit 100 km/h",
    "Speed limit 120 km/h",
    "No overtaking",
    "No overtaking by lorries",
    "Priority at next intersection",
    "Priority road",
    "Yield",
    "Stop",
    "No vehicles",
    "No lorries",
    "No entry",
    "Danger",
    "Bend to the left",
    "Bend to the right",
    "Double bend, first to the left",
    "Uneven road",
    "Slippery road",
    "Road narrows on the right",
    "Road works",
    "Traffic lights",
    "Pedestrians",
    "Children",
    "Bicycles",
    "Snow or ice",
    "Wild animals",
    "End of all restrictions",
    "Turn right ahead",
    "Turn left ahead",
    "Ahead only",
    "Ahead or right",
    "Ahead or left",
    "Keep right",
    "Keep left",
    "Roundabout",
    "End of no overtaking",
    "End of no overtaking by lorries",
)
"""English name of each sign; the position is the benchmark's ClassId, 0 to 42."""

GROUPS: dict[str, tuple[int, ...]] = {
    "speed limits": (0, 1, 2, 3, 4, 5, 7, 8),
    "other prohibitions": (9, 10, 15, 16),
    "derestriction": (6, 32, 41, 42),
    "mandatory": (33, 34, 35, 36, 37, 38, 39, 40),
    "danger": (11, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31),
    "unique": (12, 13, 14, 17),
}
"""The benchmark's own six groups of classes; every ClassId is in exactly one."""

BOTH_WAYS = (27, 28, 29, 31)
"""Classes whose signs, 133, 136, 138 and 142 of the catalogue, stand mirrored on the left side of a road."""
_SYMMETRIC = (11, 12, 13, 15, 17, 18, 22, 26, 30, 35)
_SWAPPED = ((19, 20), (33, 34), (36, 37), (38, 39))
MIRROR: dict[int, int] = {
    **{c: c for c in (*_SYMMETRIC, *BOTH_WAYS)},
    **dict(_SWAPPED),
    **{right: left for left, right in _SWAPPED},
}
"""ClassId to the ClassId of its left-right mirror image; a class that is not a key must not be mirrored."""

# fmt: off
TRAIN_COUNTS: tuple[int, ...] = (
    210, 2220, 2250, 1410, 1980, 1860, 420, 1440, 1410, 1470,
    2010, 1320, 2100, 2160, 780, 630, 420, 1110, 1200, 210,
    360, 330, 390, 510, 270, 1500, 600, 240, 540, 270,
    450, 780, 240, 689, 420, 1200, 390, 210, 2070, 300,
    360, 240, 240,
)
"""Official training images of each ClassId."""
# fmt: on

MAX_TRACKS = 75
"""Training tracks of the commonest class; tracks are numbered from 0 within a class."""
MAX_FRAMES = 30
"""Frames of the longest track."""
N_TRAIN = 39_209
"""Images of the official training set."""
N_TEST = 12_630
"""Images of the official test set."""
TRAINING_FRAMES_IN_TEST: tuple[int, ...] = (666, 2291, 3546, 3594, 4548, 9384, 9575, 11906)
"""Numbers of the official test images that equal, at 32 px, frames of training track 23 of class 14."""
PUBLISHED: tuple[tuple[str, float], ...] = (
    ("People", 0.9884),
    ("Best published, one network", 0.9964),
    ("Best published, three networks", 0.9982),
)
"""Published accuracies on the official test set; people's is from Stallkamp et al. 2012."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One official zip archive: file name, length in bytes, checksums in hexadecimal (sha256 if it is known)."""

    name: str
    bytes: int
    md5: str
    sha256: str | None = None


BASE_URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
"""The folder of the official archives."""

ARCHIVES: tuple[Archive, ...] = (
    Archive(name="GTSRB_Final_Training_Images.zip", bytes=276_294_756, md5="f33fd80ac59bff73c82d25ab499e03a3"),
    Archive(
        name="GTSRB_Final_Test_Images.zip",
        bytes=88_978_620,
        md5="c7e4e6327067d32654124b0fe9e82185",
        sha256="48ba6fab7e877eb64eaf8de99035b0aaecfbc279bee23e35deca4ac1d0a837fa",
    ),
    Archive(
        name="GTSRB_Final_Test_GT.zip",
        bytes=99_620,
        md5="fe31e9c9270bbcd7b84b7f21a9d9d9e5",
        sha256="f94e5a7614d75845c74c04ddb26b8796b9e483f43541dd95dd5b726504e16d6d",
    ),
)
"""Training images with their ground truth, test images, and the ground truth of the test images."""


def class_names_mirror() -> dict[str, str]:
    """Return `MIRROR` by label: the name of a sign to the name of its mirror image."""
    return {CLASS_NAMES[a]: CLASS_NAMES[b] for a, b in MIRROR.items()}


def is_gtsrb_folder_names(names: Iterable[str]) -> bool:
    """Tell whether names, in any order, are exactly GTSRB's class folders: 0 to 42, or 00000 to 00042."""
    names = set(names)
    return any(names == {f"{c:0{width}d}" for c in range(len(CLASS_NAMES))} for width in (1, 5))


def class_id(text: str) -> int | None:
    """Parse a ClassId such as "7", "07" or "00007"; None if it is not one of 0 to 42."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else len(CLASS_NAMES)
    return number if number < len(CLASS_NAMES) else None
