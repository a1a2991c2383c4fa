"""The camera: a sign as a moving car sees it, cropped as loosely as GTSRB's images are.

What belongs to the physical sign and its place (form, fading, light, background, neighbours) is drawn from
(seed, class, track); what changes as the car goes by (distance, angle, blur, noise) from the frame too.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from signsclf.data.synthetic import backgrounds
from signsclf.data.synthetic.signs import CLASSES, outline, render_sign, variants
from signsclf.errors import SourceError

SIZES = (24, 96)
"""Pixels of the longer side of a frame, least and most, unless told otherwise."""

_TEMPLATES = (32, 64, 128, 256)
_PALE = np.array([0.94, 0.87, 0.76], np.float32) * 255


@dataclass(frozen=True)
class _Site:
    """One physical sign where it stands."""

    variant: int
    size: float
    growth: float
    yaw: float
    pitch: float
    roll: float
    margin: float
    level: float
    tile: int
    window: tuple[float, float, float]
    background_level: float
    cast: np.ndarray
    saturation: float
    fading: float
    dirt: float
    shadow: float
    clouding: int
    veil: float
    pole: float
    plate: bool
    neighbour: int | None
    neighbour_above: bool
    cover: str | None
    cover_place: tuple[float, float]


def _site(class_id: int, rng: np.random.Generator, sizes: tuple[int, int]) -> _Site:
    low, high = sizes
    light, other = rng.standard_normal(2)

    def sometimes(chance: float, least: float, most: float) -> float:
        value = rng.uniform(least, most)
        return float(value) if rng.random() < chance else 0.0

    covers = ("sticker", "scribble", "twig", "leaves")
    return _Site(
        variant=int(rng.integers(variants(class_id))),
        size=float(low * (high / low) ** (rng.random() ** 1.3 * 0.9)),
        growth=float(rng.uniform(1.0, 1.16)),
        yaw=float(rng.normal(0, 17)),
        pitch=float(rng.normal(0, 7)),
        roll=float(rng.normal(0, 4.5)),
        margin=float(rng.uniform(0.06, 0.24)),
        # Log-normal, as the centres of GTSRB's images are: in the middle the white of a sign is at about
        # 140 of 255, one in ten is darker than 60, one in five brighter than the sensor can tell.
        level=float(np.clip(142 * np.exp(0.66 * light), 20, 480)),
        tile=int(rng.integers(backgrounds.TILES)),
        window=tuple(float(v) for v in rng.random(3)),
        background_level=float(np.exp(0.75 * (0.45 * light + 0.9 * other) - 0.45)),
        cast=np.exp(rng.normal(0, (0.08, 0.03, 0.09))).astype(np.float32),
        saturation=float(rng.uniform(0.55, 1.0)),
        fading=sometimes(0.25, 0.1, 1.0) ** 1.5,
        dirt=sometimes(0.35, 0.1, 0.6),
        shadow=sometimes(0.15, 0.2, 0.7),
        clouding=int(rng.integers(backgrounds.CLOUDINGS)),
        veil=sometimes(0.30, 0.05, 0.45),
        pole=sometimes(0.75, 0.08, 0.22),
        plate=bool(rng.random() < 0.25),
        neighbour=int(rng.integers(CLASSES)) if rng.random() < 0.30 else None,
        neighbour_above=bool(rng.random() < 0.5),
        cover=covers[int(rng.integers(len(covers)))] if rng.random() < 0.14 else None,
        cover_place=(float(rng.uniform(-0.45, 0.45)), float(rng.uniform(-0.45, 0.45))),
    )


def render_frame(class_id: int, track: int, frame: int, seed: int, sizes: tuple[int, int] = SIZES) -> np.ndarray:
    """One image of a physical sign, from the camera of a car that comes nearer with every frame.

    Args:
        class_id: the benchmark's ClassId, 0 to 42.
        track: which physical sign of that class, not negative.
        frame: which image of it, 0 the farthest, not negative.
        seed: of the whole set, not negative.
        sizes: least and most pixels of the longer side; 8 to 512.

    Returns:
        uint8 RGB (height, width, 3): the same array for the same numbers, always.

    Raises:
        SourceError: a number that is out of its range.
    """
    if not (0 <= class_id < CLASSES and track >= 0 and frame >= 0 and seed >= 0):
        raise SourceError(
            f"no drawn sign {class_id}/{track}/{frame} with seed {seed}: "
            f"use classes 0 to {CLASSES - 1}, and no negative number"
        )
    if not 8 <= sizes[0] <= sizes[1] <= 512:
        raise SourceError(f"drawn sizes {sizes[0]}:{sizes[1]} cannot be used: give least and most pixels, 8 to 512")
    site = _site(class_id, np.random.default_rng((seed, class_id, track)), sizes)
    rng = np.random.default_rng((seed, class_id, track, frame + 1))
    (height, width), plane = _geometry(class_id, site, frame, rng, sizes)

    ground = _behind(site, frame, height, width, plane)
    picture = np.asarray(ground, np.float32) * site.background_level
    if site.neighbour is not None:
        shift = np.array([[1, 0, 0], [0, 1, -1.06 if site.neighbour_above else 1.06], [0, 0, 1]])
        other = _warped(site.neighbour, 0, plane @ shift, height, width)
        picture = picture * (1 - other[..., 3:]) + other[..., :3] * (site.level / 245)
    sign = _warped(class_id, site.variant, plane, height, width)
    picture = picture * (1 - sign[..., 3:]) + _weathered(sign, site, height, width) * (site.level / 245)
    if site.cover:
        picture = _covered(picture, site, plane)
    return _exposed(picture, site, rng)


def _geometry(
    class_id: int, site: _Site, frame: int, rng: np.random.Generator, sizes: tuple[int, int]
) -> tuple[tuple[int, int], np.ndarray]:
    """Size (height, width) of the frame, and the 3×3 map from the sign's plane (±0.5) to its pixels."""
    low, high = sizes
    # As long as a GTSRB track; later frames stay where the thirtieth is.
    passed = min(frame, 29)
    long_side = float(np.clip(site.size * site.growth**passed * rng.uniform(0.97, 1.03), low, high))
    yaw, pitch, roll = np.radians(
        [
            np.clip(site.yaw + rng.normal(0, 3) + passed * 0.6, -50, 50),
            site.pitch + rng.normal(0, 2),
            site.roll + rng.normal(0, 1.5),
        ]
    )
    seen = seen_from(yaw, pitch, roll)
    edge = np.c_[outline(class_id), np.ones(len(outline(class_id)))] @ seen.T
    edge = edge[:, :2] / edge[:, 2:]
    least, most = edge.min(0), edge.max(0)
    # Left, top, right and bottom as shares of the sign; each frame is cut out by a hand not quite steady.
    margins = np.clip(site.margin + rng.normal(0, 0.035, 4), -0.02, 0.35)
    wide, tall = (most - least) * (1 + margins[:2] + margins[2:])
    scale = long_side / max(wide, tall)
    width, height = max(4, round(wide * scale)), max(4, round(tall * scale))
    left, top = (margins[:2] * (most - least) - least) * scale
    return (height, width), np.array([[scale, 0, left], [0, scale, top], [0, 0, 1]]) @ seen


def seen_from(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """The homography of a sign that is turned by these angles in radians, seen from four widths away.

    Args:
        yaw, pitch, roll: numbers, or arrays of any one shape.

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


@lru_cache(maxsize=512)
def _template(class_id: int, variant: int, size: int) -> Image.Image:
    return render_sign(class_id, size, variant).convert("RGBa")


def _warped(class_id: int, variant: int, plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """The sign as seen: float32 (height, width, 4), colours times alpha 0 to 255, alpha 0 to 1."""
    needed = max(height, width)
    # A template up to twice as fine as the frame: bilinear sampling neither skips its lines nor softens them.
    size = next((s for s in _TEMPLATES if s >= needed), _TEMPLATES[-1])
    to_template = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]])
    back = to_template @ np.linalg.inv(plane)
    back /= back[2, 2]
    warped = _template(class_id, variant, size).transform(
        (width, height), Image.Transform.PERSPECTIVE, back.ravel()[:8].tolist(), Image.Resampling.BILINEAR
    )
    out = np.array(warped, np.float32)
    out[..., 3] /= 255
    return out


def _points(plane: np.ndarray, *points: tuple[float, float]) -> list[tuple[float, float]]:
    """Points of the sign's plane in pixels."""
    seen = np.array([(*p, 1.0) for p in points]) @ plane.T
    return [(float(x / z), float(y / z)) for x, y, z in seen]


def _behind(site: _Site, frame: int, height: int, width: int, plane: np.ndarray) -> Image.Image:
    """Background, pole and plate."""
    x, y, zoom = site.window
    # Nearer frames see less of what is far behind.
    side = (0.25 + 0.6 * zoom) * 0.97 ** min(frame, 29) * backgrounds.TILE
    left, top = x * (backgrounds.TILE - side), y * (backgrounds.TILE - side)
    ground = backgrounds.tile(site.tile).resize(
        (width, height), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
    )
    draw = ImageDraw.Draw(ground)
    metal = int(40 + 150 * y)
    if site.pole:
        half, end = site.pole / 2, (-0.3 if zoom < 0.8 else -1.5)
        draw.polygon(_points(plane, (-half, end), (half, end), (half, 1.5), (-half, 1.5)), (metal, metal, metal))
        draw.polygon(_points(plane, (half / 3, end), (half, end), (half, 1.5), (half / 3, 1.5)), (metal // 2,) * 3)
    if site.plate:
        white = round(230 * min(1.0, site.level / 245 / site.background_level))
        draw.polygon(_points(plane, (-0.42, 0.52), (0.42, 0.52), (0.42, 0.9), (-0.42, 0.9)), (white // 6,) * 3)
        draw.polygon(_points(plane, (-0.40, 0.54), (0.40, 0.54), (0.40, 0.88), (-0.40, 0.88)), (white,) * 3)
        draw.polygon(_points(plane, (-0.28, 0.64), (0.28, 0.64), (0.28, 0.74), (-0.28, 0.74)), (white // 4,) * 3)
    return ground


def _grey(site: _Site, height: int, width: int, turn: int = 0) -> np.ndarray:
    """A smooth pattern 0 to 1 (height, width, 1) that stays with the sign."""
    x, y, zoom = site.window
    side = (0.3 + 0.5 * zoom) * backgrounds.TILE
    box = (y * (backgrounds.TILE - side), x * (backgrounds.TILE - side))
    pattern = backgrounds.clouding((site.clouding + turn) % backgrounds.CLOUDINGS).resize(
        (width, height), Image.Resampling.BILINEAR, (*box, box[0] + side, box[1] + side)
    )
    return np.asarray(pattern, np.float32)[..., None] / 255


def _weathered(sign: np.ndarray, site: _Site, height: int, width: int) -> np.ndarray:
    """The sign's colours after years of sun and dirt, and under today's shadows."""
    colours, alpha = sign[..., :3], sign[..., 3:]
    if site.fading:
        # Sun bleaches the red foils most, the blue ones less, and hardly the black.
        vivid = (colours.max(2, keepdims=True) - colours.min(2, keepdims=True)) / 170
        share = np.minimum(vivid, 1) * site.fading
        colours = colours + (_PALE * alpha - colours) * (
            np.where(colours[..., 2:] > colours[..., :1], 0.4, 0.75).astype(np.float32) * share
        )
    # Written out, because the rounding of a matrix product may depend on the number of threads.
    grey = 0.30 * colours[..., :1] + 0.59 * colours[..., 1:2] + 0.11 * colours[..., 2:]
    colours = grey + (colours - grey) * site.saturation
    if site.dirt:
        colours = colours * (1 - site.dirt * _grey(site, height, width))
    if site.shadow:
        edge = np.clip((_grey(site, height, width, turn=7) - 0.5) * 4 + 0.5, 0, 1)
        colours = colours * (1 - site.shadow * edge)
    return colours


def _covered(picture: np.ndarray, site: _Site, plane: np.ndarray) -> np.ndarray:
    """A sticker, a scribble, a twig or leaves in front of part of the sign."""
    height, width = picture.shape[:2]
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    x, y = site.cover_place
    a, b, c = site.window
    pen = max(1, round(width * 0.04))
    colour = np.array([30, 30, 30], np.float32)
    if site.cover == "sticker":
        w, h = 0.05 + 0.09 * a, 0.05 + 0.07 * b
        draw.polygon(_points(plane, (x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)), 255)
        colour = np.array([250 * a, 250 * b, 250 * c], np.float32)
    elif site.cover == "scribble":
        line = [(x + 0.16 * np.sin(k * 2.1 + a * 9), y + 0.12 * np.sin(k * 1.3 + b * 9)) for k in range(9)]
        draw.line(_points(plane, *line), 255, pen)
    elif site.cover == "twig":
        draw.line(_points(plane, (x - 0.7, y - 0.5 + a), (x, y), (x + 0.7, y - 0.5 + b)), 255, pen)
    else:
        for k in range(14):
            (px, py), *_ = _points(plane, (x * 1.3 + 0.2 * np.sin(k * 7.1 + a), y * 1.3 + 0.2 * np.sin(k * 4.3 + b)))
            radius = width * (0.03 + 0.03 * ((k * 0.37 + c) % 1))
            draw.ellipse([px - radius, py - radius, px + radius, py + radius], 255)
        colour = np.array([50 + 60 * a, 80, 30], np.float32)
    share = np.asarray(mask, np.float32)[..., None] / 255
    return picture * (1 - share) + colour * (site.level / 245) * share


def _smeared(picture: np.ndarray, sigma: float, motion: float, angle: float) -> np.ndarray:
    """Out of focus by ``sigma`` pixels and moved by ``motion`` pixels while the shutter was open."""
    height, width = picture.shape[:2]
    if sigma > 0.3:
        reach = max(1, round(2.2 * sigma))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1, dtype=np.float32) / sigma) ** 2)
        weights /= weights.sum()
        padded = np.pad(picture, ((reach, reach), (0, 0), (0, 0)), "edge")
        picture = sum(w * padded[i : i + height] for i, w in enumerate(weights))
        padded = np.pad(picture, ((0, 0), (reach, reach), (0, 0)), "edge")
        picture = sum(w * padded[:, i : i + width] for i, w in enumerate(weights))
    if motion >= 1:
        steps = min(9, int(motion) + 2)
        along = np.linspace(-motion / 2, motion / 2, steps)
        shifts = {(round(float(t * np.sin(angle))), round(float(t * np.cos(angle)))) for t in along}
        reach = int(motion / 2) + 1
        padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), "edge")
        # Sorted, because the sum of floats depends on its order.
        parts = [padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width] for dy, dx in sorted(shifts)]
        picture = sum(parts) / len(parts)
    return picture


def _exposed(picture: np.ndarray, site: _Site, rng: np.random.Generator) -> np.ndarray:
    """Through lens, sensor and encoder: float32 light to uint8."""
    height, width = picture.shape[:2]
    size = max(height, width)
    sigma = float(size * 0.012 * np.exp(rng.normal(0, 0.65)))
    motion = float(size * rng.uniform(0.02, 0.14)) if rng.random() < 0.35 else 0.0
    angle = float(rng.normal(0, 0.35) if rng.random() < 0.7 else rng.uniform(0, np.pi))
    picture = _smeared(picture, sigma, motion, angle) * (site.cast * np.float32(np.exp(rng.normal(0, 0.12))))
    if site.veil:
        picture = picture * (1 - site.veil) + picture.mean() * site.veil
    if rng.random() < 0.3:
        # Light spills over: what is brighter than the sensor can hold lifts everything round it.
        spill = np.maximum(picture - 200, 0).mean() * rng.uniform(0.1, 0.6)
        picture = picture + np.float32(spill)
    if size > 40 and rng.random() < 0.15:
        # The lens bends red and blue apart.
        picture[:, 1:, 0] = 0.4 * picture[:, 1:, 0] + 0.6 * picture[:, :-1, 0]
        picture[:, :-1, 2] = 0.4 * picture[:, :-1, 2] + 0.6 * picture[:, 1:, 2]
    # However strong the light, a twentieth of the picture stays below white, or nothing would be left to recognise.
    picture = picture * np.float32(min(1.0, 215 / max(1.0, float(np.percentile(picture, 5)))))
    grain = np.float32(0.7 + 3.0 * rng.random() ** 2 + 0.03 * min(site.level, 120) * rng.random())
    picture = picture + rng.standard_normal(picture.shape, np.float32) * grain
    image = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    chance = rng.random()
    if chance < 0.12:
        share = rng.uniform(0.45, 0.8)
        small = Image.fromarray(image).resize((max(8, int(width * share)), max(8, int(height * share))))
        image = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    elif chance < 0.24:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(35, 90)))
        image = np.asarray(Image.open(buffer))
    return np.ascontiguousarray(image)
