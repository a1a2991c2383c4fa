"""What a report is about, and how its pictures are come by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from signsclf.report.html.elements import picture


@dataclass(frozen=True)
class Reference:
    """A figure from elsewhere to hold one's own accuracy against."""

    label: str
    value: float


@dataclass(frozen=True)
class ReportContext:
    """What a report is about, and how its pictures are come by.

    Attributes:
        title: of the page.
        about: what was judged, in a line.
        cautions: what a reader must know before believing the figures, a paragraph each.
        references: figures to hold the accuracy against.
        references_note: what they were measured on.
        classes: C labels.
        names: what each image is called.
        probabilities: (N, C).
        targets: int (N,).
        units: the track of each image, int (N,); images without tracks are each their own.
        pixels: uint8 (N, H, W, 3) as the network sees the images.
        image: position to the image for a person to look at, uint8 (h, w, 3).
        heat: position to the same with what speaks for its predicted class laid over it; None without.
        unknown_accepted: label and pixels of unknown pictures that the model is surest of, with its confidence.
        footer: the last line.
    """

    title: str
    about: str
    cautions: Sequence[str]
    references: Sequence[Reference]
    references_note: str
    classes: Sequence[str]
    names: Sequence[str]
    probabilities: np.ndarray
    targets: np.ndarray
    units: np.ndarray
    pixels: np.ndarray
    image: Callable[[int], np.ndarray]
    heat: Callable[[int], np.ndarray] | None
    unknown_accepted: Sequence[tuple[str, float, np.ndarray]]
    footer: str

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, int (N,)."""
        return self.probabilities.argmax(axis=1)

    def one_of_each_track(self, places: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Those of the positions ``places`` that stand first in their track, in the order of ``key`` (N,)."""
        ordered = places[np.argsort(key[places], kind="stable")]
        _, first = np.unique(self.units[ordered], return_index=True)
        return ordered[np.sort(first)]

    def show(self, i: int) -> str:
        """The image as HTML."""
        return picture(self.image(i), f"an image of {self.classes[self.targets[i]]}")
