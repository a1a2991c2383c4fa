"""Charts as inline SVG, in the page's own colours so that they follow it from light to dark and to paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from signsclf.report.html.page import element
from signsclf.text import compact_count, short

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
) -> Markup:
    """Make a line chart with axes and a legend of the labels that are not empty.

    Args:
        x_range, y_range: (low, high) of the axes.
        size: width and height in pixels.
        legend_left: puts the legend at the upper left, which the lines leave free, and not at the lower right.
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
        parts.append(element("path", d=f"M{left} {y:.1f}H{right}", stroke="var(--grid)"))
        parts.append(_text(left - 6, y + 4, _tick(tick, percents[1]), "end", faint=True))
    for tick in ticks(*x_range):
        x, _ = at(tick, y_range[0])
        parts.append(_text(x, bottom + 16, _tick(tick, percents[0]), "middle", faint=True))
    parts.append(element("path", d=f"M{left} {bottom}H{right}", stroke="var(--soft)"))
    parts.append(_text((left + right) / 2, height - 6, x_name, "middle"))
    parts.append(_text(left + 4, top + 9, y_name, "start"))
    for line in series:
        points = [at(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
        if not points:
            continue
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dash = {"stroke_dasharray": "4 4"} if line.dashed else {}
        parts.append(element("path", d=path, fill="none", stroke=line.colour, stroke_width=1.8, **dash))
        if line.marked:
            parts += [element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, fill=line.colour) for x, y in points]
    named = [line for line in series if line.label]
    for i, line in enumerate(named):
        if legend_left:
            parts.append(_text(left + 4, top + 26 + 15 * i, line.label, "start", line.colour))
        else:
            parts.append(_text(right, bottom - 10 - 15 * (len(named) - 1 - i), line.label, "end", line.colour))
    return _svg(width, height, parts, description, "plot")


def columns(values: Sequence[float], name: str, *, size: tuple[int, int] = (400, 70), description: str) -> Markup:
    """Make a chart of columns of equal width from 0 up, over the same width as the axis of `lines`."""
    width, height = size
    left, right, top, bottom = _LEFT, width - _RIGHT, 18, height - 4
    step = (right - left) / len(values)
    highest = max(values) or 1
    parts = [_text(left + 4, 11, name, "start", faint=True)]
    for i, value in enumerate(values):
        tall = (bottom - top) * value / highest
        if value:
            x, height_shown = left + i * step + 1, max(tall, 1)
            parts.append(_rect(x, bottom - height_shown, step - 2, height_shown, "blue", 0.55))
    parts.append(element("path", d=f"M{left} {bottom}H{right}", stroke="var(--soft)"))
    return _svg(width, height, parts, description, "plot")


def scale(lows: Sequence[float]) -> float:
    """Choose where the lines of a table's whiskers begin: a round share that no interval reaches below."""
    return max(start for start in _STARTS if start <= min(lows))


def whisker(low: float, value: float, high: float, lowest: float) -> Markup:
    """Show a share with its interval in a table's cell: a dot on a line from ``lowest`` to 1, see `scale`."""
    width, height = 120, 16

    def at(share: float) -> str:
        return f"{4 + (min(max(share, lowest), 1) - lowest) / (1 - lowest) * (width - 8):.1f}"

    return element(
        "svg",
        element("path", d=f"M4 8H{width - 4}", stroke="var(--line)"),
        element("path", d=f"M{at(low)} 8H{at(high)}", stroke="var(--blue)", stroke_width=3, stroke_opacity=0.45),
        element("circle", cx=at(value), cy=8, r=4, fill="var(--blue)"),
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        aria_hidden="true",
    )


def matrix(counts: np.ndarray, labels: Sequence[str]) -> Markup:
    """Show a confusion matrix: true classes in rows, right predictions blue, wrong ones orange, more of a row darker.

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
        turned = f"translate({middle + 4:.1f} {margin - 6}) rotate(-90)"
        across = f"M{margin} {middle:.1f}H{width - 4}M{middle:.1f} {margin}V{height - 4}"
        parts.append(_text(margin - 6, middle + 4, name, "end"))
        parts.append(element("text", name, transform=turned, font_size=_FONT))
        parts.append(element("path", d=across, stroke="var(--grid)"))
    for row, column in zip(*np.nonzero(counts), strict=True):
        number = int(counts[row, column])
        share = number / totals[row]
        same = row == column
        # No deeper, so that the number on it can be read in light and in dark.
        depth = 0.12 + 0.33 * (share if same else math.sqrt(share))
        x, y = margin + column * cell, margin + row * cell
        told = f"{names[row]}: {number:,} of {int(totals[row]):,} predicted as {names[column]}"
        centre = (x + cell / 2, y + cell / 2 + size * 0.35)
        parts.append(
            element(
                "g",
                element("title", told),
                _rect(x, y, cell - 1, cell - 1, "paper"),
                _rect(x, y, cell - 1, cell - 1, "blue" if same else "orange", depth),
                "" if same and n > 15 else _text(*centre, compact_count(number), "middle", size=size),
            )
        )
    box = f"0 0 {width} {height}"
    return element("svg", *parts, width=width, height=height, viewBox=box, role="img", aria_label="Confusion matrix")


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose at most so many round numbers from ``low`` to ``high``."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while (high - low) / step > most - 1 + 1e-9:
        mantissa = round(step / 10 ** math.floor(math.log10(step) + 1e-9))
        step *= 2.5 if mantissa == 2 else 2
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 10) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def _svg(width: float, height: float, parts: Sequence[Markup], description: str, kind: str) -> Markup:
    return element("svg", *parts, class_=kind, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=description)


def _rect(x: float, y: float, width: float, height: float, colour: str, opacity: float | None = None) -> Markup:
    place = {"x": f"{x:g}", "y": f"{y:.1f}", "width": f"{width:g}", "height": f"{height:.1f}"}
    depth = {} if opacity is None else {"fill_opacity": f"{opacity:.2f}"}
    return element("rect", **place, fill=f"var(--{colour})", **depth)


def _text(
    x: float, y: float, words: str, anchor: str, colour: str = "", faint: bool = False, size: float = _FONT
) -> Markup:
    look = {"class_": "faint"} if faint else {"style": f"fill:{colour}"} if colour else {}
    return element("text", words, x=f"{x:.1f}", y=f"{y:.1f}", font_size=f"{size:g}", text_anchor=anchor, **look)


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:g}"
