"""Sheets of images with captions: the worst mistakes, and a batch as the network sees it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
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
_SIDE, _GAP = 1.8, 0.25


@styled()
def worst_mistakes(
    images: Sequence[np.ndarray],
    true: Sequence[str],
    predicted: Sequence[str],
    probability: Sequence[float],
    path: str | Path,
    n_shown: int = 24,
    *,
    classes: Sequence[str] = (),
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """A sheet of wrongly labelled images, the surest of them first; without any, a picture that says so.

    Args:
        images: uint8 arrays (height, width, 3) of any sizes; only mistakes belong here.
        true, predicted: the labels of each.
        probability: of the predicted label, each in [0, 1].
        n_shown: at most so many are drawn.
        classes: all classes in index order, for labels that no font can show; see `class_names`.
        names: what to write small below each, such as the end of its path.
        title: above the sheet; by default how many are shown of how many there are.

    Raises:
        SignsclfError: the file cannot be written.
    """
    order = np.argsort(-np.asarray(probability, dtype=np.float64), kind="stable")[:n_shown]
    if len(order) == 0:
        figure = new_figure(6, 2.2)
        figure.text(0.5, 0.58, "no mistakes", ha="center", va="center", fontsize=20, color=GREEN)
        figure.text(0.5, 0.4, title or "every image got its true label", ha="center", va="center", color=FAINT)
        save(figure, path)
        return
    of = f"{len(order):,} of " if len(order) < len(images) else ""
    shown = dict(zip(classes, class_names(classes), strict=True))
    figure, cells = _sheet(len(order), 6, title or f"{of}{count(len(images), 'mistake')}, surest first", 1.2)
    for axes, i in zip(cells, order, strict=True):
        _picture(axes, images[i])
        lines = [
            (f"true: {shown.get(true[i], true[i])}", BLUE, 9, 2),
            (f"predicted: {shown.get(predicted[i], predicted[i])}", VERMILLION, 9, 2),
            (f"{probability[i]:.1%} sure", INK, 9, 1),
        ]
        if names is not None:
            # The end of a path tells images apart, so that is what is kept.
            name = lettered(names[i])
            lines.append((name if len(name) <= 36 else "…" + name[-35:], FAINT, 7, 1))
        _caption(axes, lines)
    save(figure, path)


@styled()
def batch(images: np.ndarray, labels: Sequence[str], path: str | Path, classes: Sequence[str] = ()) -> None:
    """A batch as the network sees it, augmentation included, with labels; at most `MAX_BATCH` images of it.

    Args:
        images: uint8 (N, height, width, 3), N ≥ 1.
        labels: the N names.
        classes: all classes in index order, for labels that no font can show; see `class_names`.

    Raises:
        ValueError: no images, or not as many labels.
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


def _sheet(n: int, columns: int, title: str, caption: float) -> tuple[Figure, list[Axes]]:
    """A grid of n square cells, with room for captions of that height in inches below each."""
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
    """Text below a picture, each part (text, colour, size, most lines): what does not fit ends in an …"""
    below = 4.0
    for text, colour, size, most in parts:
        width = int((_SIDE + _GAP) * 72 / (0.55 * size))
        for line in textwrap.wrap(lettered(text), width, max_lines=most, placeholder=" …"):
            axes.annotate(
                line,
                (0, 0),
                (0, -below),
                "axes fraction",
                "offset points",
                color=colour,
                fontsize=size,
                va="top",
            )
            below += size * 1.35
