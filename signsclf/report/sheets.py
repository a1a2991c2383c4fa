"""Sheets of images with captions: the worst mistakes, and a batch as the network sees it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from signsclf.report.canvas import BLUE, FAINT, GREEN, INK, VERMILLION, new_figure, save, styled
from signsclf.report.lettering import class_names, lettered
from signsclf.text import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BATCH = 64
MAX_GROUPS, MAX_OF_GROUP = 24, 6
_SIDE, _GAP = 1.8, 0.25  # of a cell, in inches


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A wrongly classified image.

    Attributes:
        image: uint8 (height, width, 3).
        true, predicted: its labels.
        confidence: probability of the predicted label, in [0, 1].
        name: a short text to show below, such as the end of its path.
    """

    image: np.ndarray
    true: str
    predicted: str
    confidence: float
    name: str | None = None


@styled()
def worst_mistakes(
    mistakes: Sequence[Mistake],
    path: str | Path,
    n_shown: int = 24,
    *,
    classes: Sequence[str] = (),
    title: str | None = None,
) -> None:
    """Write a sheet of mistakes, those of the highest confidence first; without any, a picture that says so.

    Args:
        n_shown: the largest number of images shown.
        classes: all classes in index order, for labels that no font can show; see `class_names`.
        title: above the sheet; by default how many are shown of how many there are.

    Raises:
        SignsclfError: the file cannot be written.
    """
    shown = sorted(mistakes, key=lambda mistake: -mistake.confidence)[:n_shown]
    if not shown:
        figure = new_figure(6, 2.2)
        figure.text(0.5, 0.58, "no mistakes", ha="center", va="center", fontsize=20, color=GREEN)
        figure.text(0.5, 0.4, title or "every image got its true label", ha="center", va="center", color=FAINT)
        save(figure, path)
        return
    of = f"{len(shown):,} of " if len(shown) < len(mistakes) else ""
    names = dict(zip(classes, class_names(classes), strict=True))
    title = title or f"{of}{count(len(mistakes), 'mistake')}, highest confidence first"
    figure, cells = _sheet(len(shown), 6, title, 1.2)
    for axes, mistake in zip(cells, shown, strict=True):
        _picture(axes, mistake.image)
        lines = [
            (f"true: {names.get(mistake.true, mistake.true)}", BLUE, 9, 2),
            (f"predicted: {names.get(mistake.predicted, mistake.predicted)}", VERMILLION, 9, 2),
            (f"confidence: {mistake.confidence:.1%}", INK, 9, 1),
        ]
        if mistake.name is not None:
            # Shortened at the start: the end of a path tells images apart.
            name = lettered(mistake.name)
            lines.append((name if len(name) <= 36 else "…" + name[-35:], FAINT, 7, 1))
        _caption(axes, lines)
    save(figure, path)


@styled()
def batch(images: np.ndarray, labels: Sequence[str], path: str | Path, classes: Sequence[str] = ()) -> None:
    """Write a sheet of a batch as the network sees it, augmented, with labels; at most `MAX_BATCH` images.

    Args:
        images: uint8 (N, height, width, 3), N ≥ 1.
        labels: their N labels.
        classes: all classes in index order, for labels that no font can show; see `class_names`.

    Raises:
        ValueError: there are no images, or the number of labels differs.
        SignsclfError: the file cannot be written.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"batch: need as many labels as images and at least one, got {len(images)} and {len(labels)}")
    n = min(len(images), MAX_BATCH)
    height, width = images.shape[1:3]
    of = f"{n} of {len(images):,}" if n < len(images) else f"{n}"
    figure, cells = _sheet(
        n, 8, f"A training batch as the network sees it: {of} images of {width}×{height} pixels", 0.45
    )
    shown = dict(zip(classes, class_names(classes), strict=True))
    for axes, image, label in zip(cells, images, labels, strict=False):
        _picture(axes, image)
        _caption(axes, [(shown.get(label, label), INK, 9, 2)])
    save(figure, path)


@styled()
def near_duplicates(groups: Sequence[Sequence[str]], image: Callable[[str], np.ndarray], path: str | Path) -> None:
    """Write a sheet with a row for each group of near-duplicates: at most `MAX_GROUPS`, of each `MAX_OF_GROUP` images.

    Args:
        groups: names of the images of each group.
        image: gives the image of a name, uint8 (height, width, 3).

    Raises:
        SignsclfError: the file cannot be written.
        BadImageError: an image cannot be read.
    """
    if not groups:
        figure = new_figure(6, 2.2)
        figure.text(0.5, 0.5, "no near-duplicates", ha="center", va="center", fontsize=20, color=GREEN)
        save(figure, path)
        return
    shown = groups[:MAX_GROUPS]
    of = f"{len(shown)} of " if len(shown) < len(groups) else ""
    title = f"{of}{count(len(groups), 'group')} of near-duplicates, a row each"
    figure, cells = _sheet(len(shown) * MAX_OF_GROUP, MAX_OF_GROUP, title, 0.45)
    for row, names in enumerate(shown):
        for column in range(MAX_OF_GROUP):
            axes = cells[row * MAX_OF_GROUP + column]
            axes.set_axis_off()
            if column < len(names):
                _picture(axes, image(names[column]))
                name = lettered(names[column])
                more = f" (and {len(names) - MAX_OF_GROUP:,} more)"
                last = column == MAX_OF_GROUP - 1 and len(names) > MAX_OF_GROUP
                name = name if len(name) <= 30 else "…" + name[-29:]
                _caption(axes, [(name + more * last, FAINT, 7, 2)])
    save(figure, path)


def _sheet(n: int, columns: int, title: str, caption: float) -> tuple[Figure, list[Axes]]:
    """Create a grid of n square cells; ``caption`` is the height in inches of the captions below each."""
    columns = min(n, columns)
    width, height = columns * (_SIDE + _GAP), math.ceil(n / columns) * (_SIDE + caption)
    figure = new_figure(width, height)
    cells = []
    for i in range(n):
        left, bottom = i % columns * (_SIDE + _GAP), height - i // columns * (_SIDE + caption) - _SIDE
        cells.append(figure.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height)))
    figure.text(0, 1 + 0.12 / height, lettered(title), fontsize=12, fontweight="bold", va="bottom")
    return figure, cells


def _picture(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="antialiased")
    axes.set_anchor("SW")
    axes.set_axis_off()


def _caption(axes: Axes, parts: Sequence[tuple[str, str, float, int]]) -> None:
    """Write text below a picture; parts are (text, colour, font size, largest number of lines), shortened by an …"""
    offset = 4.0
    for text, colour, size, max_lines in parts:
        width = int((_SIDE + _GAP) * 72 / (0.55 * size))
        for line in textwrap.wrap(lettered(text), width, max_lines=max_lines, placeholder=" …"):
            axes.annotate(
                line,
                (0, 0),
                (0, -offset),
                "axes fraction",
                "offset points",
                color=colour,
                fontsize=size,
                va="top",
            )
            offset += size * 1.35
