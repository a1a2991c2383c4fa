"""The black pictures inside the signs: people, animals, vehicles and the courses of roads.

Each function draws onto a `Canvas` in its thousandths. Those of danger signs sit inside the white triangle.
"""

from __future__ import annotations

from collections.abc import Sequence

from signsclf.data.synthetic.shapes import (
    BLACK,
    GREEN,
    RED,
    WHITE,
    YELLOW,
    Canvas,
    Colour,
    Point,
    arc,
    smooth,
    turned,
)


def crossroads(c: Canvas) -> None:
    """Draw priority at the next intersection: a thick arrow across a thin bar."""
    c.polygon([(500, 415), (580, 490), (580, 785), (500, 738), (420, 785), (420, 490)], BLACK)
    c.polygon([(328, 583), (672, 583), (672, 640), (328, 640)], BLACK)


def exclamation(c: Canvas) -> None:
    c.polygon(smooth([(500, 385), (538, 410), (528, 560), (514, 685), (486, 685), (472, 560), (462, 410)]), BLACK)
    c.disc(500, 758, 38, BLACK)


def bend_right(c: Canvas) -> None:
    c.stroke([(408, 790), *arc(508, 650, 100, 100, 180, 270), (590, 550)], 72)
    c.polygon([(588, 514), (612, 514), (668, 550), (612, 586), (588, 586)], BLACK)
    c.polygon([(366, 794), (408, 748), (450, 794)], WHITE)


def double_bend_left(c: Canvas) -> None:
    course = [
        (441, 445),
        (443, 530),
        (450, 592),
        (478, 622),
        (520, 588),
        (556, 562),
        (580, 590),
        (585, 660),
        (587, 790),
    ]
    c.stroke(smooth(course, closed=False), 68)
    c.polygon([(407, 452), (441, 402), (475, 452)], BLACK)
    c.polygon([(548, 794), (587, 756), (626, 794)], WHITE)


def uneven(c: Canvas) -> None:
    hump = smooth([(285, 752), (345, 705), (402, 668), (455, 700), (500, 722)], closed=False)
    c.polygon(
        [(262, 778), (262, 760), *hump, *[(1000 - x, y) for x, y in reversed(hump)], (738, 760), (738, 778)],
        BLACK,
    )


def narrows_right(c: Canvas) -> None:
    c.polygon([(418, 440), (474, 440), (474, 790), (418, 790)], BLACK)
    c.polygon(
        [(536, 440), (590, 440), (590, 548), (650, 632), (650, 790), (594, 790), (594, 650), (536, 566)],
        BLACK,
    )


def slippery(c: Canvas) -> None:
    _car(c, 495, 655, 258, BLACK, belt=0.53, degrees=15)
    c.stroke(smooth([(408, 672), (470, 715), (370, 748), (315, 778), (350, 802)], closed=False), 15)
    c.stroke(smooth([(465, 690), (390, 715), (400, 750), (505, 768), (450, 802)], closed=False), 15)
    c.stroke(smooth([(575, 705), (585, 732), (660, 748), (625, 780), (735, 800)], closed=False), 15)


def slippery_old(c: Canvas) -> None:
    _car(c, 500, 640, 240, BLACK, belt=0.53, degrees=23)
    c.stroke(smooth([(330, 800), (450, 760), (380, 715), (430, 670)], closed=False), 18)
    c.stroke(smooth([(530, 800), (660, 765), (560, 720), (590, 685)], closed=False), 18)


def slippery_plain(c: Canvas) -> None:
    """Draw a car without lamps, its roof an outline, whose tracks curl below it."""
    c.polygon([(397, 521), (622, 576), (600, 660), (375, 596)], BLACK)
    c.stroke([(402, 524), (440, 470), (590, 508), (614, 574)], 13)
    c.stroke([(388, 596), (380, 640)], 30)
    c.stroke([(588, 655), (582, 705)], 30)
    curl = [(494, 697), (400, 712), (330, 738), (430, 760), (310, 785), (420, 806), (494, 796)]
    c.stroke(smooth(curl, closed=False), 15)
    c.stroke(smooth([(580, 704), (520, 720), (530, 752), (610, 766), (702, 786)], closed=False), 15)


def lights(c: Canvas) -> None:
    for y, colour in ((430, RED), (575, YELLOW), (720, GREEN)):
        c.disc(500, y, 64, colour)


def lights_dull(c: Canvas) -> None:
    """Draw them as older foils show them: dark, each in a black ring."""
    for y, colour in ((430, (150, 34, 30)), (575, (196, 140, 36)), (720, (24, 108, 108))):
        c.disc(500, y, 72, BLACK)
        c.disc(500, y, 56, colour)


def worker(c: Canvas) -> None:
    heap = smooth([(462, 812), (535, 745), (590, 672), (625, 648), (662, 680), (715, 745), (782, 812)], closed=False)
    c.polygon(heap, BLACK)
    c.disc(512, 432, 36, BLACK)
    c.polygon(smooth([(370, 466), (430, 452), (490, 468), (478, 530), (455, 595), (392, 592), (400, 530)]), BLACK)
    c.stroke([(378, 480), (325, 540), (352, 588)], 32, caps=True)
    c.stroke([(474, 495), (462, 580), (482, 652)], 32, caps=True)
    c.stroke([(346, 582), (585, 745)], 16)
    c.polygon([(545, 700), (600, 715), (640, 790), (575, 765)], BLACK)
    c.stroke([(410, 615), (360, 700), (292, 805)], 42)
    c.stroke([(420, 615), (455, 700), (462, 805)], 42)
    c.polygon([(270, 790), (330, 790), (312, 812), (262, 812)], BLACK)
    c.stroke([(372, 603), (470, 610)], 10, WHITE)


def worker_old(c: Canvas) -> None:
    c.polygon([(500, 812), (560, 735), (640, 690), (705, 740), (760, 812)], BLACK)
    c.disc(490, 428, 38, BLACK)
    c.stroke([(450, 490), (400, 610)], 78, caps=True)
    c.stroke([(460, 490), (500, 575), (440, 650)], 28, caps=True)
    c.stroke([(400, 620), (350, 700), (300, 800)], 44, caps=True)
    c.stroke([(410, 620), (450, 700), (440, 800)], 44, caps=True)
    c.stroke([(360, 560), (590, 760)], 18)


def pedestrian(c: Canvas) -> None:
    c.disc(478, 395, 38, BLACK)
    c.polygon(smooth([(440, 452), (505, 445), (545, 470), (540, 540), (545, 608), (462, 608), (455, 540)]), BLACK)
    c.stroke([(455, 468), (432, 545), (392, 595)], 30, caps=True)
    c.stroke([(532, 470), (585, 530), (590, 605)], 30, caps=True)
    c.stroke([(486, 622), (462, 700), (418, 800)], 44)
    c.stroke([(520, 622), (562, 700), (600, 800)], 44)
    c.polygon([(385, 790), (440, 790), (436, 812), (380, 812)], BLACK)
    c.polygon([(578, 786), (622, 780), (640, 806), (590, 812)], BLACK)


def children(c: Canvas) -> None:
    _child(c, (545, 462), 36, 1.0, [(490, 545), (425, 590)], [(625, 560), (665, 640)])
    _child(c, (362, 566), 30, 0.70, [(325, 620), (275, 640)], [(425, 620), (440, 590)])


def children_old(c: Canvas) -> None:
    """Draw two children: the bigger one with its legs apart, the smaller at its hand."""
    c.disc(560, 436, 34, BLACK)
    c.polygon(smooth([(528, 482), (592, 482), (592, 560), (584, 640), (532, 640), (530, 560)]), BLACK)
    c.stroke([(540, 495), (498, 560), (448, 600)], 28, caps=True)
    c.stroke([(582, 495), (625, 545), (672, 590)], 28, caps=True)
    c.stroke([(546, 632), (520, 710), (470, 800)], 36)
    c.stroke([(572, 632), (622, 700), (645, 800)], 36)
    c.disc(396, 566, 27, BLACK)
    c.polygon(smooth([(372, 602), (420, 602), (420, 660), (416, 712), (374, 712), (370, 660)]), BLACK)
    c.stroke([(380, 612), (345, 650), (312, 668)], 22, caps=True)
    c.stroke([(414, 612), (448, 600)], 22, caps=True)
    c.stroke([(386, 705), (366, 750), (330, 800)], 28)
    c.stroke([(406, 705), (440, 745), (450, 800)], 28)


def _child(c: Canvas, head: Point, radius: float, size: float, left: Sequence[Point], right: Sequence[Point]) -> None:
    """Draw a child that runs to the left; the arms are given, because the two hold hands."""
    x, y = head[0], head[1] + radius
    c.disc(*head, radius, BLACK)

    def at(dx: float, dy: float) -> Point:
        return (x + dx * size, y + dy * size)

    c.polygon(smooth([at(-32, 18), at(22, 12), at(40, 60), at(42, 150), at(-30, 150), at(-30, 70)]), BLACK)
    pen = 32 * size
    c.stroke([at(-15, 35), *left], pen * 0.85, caps=True)
    c.stroke([at(20, 35), *right], pen * 0.85, caps=True)
    c.stroke([at(-8, 145), at(-45, 215), at(-30, 300), at(-65, 302)], pen * 1.1, caps=True)
    c.stroke([at(20, 145), at(65, 205), at(145, 225), at(155, 200)], pen * 1.1, caps=True)


def bicycle(c: Canvas) -> None:
    """Draw a bicycle that heads to the left."""
    front, rear, crank = (358, 712), (642, 712), (492, 712)
    for x, y in (front, rear):
        c.stroke(arc(x, y, 84, 84, 0, 365), 19)
        c.disc(x, y, 16, BLACK)
    c.disc(*crank, 24, BLACK)
    head, seat = (412, 590), (560, 590)
    c.stroke([front, head, (428, 545)], 18)
    c.stroke([(390, 520), (428, 545), (470, 528)], 18, caps=True)
    c.stroke([head, seat], 18)
    c.stroke([(406, 612), crank], 18)
    c.stroke([crank, (572, 550)], 18)
    c.stroke([crank, rear, seat], 16)
    c.stroke([(535, 542), (612, 542)], 24, caps=True)
    c.stroke([(465, 745), (515, 680)], 14, caps=True)


def snowflake(c: Canvas) -> None:
    centre = (500, 620)
    for k in range(6):
        c.stroke(turned([centre, (500, 460)], 60 * k, centre), 32)
        c.stroke(turned([(448, 485), (500, 538), (552, 485)], 60 * k, centre), 28)


def deer(c: Canvas) -> None:
    """Draw a deer that leaps to the left."""
    body = [
        *[(398, 482), (436, 452), (470, 456), (492, 500), (520, 548), (590, 572), (662, 600), (694, 640)],
        *[
            (694, 700),
            (650, 692),
            (590, 668),
            (520, 660),
            (455, 645),
            (434, 600),
            (452, 540),
            (444, 504),
            (408, 502),
        ],
    ]
    c.polygon(smooth(body), BLACK)
    c.polygon([(462, 470), (498, 424), (514, 436), (484, 486)], BLACK)
    c.stroke(smooth([(450, 462), (468, 412), (502, 386), (530, 388)], closed=False), 13)
    c.stroke([(468, 412), (454, 388)], 11)
    c.stroke([(460, 612), (388, 606), (400, 648)], 24, caps=True)
    c.stroke([(480, 645), (420, 655), (440, 692)], 24, caps=True)
    c.stroke([(668, 655), (690, 712), (735, 738), (775, 796)], 26, caps=True)
    c.stroke([(655, 670), (660, 728), (705, 755), (735, 802)], 24, caps=True)
    c.stroke([(690, 628), (716, 636)], 22, caps=True)


def car(c: Canvas, x: float, bottom: float, width: float, colour: Colour) -> None:
    """Draw a car from behind, ``width`` wide, standing at ``bottom``."""
    _car(c, x, bottom, width, colour)


def _car(c: Canvas, x: float, bottom: float, w: float, colour: Colour, belt: float = 0.44, degrees: float = 0) -> None:
    def part(points: Sequence[Point], fill: Colour) -> None:
        where = [(x + px * w, bottom + py * w) for px, py in points]
        c.polygon(turned(where, degrees, (x, bottom - 0.35 * w)), fill)

    part([(-0.30, -0.75), (0.30, -0.75), (0.36, -0.69), (0.45, -belt), (-0.45, -belt), (-0.36, -0.69)], colour)
    part([(-0.27, -0.70), (0.27, -0.70), (0.37, -belt - 0.03), (-0.37, -belt - 0.03)], WHITE)
    left = [(-0.45, -0.11), (-0.5, -0.15), (-0.5, 0.06 - belt), (-0.45, -belt)]
    part([*left, *((-px, py) for px, py in reversed(left))], colour)
    for side in (-1, 1):
        part([(side * px, py) for px, py in ((0.26, -0.12), (0.45, -0.12), (0.43, 0), (0.28, 0))], colour)
        part(arc(side * 0.37, -0.29, 0.05, 0.05, 0, 360), WHITE)


def lorry_rear(c: Canvas, x: float, bottom: float, width: float, colour: Colour) -> None:
    """Draw a lorry from behind."""
    half, top = width / 2, bottom - width * 1.16
    c.polygon([(x - half, top), (x + half, top), (x + half, bottom - 55), (x - half, bottom - 55)], colour)
    for side in (-1, 1):
        inner, outer = x + side * half * 0.45, x + side * half * 0.85
        c.polygon([(inner, bottom - 56), (outer, bottom - 56), (outer, bottom), (inner, bottom)], colour)
    c.stroke([(x - half * 0.7, bottom - 30), (x + half * 0.7, bottom - 30)], 16, colour)


def lorry_side(c: Canvas) -> None:
    """Draw a lorry that heads to the left, its cab over the engine."""
    c.polygon([(400, 372), (782, 372), (782, 560), (400, 560)], BLACK)
    c.polygon([(388, 575), (782, 575), (782, 622), (388, 622)], BLACK)
    c.polygon([(236, 430), (378, 430), (378, 622), (214, 622), (214, 530)], BLACK)
    c.polygon([(252, 452), (318, 452), (318, 520), (236, 520)], WHITE)
    for x in (300, 662):
        c.disc(x, 632, 60, WHITE)
        c.disc(x, 632, 48, BLACK)


def lorry_side_old(c: Canvas) -> None:
    """Draw a lorry that heads to the left, with a bonnet."""
    c.polygon([(400, 390), (775, 390), (775, 570), (400, 570)], BLACK)
    c.polygon([(340, 560), (775, 575), (775, 612), (340, 612)], BLACK)
    c.polygon([(300, 440), (388, 440), (388, 612), (212, 612), (212, 540), (280, 528)], BLACK)
    c.polygon([(312, 460), (362, 460), (362, 520), (298, 520)], WHITE)
    for x in (295, 655):
        c.disc(x, 622, 55, WHITE)
        c.disc(x, 622, 44, BLACK)
