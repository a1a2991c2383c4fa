"""Plots of a run and of an evaluation, by matplotlib's Figure API alone: no pyplot, no window, no global state.

Each function writes one PNG atomically, and the same bytes for the same input and versions. Labels
are shown as they are, never read as mathematics, and shortened with an … where they are too long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from signsclf.metrics.classification import Confusion
from signsclf.report.canvas import AMBER, BLUE, FAINT, GREEN, INK, PURPLE, SKY, VERMILLION, new_figure, save, styled
from signsclf.report.lettering import class_names
from signsclf.report.sheets import Mistake, batch, worst_mistakes
from signsclf.text import compact_count, count, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Mistake", "batch", "class_counts", "confusion_matrix", "lr_find", "training_curves", "worst_mistakes"]

MAX_MATRIX_CLASSES = 100
"""A confusion matrix of more classes shows only the `SHOWN_MATRIX_CLASSES` most confused ones."""
SHOWN_MATRIX_CLASSES = 40
MAX_BARS = 100
"""A bar chart of more classes shows this many: the commonest half and the rarest half."""


@styled()
def confusion_matrix(confused: Confusion, classes: Sequence[str], path: str | Path) -> None:
    """Plot a confusion matrix: counts of true class (rows) against predicted class (columns).

    Right answers are blue, wrong ones orange; a cell is darker, the larger its share of the row. The orange scale is
    stretched so that a single mistake is visible. Each row states the class's number of images and recall.
    Of more than `MAX_MATRIX_CLASSES` classes the most confused are shown, and the title says so.

    Args:
        confused: see `signsclf.metrics.classification.confusion`.
        classes: the names of its classes.

    Raises:
        ValueError: the number of names and of classes differ.
        SignsclfError: the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    n_all = len(classes)
    if confused.n_classes != n_all or n_all == 0:
        raise ValueError(f"confusion_matrix: {n_all} names for {confused.n_classes} classes")
    totals, hits = confused.n_true, confused.n_right
    n_images = int(totals.sum())
    title = f"{count(n_images, 'image')}, {count(n_images - int(hits.sum()), 'mistake')}"
    shown = np.arange(n_all)
    if n_all > MAX_MATRIX_CLASSES:
        shown = most_confused(confused, SHOWN_MATRIX_CLASSES)
        inside = confused.among(shown)
        title = (
            f"The {len(shown)} most confused of {n_all:,} classes\n"
            f"{title}, {int(inside.sum() - np.trace(inside)):,} of them among these classes"
        )
    counts = confused.among(shown)
    n = len(shown)
    shares = counts / np.maximum(totals[shown], 1)[:, None]
    colours = colormaps["Oranges"](np.where(shares > 0, 0.15 + 0.75 * np.sqrt(shares), 0))
    diagonal = np.arange(n)
    right = shares[diagonal, diagonal]
    colours[diagonal, diagonal] = colormaps["Blues"](np.where(right > 0, 0.1 + 0.8 * right, 0))
    colours[counts == 0] = (0.975, 0.975, 0.975, 1)

    # Before any text is created: a text uses the fonts that are set at its creation.
    names = class_names(classes)
    cell = min(max(13 / n, 0.21), 0.9)
    size = min(max(cell * 72 * 0.42, 6.5), 11)
    figure = new_figure(cell * n, cell * n)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(colours, interpolation="nearest", aspect="auto")
    for edge in (*axes.spines.values(), *axes.xaxis.get_ticklines(), *axes.yaxis.get_ticklines()):
        edge.set_visible(False)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=min(2.0, cell * 3))
    axes.tick_params(which="both", length=0)
    names = [short(names[i]) for i in shown]
    upright = n > 10 or max(map(len, names)) > 20
    turn = {"rotation": 90} if upright else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(diagonal, names, fontsize=size, **turn)
    axes.set_yticks(diagonal, [f"{name}  ({totals[i]:,})" for name, i in zip(names, shown, strict=True)], fontsize=size)
    axes.set_xlabel("predicted class", labelpad=8)
    axes.set_ylabel("true class (number of images)", labelpad=8)
    widest = max(3, *(len(compact_count(int(count))) for count in counts.flat))
    cell_size = min(max(cell * 72 * 0.86 / (0.64 * widest), 3.5), 11)
    brightness = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    for row, column in np.argwhere(counts):
        axes.text(
            column,
            row,
            compact_count(int(counts[row, column])),
            ha="center",
            va="center",
            fontsize=cell_size,
            color="white" if brightness[row, column] < 0.55 else INK,
            in_layout=False,
        )
    for row, i in enumerate(shown):
        recall = f"{hits[i] / totals[i]:.1%}" if totals[i] else "–"
        axes.text(n - 0.5 + 0.12 / cell, row, recall, va="center", fontsize=size, color=FAINT)
    axes.text(n - 0.5 + 0.12 / cell, -0.5 - 0.08 / cell, "recall", va="bottom", fontsize=size, color=FAINT)
    key = [
        Patch(color=colormaps["Blues"](0.8), label="right"),
        Patch(color=colormaps["Oranges"](0.6), label="wrong"),
    ]
    labels_height = axes.get_window_extent().y0 - axes.get_tightbbox().y0
    axes.legend(
        handles=key,
        title="darker: larger share of the row",
        loc="upper left",
        bbox_to_anchor=(0, -labels_height / figure.dpi / (cell * n)),
        ncols=2,
        alignment="left",
        borderpad=0,
        borderaxespad=0.6,
    )
    axes.set_title(title, pad=14 + size)
    save(figure, path)


@styled()
def training_curves(history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plot losses, and accuracy and macro-F1 on the validation images, by epoch.

    Args:
        history: one mapping per epoch, in order, with `epoch`, `train_loss`, and, where measured, `valid_loss`,
            `accuracy` and `macro_f1` (in [0, 1]); None, NaN or a missing key leaves a gap.

    Raises:
        ValueError: the history is empty.
        SignsclfError: the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    if not history:
        raise ValueError("training_curves: the history has no epoch")
    epochs = [int(row["epoch"]) for row in history]

    def series(key: str) -> np.ndarray:
        return np.array([math.nan if row.get(key) is None else float(row[key]) for row in history])

    figure = new_figure(11, 4.2, layout="constrained")
    losses, scores = figure.subplots(1, 2)
    _curves(
        losses,
        epochs,
        {
            "training": (series("train_loss"), BLUE, "o"),
            "validation": (series("valid_loss"), VERMILLION, "s"),
        },
    )
    losses.set_title("Loss")
    macro_f1 = series("macro_f1")
    _curves(scores, epochs, {"accuracy": (series("accuracy"), SKY, "o"), "macro-F1": (macro_f1, PURPLE, "s")})
    scores.set_title("On the validation images")
    if np.isfinite(macro_f1).any():
        best = int(np.nanargmax(macro_f1))
        scores.plot(
            epochs[best],
            macro_f1[best],
            "*",
            color=INK,
            markersize=12,
            label=f"best macro-F1: {macro_f1[best]:.2%}, epoch {epochs[best]}",
        )
    if scores.has_data():
        scores.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    for axes, place in ((losses, "upper right"), (scores, "lower right")):
        if axes.has_data():
            axes.legend(loc=place)
        else:
            axes.set_yticks([])
            axes.text(0.5, 0.5, "nothing measured", ha="center", color=FAINT, transform=axes.transAxes)
        axes.set_xlabel("epoch")
        axes.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
    save(figure, path)


@styled()
def lr_find(lrs: Sequence[float], losses: Sequence[float], suggestions: Mapping[str, float], path: str | Path) -> None:
    """Plot a learning rate range test: loss against learning rate (logarithmic), with the suggested rates marked.

    Args:
        lrs: the rates tried, each above 0, rising.
        losses: the loss at each rate; infinite and NaN ones are left out, and a diverging end is cut off.
        suggestions: name to rate, such as ``{"valley": 1e-3}``.

    Raises:
        ValueError: the number of losses and rates differ, or no loss is finite.
        SignsclfError: the file cannot be written.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if len(lrs) != len(losses):
        raise ValueError(f"lr_find: {len(lrs)} rates, but {len(losses)} losses")
    rates, values = np.asarray(lrs, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    kept = np.isfinite(values) & np.isfinite(rates) & (rates > 0)
    rates, values = rates[kept], values[kept]
    if len(rates) == 0:
        raise ValueError("lr_find: no finite loss to plot")
    figure = new_figure(8, 4.8, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, values, color=FAINT, linewidth=1.6)
    looks = itertools.cycle(zip((VERMILLION, BLUE, GREEN, PURPLE, AMBER, SKY), "osD^vP", strict=True))
    for (name, rate), (colour, marker) in zip(suggestions.items(), looks, strict=False):
        height = np.interp(math.log(rate), np.log(rates), values)
        axes.axvline(rate, color=colour, linewidth=1, linestyle=":", alpha=0.8)
        axes.plot(
            rate,
            height,
            marker,
            color=colour,
            markersize=8,
            label=f"{short(name)}: {rate:.2g}",
            linestyle="none",
            zorder=3,
        )
    axes.set_xscale("log")
    lowest = int(values.argmin())
    # The part before the minimum matters; the divergence after it would flatten that part to a line.
    low, high = values[lowest], values[: lowest + 1].max()
    margin = 0.08 * (high - low) or 0.5 * abs(low) or 1.0
    axes.set_ylim(low - margin, high + 2.5 * margin)
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: _power_of_ten(rate)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid()
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title("Learning rate range test")
    if suggestions:
        axes.legend(title="suggested", loc="best", alignment="left")
    save(figure, path)


@styled()
def class_counts(labels: Sequence[str], counts: Sequence[int], path: str | Path) -> None:
    """Plot the number of images of each class as horizontal bars, the commonest class at the top.

    Of more than `MAX_BARS` classes only the commonest and the rarest are shown, and the title says so.

    Args:
        labels: all classes, in index order.
        counts: images of each class.
        path: of the PNG.

    Raises:
        ValueError: there are no classes, or the number of counts and labels differ.
        SignsclfError: the file cannot be written.
    """
    if len(labels) == 0 or len(labels) != len(counts):
        raise ValueError(
            f"class_counts: need at least one label and one count per label, got {len(labels)} and {len(counts)}"
        )
    numbers = np.asarray(counts, dtype=np.int64)
    order = np.argsort(-numbers, kind="stable")
    title = f"{count(int(numbers.sum()), 'image')} of {count(len(labels), 'class', 'classes')}"
    if numbers.min() > 0 and numbers.max() > numbers.min():
        title += f"; the commonest has {numbers.max() / numbers.min():.3g} times as many as the rarest"
    if len(order) > MAX_BARS:
        half = MAX_BARS // 2
        order = np.concatenate([order[:half], order[-half:]])
        title += f"\nshown: the {half} commonest and the {half} rarest"
    n = len(order)
    names = class_names(labels)
    figure = new_figure(9, 0.24 * n + 0.3)
    axes = figure.add_axes((0, 0, 1, 1))
    rows = np.arange(n)
    if n < len(labels):
        axes.axhline(n / 2 - 0.5, color=FAINT, linewidth=0.8, linestyle=":")
    axes.barh(rows, numbers[order], height=0.72, color=BLUE)
    for row, i in enumerate(order):
        axes.annotate(
            f"{numbers[i]:,}",
            (numbers[i], row),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK if numbers[i] else VERMILLION,
        )
    axes.set_yticks(rows, [short(names[i]) for i in order], fontsize=9)
    axes.set_ylim(n - 0.4, -0.6)
    axes.set_xlim(0, max(1, int(numbers.max())) * 1.02)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(title)
    save(figure, path)


def most_confused(confused: Confusion, n: int) -> np.ndarray:
    """Choose n classes: those of the most often confused pairs, then the first ones; returned in class order."""
    pairs: dict[tuple[int, int], int] = {}
    for true, predicted, images in confused.mistakes():
        pair = min(true, predicted), max(true, predicted)
        pairs[pair] = pairs.get(pair, 0) + images
    confused_first = dict.fromkeys(c for pair in sorted(pairs, key=lambda pair: (-pairs[pair], pair)) for c in pair)
    chosen = list(itertools.islice(dict.fromkeys((*confused_first, *range(confused.n_classes))), n))
    return np.sort(np.array(chosen))


def _curves(axes: Axes, epochs: Sequence[int], lines: Mapping[str, tuple[np.ndarray, str, str]]) -> None:
    for label, (values, colour, marker) in lines.items():
        if np.isfinite(values).any():
            axes.plot(epochs, values, color=colour, marker=marker if len(epochs) <= 40 else None, label=label)


def _power_of_ten(value: float) -> str:
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
