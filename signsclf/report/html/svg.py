"""Charts as inline SVG, drawn in the page's own colours so that they follow it from light to dark and to paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from signsclf.report.html.elements import text
from signsclf.text import short

_FONT = 11
_STARTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 22, 10, 40


@dataclass(frozen=True)
class Line:
    """One line of a chart: points in the axes' own units, a CSS colour, whether dashed, whether points are marked."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: str = "var(--blue)"
    dashed: bool = False
    marked: bool = True


def lines(
    series: Sequence[Line],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_name: str,
    y_name: str,
    *,
    size: tuple[int, int] = (400, 280),
    percents: tuple[bool, bool] = (True, True),
    legend_left: bool = False,
    description: str,
) -> str:
    """A line chart with axes and a legend of the labels that are not empty.

    Args:
        x_range, y_range: (low, high) of the axes.
        size: width and height in pixels.
        legend_left: puts the legend at the upper left, where the lines leave room, and not at the lower right.
        percents: whether the ticks of x and of y are written as percent of 1.
        description: plain text, for those who do not see it.
    """
    width, height = size
    left, right, top, bottom = _LEFT, width - _RIGHT, _TOP, height - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_range[0]) / (x_range[1] - x_range[0]) * (right - left),
            bottom - (y - y_range[0]) / (y_range[1] - y_range[0]) * (bottom - top),
        )

    parts = []
    for tick in ticks(*y_range):
        _, y = at(x_range[0], tick)
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="var(--grid)"/>')
        parts.append(_text(left - 6, y + 4, _tick(tick, percents[1]), "end", faint=True))
    for tick in ticks(*x_range):
        x, _ = at(tick, y_range[0])
        parts.append(_text(x, bottom + 16, _tick(tick, percents[0]), "middle", faint=True))
    parts.append(f'<path d="M{left} {bottom}H{right}" stroke="var(--soft)"/>')
    parts.append(_text((left + right) / 2, height - 6, x_name, "middle"))
    parts.append(_text(left + 4, top + 9, y_name, "start"))
    for line in series:
        places = [at(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
        if not places:
            continue
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dash = ' stroke-dasharray="4 4"' if line.dashed else ""
        parts.append(f'<path d="M{path}" fill="none" stroke="{line.colour}" stroke-width="1.8"{dash}/>')
        if line.marked:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in places]
    named = [line for line in series if line.label]
    for i, line in enumerate(named):
        if legend_left:
            parts.append(_text(left + 4, top + 26 + 15 * i, line.label, "start", line.colour))
        else:
            parts.append(_text(right, bottom - 10 - 15 * (len(named) - 1 - i), line.label, "end", line.colour))
    return _svg(width, height, parts, description, "plot")


def columns(values: Sequence[float], name: str, *, size: tuple[int, int] = (400, 70), description: str) -> str:
    """Columns of equal width from 0 up, over the same width as `lines` draws its axis."""
    width, height = size
    left, right, top, bottom = _LEFT, width - _RIGHT, 18, height - 4
    step = (right - left) / len(values)
    highest = max(values) or 1
    parts = [_text(left + 4, 11, name, "start", faint=True)]
    for i, value in enumerate(values):
        tall = (bottom - top) * value / highest
        if value:
            parts.append(
                f'<rect x="{left + i * step + 1:.1f}" y="{bottom - max(tall, 1):.1f}" width="{step - 2:.1f}" '
                f'height="{max(tall, 1):.1f}" fill="var(--blue)" fill-opacity=".55"/>'
            )
    parts.append(f'<path d="M{left} {bottom}H{right}" stroke="var(--soft)"/>')
    return _svg(width, height, parts, description, "plot")


def scale(lows: Sequence[float]) -> float:
    """Where the lines of a table's whiskers begin: a round share that no interval reaches below."""
    return max(start for start in _STARTS if start <= min(lows))


def whisker(low: float, value: float, high: float, lowest: float) -> str:
    """A share with its interval in a table's cell: a dot on a line from ``lowest`` to 1, see `scale`."""
    width, height = 120, 16

    def at(share: float) -> float:
        return 4 + (min(max(share, lowest), 1) - lowest) / (1 - lowest) * (width - 8)

    parts = [
        f'<path d="M4 8H{width - 4}" stroke="var(--line)"/>',
        f'<path d="M{at(low):.1f} 8H{at(high):.1f}" stroke="var(--blue)" stroke-width="3" stroke-opacity=".45"/>',
        f'<circle cx="{at(value):.1f}" cy="8" r="4" fill="var(--blue)"/>',
    ]
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        + "".join(parts)
        + "</svg>"
    )


def matrix(counts: np.ndarray, labels: Sequence[str]) -> str:
    """A confusion matrix: true classes in rows, right answers blue, wrong ones orange, the darker the commoner.

    Args:
        counts: int (C, C).
        labels: the C names.
    """
    n = len(labels)
    cell = max(15, min(36, 560 // n))
    names = [short(label, 34) for label in labels]
    margin = 14 + round(6.0 * max(map(len, names)))
    size = min(11, cell * 0.72)
    totals = np.maximum(counts.sum(axis=1), 1)
    width = height = margin + n * cell + 4
    parts = []
    for i, name in enumerate(names):
        middle = margin + (i + 0.5) * cell
        parts.append(_text(margin - 6, middle + 4, name, "end"))
        parts.append(
            f'<text transform="translate({middle + 4:.1f} {margin - 6}) rotate(-90)" font-size="{_FONT}">'
            f"{text(name)}</text>"
        )
        parts.append(
            f'<path d="M{margin} {middle:.1f}H{width - 4}M{middle:.1f} {margin}V{height - 4}" stroke="var(--grid)"/>'
        )
    for row, column in zip(*np.nonzero(counts), strict=True):
        number = int(counts[row, column])
        share = number / totals[row]
        same = row == column
        # No deeper, so that the number on it can be read in light and in dark.
        depth = 0.12 + 0.33 * (share if same else math.sqrt(share))
        x, y = margin + column * cell, margin + row * cell
        told = f"{names[row]}: {number:,} of {int(totals[row]):,} called {names[column]}"
        parts.append(
            f'<g><title>{text(told)}</title><rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
            f'fill="var(--paper)"/><rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
            f'fill="var(--{"blue" if same else "orange"})" fill-opacity="{depth:.2f}"/>'
            + (
                ""
                if same and n > 15
                else _text(x + cell / 2, y + cell / 2 + size * 0.35, _compact(number), "middle", size=size)
            )
            + "</g>"
        )
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Confusion matrix">' + "".join(parts) + "</svg>"
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most so many round numbers from ``low`` to ``high``."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while (high - low) / step > most - 1 + 1e-9:
        mantissa = round(step / 10 ** math.floor(math.log10(step) + 1e-9))
        step *= 2.5 if mantissa == 2 else 2
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 10) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def _svg(width: float, height: float, parts: Sequence[str], description: str, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{text(description)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(
    x: float, y: float, words: str, anchor: str, colour: str = "", faint: bool = False, size: float = _FONT
) -> str:
    look = ' class="faint"' if faint else f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"{look}>{text(words)}</text>'


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:g}"


def _compact(number: int) -> str:
    return str(number) if number < 1000 else f"{number / 1000:.0f}k"
