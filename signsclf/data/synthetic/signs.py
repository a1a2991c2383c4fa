"""The 43 signs of the German Traffic Sign Recognition Benchmark, each in the forms that stand on the road."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageOps

from signsclf.data.gtsrb import BOTH_WAYS
from signsclf.data.synthetic import pictograms as pic
from signsclf.data.synthetic.shapes import (
    BLACK,
    BLUE,
    GREY,
    RED,
    WHITE,
    YELLOW,
    Canvas,
    Point,
    arc,
    arrow_head,
    rounded,
    turned,
    write,
)
from signsclf.errors import SourceError

MAX_SIZE = 2048
"""The largest sign that is rendered, in pixels a side."""

Drawing = Callable[[Canvas], None]


def _triangle(inset: float, radius: float) -> list[Point]:
    """Give an equilateral triangle, point up, ``inset`` inside the sign's outer edge."""
    side, height = 980 - inset * 2 * 3**0.5, (980 - inset * 2 * 3**0.5) * 3**0.5 / 2
    bottom = 925 - inset
    return rounded([(500, bottom - height), (500 + side / 2, bottom), (500 - side / 2, bottom)], radius)


def _danger(picture: Drawing, c: Canvas, border: float = 94, share: float = 1) -> None:
    c.polygon(_triangle(0, 70), WHITE)
    c.polygon(_triangle(15, 55), RED)
    c.polygon(_triangle(border, 14), WHITE)
    with c.zoomed(share, (500, 650)):
        picture(c)


def _yield(border: float, c: Canvas) -> None:
    for inset, radius, colour in ((0, 70, WHITE), (15, 55, RED), (border, 14, WHITE)):
        c.polygon([(x, 1000 - y) for x, y in _triangle(inset, radius)], colour)


def _prohibition(picture: Drawing, c: Canvas, inner: float = 362) -> None:
    for radius, colour in ((490, WHITE), (474, RED), (inner, WHITE)):
        c.disc(500, 500, radius, colour)
    picture(c)


def _limit(text: str, height: float, width: float, pen: float, inner: float, hooked: bool, c: Canvas) -> None:
    gap = 0.11 if len(text) == 2 else 0.10
    _prohibition(lambda d: write(d, text, height, width, pen, gap, hooked=hooked), c, inner)


_MAKES = (
    ((405, 0.54, 0.138), (395, 0.50, 0.138), 366, False),  # today's
    ((430, 0.52, 0.122), (410, 0.53, 0.122), 378, False),  # lighter
    ((378, 0.55, 0.148), (370, 0.46, 0.150), 350, False),  # heavier
    ((435, 0.42, 0.165), (415, 0.40, 0.160), 360, False),  # old and narrow
    ((375, 0.66, 0.135), (345, 0.56, 0.140), 366, True),  # wide
    ((335, 0.62, 0.175), (318, 0.53, 0.165), 358, True),  # small and bold
)
"""Makes of speed limits: height, width and pen of two digits and of three, the ring's inner radius, how a 6 ends."""


def _limits(text: str) -> tuple[Drawing, ...]:
    """Give a speed limit in the letters of all makes."""
    return tuple(partial(_limit, text, *(two if len(text) == 2 else three), *ring) for two, three, *ring in _MAKES)


def _end(picture: Drawing, lines: int, c: Canvas) -> None:
    """Draw the end of a restriction: a grey picture under a slanting band of black lines."""
    for radius, colour in ((490, WHITE), (472, BLACK), (452, WHITE)):
        c.disc(500, 500, radius, colour)
    picture(c)
    if lines == 1:
        c.stroke(turned([(500, 30), (500, 970)], 45), 150, GREY)
    pitch, pen = (44, 20) if lines != 1 else (62, 14)
    count = 5 if lines != 1 else 3
    for k in range(count):
        # A chord of the circle at this distance from its middle, so that no line reaches over the black ring.
        offset = (k - (count - 1) / 2) * pitch
        half = (460**2 - offset**2) ** 0.5
        c.stroke(turned([(500 + offset, 500 - half), (500 + offset, 500 + half)], 45), pen)


def _overtaking(red: tuple[int, int, int], black: tuple[int, int, int], lorry: bool, line: bool, c: Canvas) -> None:
    if lorry:
        pic.lorry_rear(c, 356, 626, 240, red)
        pic.car(c, 638, 624, 258, black)
    else:
        pic.car(c, 338, 600, 282, red)
        pic.car(c, 662, 600, 282, black)
    if line:
        c.stroke([(235, 636), (775, 636)], 14, black)


def _no_entry(height: float, c: Canvas) -> None:
    c.disc(500, 500, 490, WHITE)
    c.disc(500, 500, 474, RED)
    c.polygon(
        [(85, 500 - height / 2), (915, 500 - height / 2), (915, 500 + height / 2), (85, 500 + height / 2)],
        WHITE,
    )


def _priority_road(yellow: float, line: tuple[int, int, int], c: Canvas) -> None:
    def diamond(half: float, radius: float, colour: tuple[int, int, int]) -> None:
        c.polygon(
            rounded([(500, 500 - half), (500 + half, 500), (500, 500 + half), (500 - half, 500)], radius),
            colour,
        )

    diamond(498, 60, WHITE)
    diamond(482, 52, line)
    diamond(462, 44, WHITE)
    diamond(yellow + 16, 8, line)
    diamond(yellow, 6, YELLOW)


def _stop(height: float, pen: float, c: Canvas) -> None:
    for radius, colour in ((530, WHITE), (500, RED)):
        c.polygon([turned([(500, 500 - radius)], 22.5 + 45 * k)[0] for k in range(8)], colour)
    write(c, "STOP", height, 0.44, pen, 0.155, colour=WHITE)


def _mandatory(picture: Drawing, c: Canvas) -> None:
    c.disc(500, 500, 490, WHITE)
    c.disc(500, 500, 472, BLUE)
    picture(c)


def _ahead(shaft: float, half: float, c: Canvas) -> None:
    c.stroke([(500, 860), (500, 240)], shaft, WHITE)
    c.polygon(arrow_head((500, 130), 0, half * 0.92, half, shaft * 1.15, shaft), WHITE)


def _keep_right(shaft: float, half: float, c: Canvas) -> None:
    c.stroke(turned([(500, 110), (500, 780)], 135 - 180), shaft, WHITE)
    c.polygon(turned(arrow_head((500, 870), 180, half, half, shaft * 1.2, shaft), -45), WHITE)


def _arrow_old(degrees: float, c: Canvas) -> None:
    """Draw a thick arrow with a filled head, pointing this far clockwise from up."""
    c.stroke(turned([(500, 880), (500, 400)], degrees), 135, WHITE)
    c.polygon(turned([(500, 110), (690, 430), (310, 430)], degrees), WHITE)


def _turn_right(c: Canvas) -> None:
    c.stroke([(345, 820), (345, 570), *arc(515, 570, 170, 170, 180, 270), (740, 400)], 98, WHITE)
    c.polygon(arrow_head((845, 400), 90, 178, 192, 118, 98), WHITE)


def _turn_right_old(c: Canvas) -> None:
    c.stroke([(270, 760), (270, 640), *arc(450, 640, 180, 180, 180, 270), (600, 460)], 120, WHITE)
    c.polygon([(590, 285), (590, 635), (900, 460)], WHITE)


def _ahead_or_right(c: Canvas) -> None:
    c.stroke([(390, 870), (390, 220)], 82, WHITE)
    c.polygon(arrow_head((390, 110), 0, 150, 160, 92, 82), WHITE)
    c.stroke([(390, 690), *arc(500, 650, 110, 90, 180, 270), (760, 560)], 82, WHITE)
    c.polygon(arrow_head((870, 560), 90, 150, 152, 92, 82), WHITE)


def _ahead_or_right_old(c: Canvas) -> None:
    c.stroke([(385, 860), (385, 330)], 92, WHITE)
    c.polygon([(385, 105), (520, 345), (250, 345)], WHITE)
    c.stroke([(385, 600), (660, 600)], 92, WHITE)
    c.polygon([(890, 600), (650, 465), (650, 735)], WHITE)


def _roundabout(radius: float, pen: float, start: float, c: Canvas) -> None:
    tip = (500 + radius * 0.19, 500 - radius * 0.99)
    for turn in (start, start + 120, start + 240):
        c.stroke(turned(arc(500, 500, radius, radius, 22, -62), turn), pen, WHITE)
        c.polygon(turned(arrow_head(tip, -62, 92, 112, 70, pen), turn), WHITE)


def _ends(picture: Drawing) -> tuple[Drawing, ...]:
    return tuple(partial(_end, picture, lines) for lines in (5, 1))


def _dangers(*pictures: Drawing) -> tuple[Drawing, ...]:
    """Give each picture in today's border, the first in the narrower one of older signs, and each one smaller."""
    return (
        *(partial(_danger, p) for p in pictures),
        partial(_danger, pictures[0], border=82),
        *(partial(_danger, p, border=102, share=0.86) for p in pictures),
    )


def _nothing(_: Canvas) -> None:
    pass


def _overtakings(lorry: bool) -> tuple[Drawing, ...]:
    return tuple(partial(_prohibition, partial(_overtaking, RED, BLACK, lorry, line)) for line in (False, True))


_GREY_80 = partial(write, text="80", height=415, width=0.54, pen=0.15, gap=0.18, colour=GREY)

_SIGNS: dict[int, tuple[Drawing, ...]] = {
    **{k: _limits(v) for k, v in {0: "20", 1: "30", 2: "50", 3: "60", 4: "70", 5: "80", 7: "100", 8: "120"}.items()},
    6: _ends(_GREY_80),
    9: _overtakings(lorry=False),
    10: _overtakings(lorry=True),
    11: _dangers(pic.crossroads),
    12: tuple(partial(_priority_road, *how) for how in ((290, BLACK), (260, BLACK), (305, WHITE))),
    13: (partial(_yield, 94), partial(_yield, 82), partial(_yield, 110)),
    14: (partial(_stop, 330, 0.150), partial(_stop, 350, 0.165)),
    15: (partial(_prohibition, _nothing), partial(_prohibition, _nothing, inner=382)),
    16: (partial(_prohibition, pic.lorry_side), partial(_prohibition, pic.lorry_side_old)),
    17: (partial(_no_entry, 160), partial(_no_entry, 190)),
    18: _dangers(pic.exclamation),
    20: _dangers(pic.bend_right),
    21: _dangers(pic.double_bend_left),
    22: _dangers(pic.uneven),
    23: _dangers(pic.slippery, pic.slippery_old, pic.slippery_plain),
    24: _dangers(pic.narrows_right),
    25: _dangers(pic.worker, pic.worker_old),
    26: _dangers(pic.lights, pic.lights_dull),
    27: _dangers(pic.pedestrian),
    28: _dangers(pic.children, pic.children_old),
    29: _dangers(pic.bicycle),
    30: _dangers(pic.snowflake),
    31: _dangers(pic.deer),
    32: _ends(_nothing),
    33: (partial(_mandatory, _turn_right), partial(_mandatory, _turn_right_old)),
    35: (
        partial(_mandatory, partial(_ahead, 105, 225)),
        partial(_mandatory, partial(_ahead, 120, 200)),
        partial(_mandatory, partial(_arrow_old, 0)),
    ),
    36: (partial(_mandatory, _ahead_or_right), partial(_mandatory, _ahead_or_right_old)),
    38: (
        partial(_mandatory, partial(_keep_right, 105, 210)),
        partial(_mandatory, partial(_keep_right, 118, 190)),
        partial(_mandatory, partial(_arrow_old, 135)),
    ),
    40: tuple(partial(_mandatory, partial(_roundabout, *how)) for how in ((268, 64, 0), (268, 64, 60), (285, 74, 20))),
    41: _ends(partial(_overtaking, GREY, GREY, False, False)),
    42: _ends(partial(_overtaking, GREY, GREY, True, False)),
}
_MIRRORED = {19: 20, 34: 33, 37: 36, 39: 38}
"""ClassIds whose signs are the mirror images of another class's."""

_SHAPES = {
    **dict.fromkeys((11, *range(18, 32)), "triangle"),
    12: "diamond",
    13: "point down",
}
_OUTLINES = {
    name: np.array(points) / 1000 - 0.5
    for name, points in {
        "disc": arc(500, 500, 490, 490, 0, 360),
        "triangle": _triangle(0, 70),
        "point down": [(x, 1000 - y) for x, y in _triangle(0, 70)],
        "diamond": [(500, 10), (990, 500), (500, 990), (10, 500)],
    }.items()
}

CLASSES = len(_SIGNS) + len(_MIRRORED)


def variants(class_id: int) -> int:
    """Count the forms of a sign: today's first, then older ones and other makes.

    Raises:
        SourceError: the class does not exist.
    """
    drawings = len(_SIGNS[_MIRRORED.get(_known(class_id), class_id)])
    return 2 * drawings if class_id in BOTH_WAYS else drawings


def render_sign(class_id: int, size: int, variant: int = 0) -> Image.Image:
    """Render one clean sign seen from the front, RGBA, ``size`` pixels square, transparent around it.

    Args:
        class_id: the benchmark's ClassId, 0 to 42.
        size: 8 to `MAX_SIZE`.
        variant: 0 to ``variants(class_id) - 1``.

    Raises:
        SourceError: a class, size or variant that does not exist.
    """
    if not 0 <= variant < variants(class_id):
        raise SourceError(f"class {class_id} has no form {variant}: use 0 to {variants(class_id) - 1}")
    if not 8 <= size <= MAX_SIZE:
        raise SourceError(f"a sign of {size} pixels cannot be rendered: use 8 to {MAX_SIZE}")
    if class_id in _MIRRORED:
        return ImageOps.mirror(render_sign(_MIRRORED[class_id], size, variant))
    mirrored, drawing = divmod(variant, len(_SIGNS[class_id]))
    canvas = Canvas(size)
    _SIGNS[class_id][drawing](canvas)
    return ImageOps.mirror(canvas.finish()) if mirrored else canvas.finish()


def _known(class_id: int) -> int:
    if not 0 <= class_id < CLASSES:
        raise SourceError(f"there is no class {class_id}: use 0 to {CLASSES - 1}")
    return class_id


def outline(class_id: int) -> np.ndarray:
    """Give points (n, 2) on the edge of a sign, -0.5 to 0.5 about the middle of its picture."""
    return _OUTLINES[_SHAPES.get(class_id, "disc")]
