"""What a report is about, and where its pictures come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from signsclf.report.html.page import picture


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A figure from elsewhere to compare the accuracy with."""

    label: str
    value: float


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What a report is about, and where its pictures come from.

    Attributes:
        title: of the page.
        about: what was evaluated, in a line.
        cautions: what a reader must know before believing the figures, a paragraph each.
        references: figures to compare the accuracy with.
        references_note: what they were measured on.
        classes: C labels.
        names: what each image is called.
        probabilities: (N, C).
        targets: int (N,).
        groups: number of each image's group, int (N,); images without groups are each their own.
        pixels: uint8 (N, H, W, 3) as the network sees the images.
        image: position to the image for a person to look at, uint8 (h, w, 3).
        heat: position to the same with a heat map of its predicted class laid over it; None without.
        unknown_accepted: label, confidence and pixels of the out-of-distribution images of highest confidence.
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
    groups: np.ndarray
    pixels: np.ndarray
    image: Callable[[int], np.ndarray]
    heat: Callable[[int], np.ndarray] | None
    unknown_accepted: Sequence[tuple[str, float, np.ndarray]]
    footer: str

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, int (N,)."""
        return self.probabilities.argmax(axis=1)

    def one_per_group(self, rows: np.ndarray, key: np.ndarray) -> list[int]:
        """Choose those of the positions ``rows`` that come first in their group, in the order of ``key`` (N,)."""
        ordered = rows[np.argsort(key[rows], kind="stable")]
        _, first = np.unique(self.groups[ordered], return_index=True)
        return ordered[np.sort(first)].tolist()

    def show(self, i: int) -> Markup:
        """Give the image as HTML."""
        return picture(self.image(i), f"an image of {self.classes[self.targets[i]]}")
