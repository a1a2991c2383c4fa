"""A canvas in thousandths of a sign's width, and the lines, arcs and letters that signs consist of.

All coordinates run from 0 to 1000, x to the right and y down, whatever the size in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

WHITE: Colour = (246, 246, 244)
BLACK: Colour = (16, 16, 18)
GREY: Colour = (112, 114, 116)
RED: Colour = (190, 20, 28)
BLUE: Colour = (16, 72, 164)
YELLOW: Colour = (250, 182, 14)
GREEN: Colour = (0, 130, 92)

_SUPERSAMPLE = 4
_SHARP_TURN = 0.77
"""Cosine of the turn (40°) up to which two pieces of a line are one curve."""


class Canvas:
    """A square RGBA picture, transparent at first, rendered larger than its size and made smaller by `finish`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.image = Image.new("RGBA", (size * _SUPERSAMPLE,) * 2, (*WHITE, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._unit = size * _SUPERSAMPLE / 1000
        self._origin = (0.0, 0.0)

    @contextmanager
    def zoomed(self, share: float, centre: Point) -> Iterator[None]:
        """Scale what is drawn within the context by this factor about a point."""
        unit, (x, y) = self._unit, self._origin
        self._unit, gone = unit * share, unit * (1 - share)
        self._origin = (x + centre[0] * gone, y + centre[1] * gone)
        yield
        self._unit, self._origin = unit, (x, y)

    def finish(self) -> Image.Image:
        """Give the picture at its size, averaged with premultiplied alpha, so that no edge is tinged."""
        return self.image.convert("RGBa").reduce(_SUPERSAMPLE).convert("RGBA")

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        ox, oy = self._origin
        self._draw.polygon([(ox + x * self._unit, oy + y * self._unit) for x, y in points], fill=(*colour, 255))

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        ox, oy = self._origin
        box = [o + (v + d) * self._unit for d in (-radius, radius) for o, v in ((ox, x), (oy, y))]
        self._draw.ellipse(box, fill=(*colour, 255))

    def stroke(self, points: Sequence[Point], width: float, colour: Colour = BLACK, caps: bool = False) -> None:
        """Draw a line through the points, round at sharp turns; its ends are square, or round with ``caps``."""
        # Pillow's own wide lines leave cracks in curves. Here the pieces of a curve share their corners.
        half = width / 2
        normals = []
        for (ax, ay), (bx, by) in pairwise(points):
            length = math.hypot(bx - ax, by - ay) or 1.0
            normals.append(((ay - by) / length, (bx - ax) / length))
        starts, ends = list(normals), list(normals)
        for i, ((px, py), (qx, qy)) in enumerate(pairwise(normals)):
            straightness = px * qx + py * qy
            if straightness > _SHARP_TURN:
                share = 1 / (1 + straightness)
                ends[i] = starts[i + 1] = ((px + qx) * share, (py + qy) * share)
            else:
                self.disc(*points[i + 1], half, colour)
        for (ax, ay), (bx, by), (mx, my), (nx, ny) in zip(points, points[1:], starts, ends, strict=False):
            m, n, k, j = mx * half, nx * half, my * half, ny * half
            self.polygon([(ax + m, ay + k), (bx + n, by + j), (bx - n, by - j), (ax - m, ay - k)], colour)
        if caps:
            self.disc(*points[0], half, colour)
            self.disc(*points[-1], half, colour)


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """Give points along an ellipse, angles in degrees clockwise from the right (anticlockwise if end < start)."""
    steps = max(2, round(abs(end - start) / 5))
    angles = (math.radians(start + (end - start) * i / steps) for i in range(steps + 1))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def smooth(points: Sequence[Point], closed: bool = True, steps: int = 8) -> list[Point]:
    """Give a Catmull-Rom curve through the points."""
    n = len(points)
    out: list[Point] = []
    for i in range(n if closed else n - 1):
        if closed:
            a, b, c, d = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        else:
            a, b, c, d = (points[min(max(i + k, 0), n - 1)] for k in (-1, 0, 1, 2))
        for t in (k / steps for k in range(steps)):
            out.append(
                tuple(
                    0.5 * (2 * q + (r - p) * t + (2 * p - 5 * q + 4 * r - s) * t**2 + (3 * q - p - 3 * r + s) * t**3)
                    for p, q, r, s in zip(a, b, c, d, strict=True)
                )
            )
    return out if closed else [*out, points[-1]]


def rounded(corners: Sequence[Point], radius: float) -> list[Point]:
    """Give a convex polygon, its corners replaced by curves that begin and end ``radius`` from each corner."""
    out: list[Point] = []
    for i, (x, y) in enumerate(corners):
        ends = []
        for qx, qy in (corners[i - 1], corners[(i + 1) % len(corners)]):
            share = radius / math.hypot(qx - x, qy - y)
            ends.append((x + (qx - x) * share, y + (qy - y) * share))
        (ax, ay), (bx, by) = ends
        for t in (k / 8 for k in range(9)):
            u = 1 - t
            out.append((u * u * ax + 2 * u * t * x + t * t * bx, u * u * ay + 2 * u * t * y + t * t * by))
    return out


def turned(points: Sequence[Point], degrees: float, about: Point = (500, 500)) -> list[Point]:
    """Turn the points clockwise."""
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    ox, oy = about
    return [(ox + (x - ox) * cos - (y - oy) * sin, oy + (x - ox) * sin + (y - oy) * cos) for x, y in points]


def arrow_head(tip: Point, degrees: float, length: float, half: float, barb: float, shaft: float) -> list[Point]:
    """Draw the open, chevron-like head of the arrows on mandatory signs.

    Args:
        tip: where it points to.
        degrees: the way it points, clockwise from up.
        length: from the tip back to where the barbs begin; ``half``: sideways to the ends of the barbs.
        barb: thickness of the barbs, measured along the shaft.
        shaft: width of the shaft that it sits on.
    """
    x, y = tip
    inner = length * (shaft / 2) / half + barb
    right = [(half, length), (half, length + barb), (shaft / 2, inner)]
    left = [(-dx, dy) for dx, dy in reversed(right)]
    return turned([(x, y)] + [(x + dx, y + dy) for dx, dy in right + left], degrees, tip)


def _glyph(char: str, w: float, t: float, hooked: bool) -> list[list[Point]]:
    """Give the middles of a letter's strokes, after DIN 1451, in a box ``w`` by 7, for a pen ``t`` wide."""
    m = t / 2
    left, right, top, bottom, cx = m, w - m, m, 7 - m, w / 2
    r = (right - left) / 2
    if char in "0O":
        ry = r * 1.12
        over, under = arc(cx, top + ry, r, ry, 180, 360), arc(cx, bottom - ry, r, ry, 0, 180)
        return [[*over, *under, over[0], over[1]]]
    if char == "1":
        x = w - m
        return [[(x, 0), (x, 7)], [(x, 0.35), (x - w * 0.62, 1.75)]]
    if char == "2":
        over = arc(cx, top + r * 1.05, r, r * 1.05, 190, 375)
        return [[*over, (left + 0.12, bottom - 0.25), (left + 0.05, bottom)], [(0, bottom), (w, bottom)]]
    if char == "3":
        over = arc(cx, top + 1.5, r * 0.93, 1.5, 195, 435)
        under = arc(cx, bottom - 1.72, r, 1.72, -80, 165)
        return [over, under, [(cx - r * 0.25, 3.3), (cx + r * 0.3, 3.3)]]
    if char == "5":
        bowl = arc(cx - 0.05, bottom - 2.05, r + 0.05, 2.05, -140, 160)
        return [[(w - m * 0.6, top), (left + 0.2, top)], [(left + 0.2, 0), (left + 0.08, 3.55)], bowl]
    if char == "6":
        bowl = arc(cx, bottom - 2.0, r, 2.0, 180, 545)
        if hooked:
            return [bowl, [(left, 5.0), *arc(cx, top + r * 1.05, r, r * 1.05, 180, 345)]]
        stem = smooth([(right - 0.55, 0.1), (left + r * 0.62, 2.05), (left + 0.03, 4.2), (left, 5.0)], closed=False)
        return [bowl, stem]
    if char == "7":
        return [[(0, top), (right, top)], [(right, 0), (right - 0.1, 1.3), (left + 0.75, 7)]]
    if char == "8":
        over, under = arc(cx, top + 1.4, r * 0.86, 1.4, 0, 365), arc(cx, bottom - 1.72, r, 1.72, 0, 365)
        return [over, under]
    if char == "S":
        upper = arc(cx, top + 1.5, r, 1.5, -20, -225)
        lower = arc(cx, bottom - 1.6, r, 1.6, -45, 160)
        return [[*upper, *lower]]
    if char == "T":
        return [[(0, top), (w, top)], [(cx, 0), (cx, 7)]]
    if char == "P":
        bowl = arc(right - 1.55, top + 1.6, 1.55, 1.6, -90, 90)
        return [[(left, 0), (left, 7)], [(left, top), *bowl, (left, top + 3.2)]]
    raise ValueError(f"no strokes for {char!r}")


def write(
    canvas: Canvas,
    text: str,
    height: float,
    width: float,
    pen: float,
    gap: float,
    centre: Point = (500, 500),
    colour: Colour = BLACK,
    hooked: bool = False,
) -> None:
    """Draw letters in a row about ``centre``: ``height`` in thousandths of the sign; a letter's ``width``, ``pen``
    and ``gap`` as shares of the height; ``hooked``: a 6 bends over at its top."""
    unit = height / 7
    widths = [7 * width * (0.58 if c == "1" else 1.0) for c in text]
    x = centre[0] - (sum(widths) + 7 * gap * (len(text) - 1)) * unit / 2
    y = centre[1] - height / 2
    for char, w in zip(text, widths, strict=True):
        for line in _glyph(char, w, 7 * pen, hooked):
            canvas.stroke([(x + px * unit, y + py * unit) for px, py in line], pen * height, colour)
        x += (w + 7 * gap) * unit
