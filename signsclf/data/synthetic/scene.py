"""The scenes that rendered signs stand in: every parameter of them, and the one place where they are sampled.

Two renderers show the same scenes: `signsclf.data.synthetic.frame` one at a time with NumPy and Pillow, for images that
are read like files, and `signsclf.training.synthetic` a batch of them as tensors, for training. So validation images
come from the distribution that training images come from.

Lengths are in half widths of the sign, about its middle: it reaches from -1 to 1. Light is a share of the sensor's full
scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from signsclf.data.optics import Optics, WavyLines, bernoulli_uniform
from signsclf.data.synthetic import backgrounds
from signsclf.data.synthetic.signs import CLASSES, outline, variants

OPTICS = Optics(
    color_cast=(0.08, 0.04, 0.10),
    haze=0.18,
    glare=0.3,
    blur=0.007,
    blur_spread=0.9,
    motion=0.3,
    motion_length=0.13,
    noise=0.02,
    downscale=0.8,
    jpeg=0.08,
)
"""The camera of rendered signs; how much light they stand in belongs to the scene."""

PALE = (0.94, 0.87, 0.76)
"""What colours fade to."""
BLEACHED, BLEACHED_BLUE = 0.75, 0.4
"""How far vivid colours fade to `PALE`: sun bleaches the red foils most, the blue ones less, and hardly the black."""
LUMA = (0.30, 0.59, 0.11)
"""Weights of red, green and blue in the grey that a weaker saturation leaves."""
PEELED_EDGE = 8
"""How sharply peeling ends: the slope across the threshold of its pattern."""
PLATE, PLATE_TEXT = (-0.84, 1.04, 0.84, 1.8), (-0.56, 1.28, 0.56, 1.48)
"""The plate below a sign and the text on it: left, top, right, bottom."""
PLATE_LEVEL = 0.92
"""White of the plate, share of the light on a white sign."""
POLE_BOTTOM = 9.0
FOLIAGE = (0.2, 0.3, 0.12)
"""Colour of twigs and leaves."""

STICKER, TWIG, LEAVES = 1, 2, 3
"""Kinds of `Scenes.cover`; 0 is none."""

FORMS = tuple((class_id, variant) for class_id in range(CLASSES) for variant in range(variants(class_id)))
"""Every form of every class, (ClassId, variant), by which `Scenes.form` counts."""
_VARIANTS = np.array([variants(class_id) for class_id in range(CLASSES)])
_FIRST = np.cumsum(_VARIANTS) - _VARIANTS
_EDGES = np.ones((CLASSES, max(len(outline(c)) for c in range(CLASSES)), 3))
for _class in range(CLASSES):
    # Repeated to one length; for the outermost points it does not matter.
    _EDGES[_class, :, :2] = np.resize(outline(_class), _EDGES[_class, :, :2].shape)

_FRAME_SHARE = 0.2
"""Of the variance of a sign's pose, the share by which the frames of one sign differ."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Square windows onto pictures of a stock, whose coordinates go from -1 to 1; each field is (N,).

    Attributes:
        layer: which picture, int.
        side: half side of the window.
        x, y: its middle.
        mirrored: whether left and right are swapped, bool.
    """

    layer: np.ndarray
    side: np.ndarray
    x: np.ndarray
    y: np.ndarray
    mirrored: np.ndarray

    @classmethod
    def sample(cls, n: int, count: int, least: float, most: float, rng: np.random.Generator) -> Windows:
        """Sample ``n`` windows with half sides from ``least`` to ``most`` onto ``count`` pictures."""
        side = rng.uniform(least, most, n)
        x, y = rng.uniform(-1, 1, (2, n)) * (1 - side)
        return cls(layer=rng.integers(count, size=n), side=side, x=x, y=y, mirrored=rng.random(n) >= 0.5)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """N signs in their surroundings, before a camera. Each field is float (N,) where not told.

    Attributes:
        class_id: the benchmark's ClassId, int.
        form: position in `FORMS` of the sign, int.
        level: light on a white sign.
        background_level: factor of the light on what is behind the sign.
        yaw, pitch, roll: how the sign is turned, radians.
        margin: free space around the sign, share of its width on each side.
        margin_jitter: by how much each side differs, (N, 4): left, top, right, bottom.
        background: onto the tiles of `backgrounds.tile`.
        step: factor of the light on one side of ``step_edge`` in the background.
        contrast: factor of the background's differences from its mean.
        metal: light on the pole.
        pole: half width of the pole; 0 is none.
        pole_top: where the pole begins.
        has_board, board, board_level: whether the sign is mounted on a board (0 or 1), its half side and light.
        has_plate: whether there is a plate below, 0 or 1.
        neighbour: position in `FORMS` of another sign on the same pole, int; -1 is none.
        neighbour_shift: by how much that sign's coordinates differ; positive is above.
        fading: by sun, 0 to 1.
        hue: by how much the pigments differ from new ones, radians about grey; positive turns red to orange.
        saturation: factor of the distance to grey.
        peeling: how much of the foil is scratched off, or covered by paint or snow, 0 to 1.
        bare: the grey that shows there, 0 to 1.
        peeling_pattern: as ``dirt_pattern``.
        dirt, shadow: share of the light that dirt, and the shadows of leaves, take from the sign.
        shadow_pattern, dirt_pattern: onto the patterns of `backgrounds.clouding`.
        cover: what is in front of the sign: `STICKER`, `TWIG`, `LEAVES` or 0, int.
        cover_x, cover_y: their middle.
        sticker_width, sticker_height: half sides of the sticker.
        twig_slope, twig_width: of the twig, its half width.
        leaf_pattern: as ``dirt_pattern``.
        cover_color: (N, 3), under full light.
    """

    class_id: np.ndarray
    form: np.ndarray
    level: np.ndarray
    background_level: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    margin: np.ndarray
    margin_jitter: np.ndarray
    background: Windows
    step: np.ndarray
    step_edge: WavyLines
    contrast: np.ndarray
    metal: np.ndarray
    pole: np.ndarray
    pole_top: np.ndarray
    has_board: np.ndarray
    board: np.ndarray
    board_level: np.ndarray
    has_plate: np.ndarray
    neighbour: np.ndarray
    neighbour_shift: np.ndarray
    fading: np.ndarray
    hue: np.ndarray
    saturation: np.ndarray
    peeling: np.ndarray
    bare: np.ndarray
    peeling_pattern: Windows
    dirt: np.ndarray
    shadow: np.ndarray
    shadow_pattern: Windows
    dirt_pattern: Windows
    cover: np.ndarray
    cover_x: np.ndarray
    cover_y: np.ndarray
    sticker_width: np.ndarray
    sticker_height: np.ndarray
    twig_slope: np.ndarray
    twig_width: np.ndarray
    leaf_pattern: Windows
    cover_color: np.ndarray

    @classmethod
    def sample(cls, class_ids: np.ndarray, rng: np.random.Generator) -> Scenes:
        """Sample a scene for each of these ClassIds, int (N,).

        The order of the calls belongs to the result: trainings that resume need the same numbers from the same seed.
        """
        n = len(class_ids)
        light, other = rng.standard_normal((2, n))
        # Log-normal, as the centres of GTSRB's images are: one in ten very dark, one in five brighter than can be told.
        level = np.clip(0.58 * np.exp(0.72 * light), 0.06, 3.5)
        background_level = np.exp(0.75 * (0.45 * light + 0.9 * other) - 0.45)
        yaw = np.radians(np.clip(rng.normal(0, 19, n), -50, 50))
        pitch, roll = np.radians(rng.normal(0, 8, n)), np.radians(rng.normal(0, 5.5, n))
        # Somewhat wider than GTSRB's, which are 16 % of the sign in the middle, and over 30 % for one in twenty: signs
        # with wide ones are far away, and the hardest to read.
        margin = 0.08 + 0.30 * rng.random(n) ** 1.6
        margin_jitter = rng.normal(0, 0.04, (n, 4))
        background = Windows.sample(n, backgrounds.TILES, 0.25, 1.0, rng)
        # Sky over trees, a wall in the sun beside one in the shade.
        step = np.exp(rng.normal(0, 1.0, n) * (rng.random(n) < 0.6))
        step_edge = WavyLines.sample(n, rng)
        contrast = rng.uniform(0.8, 2.2, n)
        metal = rng.uniform(0.15, 0.75, n) * background_level
        pole = bernoulli_uniform(rng, n, 0.75, 0.08, 0.22)
        pole_top = np.where(rng.random(n) < 0.8, -0.6, -3)
        has_board = rng.random(n) < 0.07
        board = rng.uniform(1.05, 1.4, n)
        board_level = level * rng.uniform(0.3, 0.95, n)
        has_plate = rng.random(n) < 0.25
        neighbour, neighbour_shift = np.full(n, -1), np.zeros(n)
        with_neighbour = np.flatnonzero(rng.random(n) < 0.3)
        if len(with_neighbour):
            neighbour_shift[with_neighbour] = np.where(rng.random(len(with_neighbour)) < 0.5, 2.12, -2.12)
            neighbour[with_neighbour] = rng.integers(len(FORMS), size=len(with_neighbour))
        form = _FIRST[class_ids] + (rng.random(n) * _VARIANTS[class_ids]).astype(int)
        fading = bernoulli_uniform(rng, n, 0.25, 0.1, 1.0) ** 1.5
        hue = rng.normal(0.05, 0.12, n)
        saturation = rng.uniform(0.4, 1.25, n)
        peeling, bare = bernoulli_uniform(rng, n, 0.12, 0.15, 0.45), rng.uniform(0.05, 1, n)
        peeling_pattern = Windows.sample(n, backgrounds.CLOUDINGS, 0.4, 1.0, rng)
        dirt = bernoulli_uniform(rng, n, 0.35, 0.1, 0.6)
        shadow = bernoulli_uniform(rng, n, 0.2, 0.2, 0.8)
        shadow_pattern = Windows.sample(n, backgrounds.CLOUDINGS, 0.3, 0.8, rng)
        dirt_pattern = Windows.sample(n, backgrounds.CLOUDINGS, 0.3, 0.8, rng)
        cover_x, cover_y = rng.uniform(-0.9, 0.9, n), rng.uniform(-0.9, 0.9, n)
        kind = rng.random(n)
        cover = np.select([kind < 0.05, kind < 0.10, kind < 0.15], [STICKER, TWIG, LEAVES], 0)
        sticker_width, sticker_height = rng.uniform(0.1, 0.28, n), rng.uniform(0.1, 0.24, n)
        twig_slope, twig_width = rng.normal(0, 1, n), rng.uniform(0.02, 0.06, n)
        leaf_pattern = Windows.sample(n, backgrounds.CLOUDINGS, 0.4, 1.0, rng)
        cover_color = np.where((cover == STICKER)[:, None], rng.uniform(0, 1, (n, 3)), FOLIAGE)
        return cls(
            class_id=class_ids,
            form=form,
            level=level,
            background_level=background_level,
            yaw=yaw,
            pitch=pitch,
            roll=roll,
            margin=margin,
            margin_jitter=margin_jitter,
            background=background,
            step=step,
            step_edge=step_edge,
            contrast=contrast,
            metal=metal,
            pole=pole,
            pole_top=pole_top,
            has_board=has_board,
            board=board,
            board_level=board_level,
            has_plate=has_plate,
            neighbour=neighbour,
            neighbour_shift=neighbour_shift,
            fading=fading,
            hue=hue,
            saturation=saturation,
            peeling=peeling,
            bare=bare,
            peeling_pattern=peeling_pattern,
            dirt=dirt,
            shadow=shadow,
            shadow_pattern=shadow_pattern,
            dirt_pattern=dirt_pattern,
            cover=cover,
            cover_x=cover_x,
            cover_y=cover_y,
            sticker_width=sticker_width,
            sticker_height=sticker_height,
            twig_slope=twig_slope,
            twig_width=twig_width,
            leaf_pattern=leaf_pattern,
            cover_color=cover_color,
        )

    def sensor_pixels(self) -> np.ndarray:
        """Count the pixels that GTSRB's camera had for a side of each picture, (N,).

        Its pictures leave a tenth of the sign around it, or 5 pixels where that is more: wide margins are those of
        signs far away.
        """
        return 10 + 5 / np.maximum(self.margin, 0.05)

    def passed_by(self, other: Scenes) -> Scenes:
        """Show the same signs from another place on the road, in the poses of other scenes mixed with their own.

        The mix has the distribution that both have.
        """
        own, new = (1 - _FRAME_SHARE) ** 0.5, _FRAME_SHARE**0.5
        return replace(
            self,
            yaw=own * self.yaw + new * other.yaw,
            pitch=own * self.pitch + new * other.pitch,
            roll=own * self.roll + new * other.roll,
            margin_jitter=other.margin_jitter,
        )

    def views(self) -> tuple[np.ndarray, np.ndarray]:
        """See each sign through a frame that its margins leave around it.

        Returns:
            The maps from the frame, -1 to 1, to the sign's plane, -0.5 to 0.5, (N, 3, 3); and width over height of the
            frame, (N,).
        """
        seen = homographies(self.yaw, self.pitch, self.roll)
        points = _EDGES[self.class_id] @ seen.transpose(0, 2, 1)
        points = points[..., :2] / points[..., 2:]
        least, most = points.min(1), points.max(1)
        margins = self.margin[:, None] + self.margin_jitter
        span = (most - least) * (1 + margins[:, :2] + margins[:, 2:])
        frame = np.zeros((len(seen), 3, 3))
        frame[:, 0, 0], frame[:, 1, 1], frame[:, 2, 2] = 2 / span[:, 0], 2 / span[:, 1], 1
        frame[:, :2, 2] = (margins[:, :2] * (most - least) - least) * 2 / span - 1
        return np.linalg.inv(frame @ seen), span[:, 0] / span[:, 1]


def hue_matrices(angle: np.ndarray) -> np.ndarray:
    """Give the rotations of RGB colours about grey, (..., 3, 3), by these angles in radians; greys stay as they are."""
    third, cos, sin = 1 / 3, np.cos(angle), np.sin(angle) / 3**0.5
    same, after, before = cos + (1 - cos) * third, (1 - cos) * third - sin, (1 - cos) * third + sin
    rows = [[same, after, before], [before, same, after], [after, before, same]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def homographies(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Give the homographies of signs that are turned by these angles in radians, seen from four widths away.

    Args:
        yaw, pitch, roll: arrays of one shape.

    Returns:
        (..., 3, 3): from the sign's plane, ±0.5, to a picture of about that size.
    """
    distance = 4.0
    cy, sy, cp, sp, cr, sr = (f(angle) for angle in (yaw, pitch, roll) for f in (np.cos, np.sin))
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    rows = [
        [cy * cr + sy * sp * sr, -cy * sr + sy * sp * cr, zero],
        [cp * sr, cp * cr, zero],
        [(-sy * cr + cy * sp * sr) / distance, (sy * sr + cy * sp * cr) / distance, one],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)
