"""One rendered sign as an image file has it: a scene of `scene.Scenes` in its own proportions, with NumPy and Pillow.

What belongs to the physical sign and its place (form, fading, light, background, neighbours) is sampled from (seed,
class, track); what changes as a car passes by (distance, pose, blur, noise) from the frame too.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from signsclf.data.optics import Exposures, WavyLines
from signsclf.data.synthetic import backgrounds, scene
from signsclf.data.synthetic.scene import FORMS, OPTICS, Scenes, Windows
from signsclf.data.synthetic.signs import CLASSES, render_sign
from signsclf.errors import SourceError

SIZES = (24, 96)
"""Pixels of the longer side of a frame, least and most, unless told otherwise."""

_TRACK_LENGTH = 30
"""Frames in which a sign comes nearer, as in a track of GTSRB; later ones stay where the last of them is."""
_TEMPLATES = (32, 64, 128, 256, 512)
_FINER = 2
"""Signs are sampled so many times finer than they are shown, then averaged."""
_ONE = np.float32(1)


def render_frame(class_id: int, track: int, frame: int, seed: int, sizes: tuple[int, int] = SIZES) -> np.ndarray:
    """Render one image of a physical sign, from the camera of a car that comes nearer with every frame.

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
            f"no synthetic sign {class_id}/{track}/{frame} with seed {seed}: "
            f"use classes 0 to {CLASSES - 1}, and no negative number"
        )
    if not 8 <= sizes[0] <= sizes[1] <= 512:
        raise SourceError(f"sizes {sizes[0]}:{sizes[1]} cannot be rendered: give least and most pixels, 8 to 512")
    of_track = np.random.default_rng((seed, class_id, track))
    of_frame = np.random.default_rng((seed, class_id, track, frame + 1))
    ids = np.array([class_id])
    seen = Scenes.sample(ids, of_track).passed_by(Scenes.sample(ids, of_frame))
    side = _long_side(frame, sizes, of_track, of_frame)
    exposures = Exposures.sample(1, OPTICS, of_frame, seen.sensor_pixels() / side)
    aspect = float(seen.views()[1][0])
    width, height = (max(4, round(side * min(1.0, share))) for share in (aspect, 1 / aspect))
    return expose(render_scene(seen, height, width), exposures)


def _long_side(
    frame: int, sizes: tuple[int, int], of_track: np.random.Generator, of_frame: np.random.Generator
) -> float:
    """Sample the longer side of a frame in pixels: most are small, and each sign grows at its own pace."""
    low, high = sizes
    first = low * (high / low) ** (of_track.random() ** 1.3 * 0.9)
    growth = of_track.uniform(1.0, 1.16) ** min(frame, _TRACK_LENGTH - 1)
    return float(np.clip(first * growth * of_frame.uniform(0.97, 1.03), low, high))


def render_scene(scenes: Scenes, height: int, width: int) -> np.ndarray:
    """Render one scene as light, before a camera: float32 (height, width, 3), RGB, where 1 saturates the sensor.

    Args:
        scenes: of which there is one.
    """
    s = _single(scenes)
    inverse = scenes.views()[0][0]
    where = _where(inverse, height, width)
    picture = _background(s, where)
    if s.neighbour >= 0:
        shifted = np.array([[1, 0, 0], [0, 1, s.neighbour_shift / 2], [0, 0, 1]]) @ inverse
        sign = _warped(s.neighbour, shifted, height, width)
        picture = picture * (1 - sign[..., 3:]) + sign[..., :3] * s.level
    sign = _warped(s.form, inverse, height, width)
    picture = picture * (1 - sign[..., 3:]) + _weathered(s, sign) * s.level
    return _covered(s, picture, where)


def _single(batch: Scenes | Exposures | Windows | WavyLines) -> Any:
    """Give the fields of a single scene or exposure as numbers: float32, so that pictures stay so, int and bool."""
    fields = dict(vars(batch))
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            fields[name] = value[0].astype(np.float32) if value.dtype == np.float64 else value[0]
    return SimpleNamespace(**fields)


def _where(inverse: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Tell for each pixel where on the sign's plane it looks, across and down; float32 (height, width, 1)."""
    x = ((np.arange(width) + 0.5) * (2 / width) - 1)[None, :, None]
    y = ((np.arange(height) + 0.5) * (2 / height) - 1)[:, None, None]
    u, v, w = (row[0] * x + row[1] * y + row[2] for row in inverse)
    w = np.maximum(w, 1e-3)
    return (u * 2 / w).astype(np.float32), (v * 2 / w).astype(np.float32)


@lru_cache(maxsize=512)
def _template(form: int, size: int) -> Image.Image:
    class_id, variant = FORMS[form]
    return render_sign(class_id, size, variant).convert("RGBa")


def _warped(form: int, inverse: np.ndarray, height: int, width: int) -> np.ndarray:
    """See a sign in the frame: float32 (height, width, 4), colours times alpha, and alpha, 0 to 1."""
    needed = _FINER * max(height, width)
    # A template up to twice as fine as what is sampled: bilinear sampling neither skips its lines nor softens them.
    size = next((s for s in _TEMPLATES if s >= needed), _TEMPLATES[-1])
    to_template = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]])
    to_frame = np.array([[2 / (_FINER * width), 0, -1], [0, 2 / (_FINER * height), -1], [0, 0, 1]])
    back = to_template @ inverse @ to_frame
    back /= back[2, 2]
    warped = _template(int(form), size).transform(
        (_FINER * width, _FINER * height),
        Image.Transform.PERSPECTIVE,
        back.ravel()[:8].tolist(),
        Image.Resampling.BILINEAR,
    )
    finer = np.asarray(warped, np.float32).reshape(height, _FINER, width, _FINER, 4)
    return finer.mean((1, 3)) / 255


def _window(picture: Image.Image, windows: Windows, height: int, width: int) -> np.ndarray:
    """See a picture of the stock through a window: float32 (height, width, 1 or 3), 0 to 1."""
    w = _single(windows)
    left, top, right, bottom = (
        float(v + 1) / 2 * backgrounds.TILE for v in (w.x - w.side, w.y - w.side, w.x + w.side, w.y + w.side)
    )
    if w.mirrored:
        left, right = right, left
    seen = picture.transform(
        (width, height), Image.Transform.EXTENT, (left, top, right, bottom), Image.Resampling.BILINEAR
    )
    return np.asarray(seen, np.float32).reshape(height, width, -1) / 255


def _box(where: tuple[np.ndarray, np.ndarray], left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Tell where a pixel looks into an upright box of the sign's plane: 1 inside, 0 outside, soft at the edges."""
    u, v = where
    inside = np.minimum(np.minimum(u - left, right - u), np.minimum(v - top, bottom - v))
    return np.clip(inside * np.float32(max(u.shape) / 3) + _ONE / 2, 0, 1)


def _one_side(lines: WavyLines, height: int, width: int) -> np.ndarray:
    """Mark one side of a line with 1, the other with 0: float32 (height, width, 1)."""
    line = _single(lines)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    sin, cos = np.sin(line.angle), np.cos(line.angle)
    waves = line.offset + line.amplitude * np.sin((down * cos - across * sin) * line.frequency)
    return np.clip((across * cos + down * sin - waves) * 8 + _ONE / 2, 0, 1)


def _background(s: Any, where: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Render background, pole, board and plate, in their light."""
    height, width, _ = where[0].shape
    picture = _window(backgrounds.tile(int(s.background.layer[0])), s.background, height, width)
    picture = picture * (1 + (s.step - 1) * _one_side(s.step_edge, height, width))
    mean = picture.mean((0, 1))
    picture = np.maximum(mean + (picture - mean) * s.contrast, 0) * s.background_level
    if s.pole:
        shade = s.metal * (1 - (where[0] > s.pole / 3).astype(np.float32) / 2)
        picture = picture + (shade - picture) * _box(where, -s.pole, s.pole_top, s.pole, scene.POLE_BOTTOM)
    if s.has_board:
        picture = picture + (s.board_level - picture) * _box(where, -s.board, -s.board, s.board, s.board)
    if s.has_plate:
        white = np.float32(scene.PLATE_LEVEL) * s.level * (1 - _box(where, *scene.PLATE_TEXT) * np.float32(0.75))
        picture = picture + (white - picture) * _box(where, *scene.PLATE)
    return picture


def _weathered(s: Any, sign: np.ndarray) -> np.ndarray:
    """Show the sign's colours after years of sun and dirt, and under today's shadows."""
    height, width, _ = sign.shape
    colours, alpha = sign[..., :3], sign[..., 3:]
    if s.fading:
        vivid = np.minimum((colours.max(2, keepdims=True) - colours.min(2, keepdims=True)) * np.float32(1.5), 1)
        is_blue = colours[..., 2:] > colours[..., :1]
        share = np.where(is_blue, np.float32(scene.BLEACHED_BLUE), np.float32(scene.BLEACHED)) * vivid * s.fading
        colours = colours + (np.array(scene.PALE, np.float32) * alpha - colours) * share
    # Written out, because the rounding of a matrix product may depend on the number of threads.
    turned = scene.hue_matrices(s.hue).astype(np.float32)
    colours = np.concatenate([sum(row[i] * colours[..., i : i + 1] for i in range(3)) for row in turned], 2)
    colours = np.maximum(colours, 0)
    grey = sum(np.float32(weight) * colours[..., i : i + 1] for i, weight in enumerate(scene.LUMA))
    colours = grey + (colours - grey) * s.saturation
    if s.peeling:
        share = np.clip((_pattern(s.peeling_pattern, height, width) - (1 - s.peeling)) * scene.PEELED_EDGE, 0, 1)
        colours = colours + (s.bare * alpha - colours) * share
    if s.dirt:
        colours = colours * (1 - s.dirt * _pattern(s.dirt_pattern, height, width))
    if s.shadow:
        edge = np.clip((_pattern(s.shadow_pattern, height, width) - _ONE / 2) * 4 + _ONE / 2, 0, 1)
        colours = colours * (1 - s.shadow * edge)
    return colours


def _pattern(windows: Windows, height: int, width: int) -> np.ndarray:
    return _window(backgrounds.clouding(int(windows.layer[0])), windows, height, width)


def _covered(s: Any, picture: np.ndarray, where: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Put a sticker, a twig or leaves in front of the sign."""
    u, v = where
    height, width, _ = picture.shape
    x, y = s.cover_x, s.cover_y
    if s.cover == scene.STICKER:
        w, h = s.sticker_width, s.sticker_height
        share = _box(where, x - w, y - h, x + w, y + h)
    elif s.cover == scene.TWIG:
        off = np.abs((v - y) - s.twig_slope * (u - x)) / np.sqrt(1 + s.twig_slope**2)
        share = np.clip((s.twig_width - off) * np.float32(max(height, width) / 3) + _ONE / 2, 0, 1)
    elif s.cover == scene.LEAVES:
        near = np.clip(np.float32(1.2) - np.sqrt((u - x) ** 2 + (v - y) ** 2) * np.float32(1.6), 0, 1)
        leaves = _pattern(s.leaf_pattern, height, width) + near * np.float32(0.6) - np.float32(0.95)
        share = np.clip(leaves * 6, 0, 1) * near
    else:
        return picture
    return picture + (s.cover_color * s.level - picture) * share


def expose(light: np.ndarray, exposures: Exposures) -> np.ndarray:
    """Turn light into an image through lens, sensor and encoder.

    Args:
        light: float32 (height, width, 3).
        exposures: sampled from `OPTICS`, of which there is one.

    Returns:
        uint8 (height, width, 3).
    """
    e, side = _single(exposures), max(light.shape)
    light = light * e.gain
    light = _blur(light, e.blur * side, e.motion * side, e.motion_angle)
    light = light + (light.mean() - light) * e.haze
    light = light + e.glare * np.maximum(light - np.float32(0.8), 0).mean()
    light = _limit_saturation(light)
    noise = np.random.default_rng(e.noise_seed).standard_normal(light.shape, np.float32)
    light = light + noise * e.noise
    for scale, chosen in e.downscale:
        if chosen[0]:
            light = _downscale(light, scale)
    image = np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)
    if np.isfinite(e.jpeg_quality):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=round(float(e.jpeg_quality)), subsampling=0)
        image = np.asarray(Image.open(buffer))
    return np.ascontiguousarray(image)


def _blur(light: np.ndarray, sigma: float, motion: float, angle: float) -> np.ndarray:
    """Blur by a lens out of focus by ``sigma`` pixels and by a motion of ``motion`` pixels, in the frequency domain."""
    height, width, _ = light.shape
    pad = min(height, width) // 6
    padded = np.pad(light, ((pad, pad), (pad, pad), (0, 0)), "reflect")
    fy = np.fft.fftfreq(height + 2 * pad)[:, None, None]
    fx = np.fft.rfftfreq(width + 2 * pad)[None, :, None]
    passed = np.exp(-2 * math.pi**2 * sigma**2 * (fx**2 + fy**2))
    passed = passed * np.sinc(motion * (np.cos(angle) * fx + np.sin(angle) * fy))
    blurred = np.fft.irfft2(np.fft.rfft2(padded, axes=(0, 1)) * passed, padded.shape[:2], axes=(0, 1))
    return np.maximum(blurred[pad : pad + height, pad : pad + width], 0).astype(np.float32)


def _limit_saturation(light: np.ndarray) -> np.ndarray:
    """Keep a twentieth of the image below white however strong the light, so that something can be recognised."""
    step = max(1, min(light.shape[:2]) // 8)
    dark = np.sort(light[::step, ::step], axis=None)
    least = dark[max(1, len(dark) // 20) - 1]
    return light * np.minimum(np.float32(0.84) / np.maximum(least, np.float32(1e-6)), 1)


def _downscale(light: np.ndarray, scale: float) -> np.ndarray:
    """Show an image as a sensor with ``scale`` times as many pixels a side sees it, each of one colour."""
    height, width, _ = light.shape
    seen = np.clip(_resized(light, max(8, round(height * scale)), max(8, round(width * scale))), 0, 1)
    return _resized(_mosaic(seen), height, width)


def _resized(light: np.ndarray, height: int, width: int) -> np.ndarray:
    channels = (Image.fromarray(np.ascontiguousarray(light[..., c])) for c in range(3))
    return np.stack([np.asarray(c.resize((width, height), Image.Resampling.BILINEAR)) for c in channels], -1)


def _mosaic(light: np.ndarray) -> np.ndarray:
    """Show an image as a sensor sees it whose pixels know one colour each, in Bayer's pattern."""
    known = np.zeros_like(light)
    known[::2, ::2, 0] = known[::2, 1::2, 1] = known[1::2, ::2, 1] = known[1::2, 1::2, 2] = 1
    return _spread(light * known) / _spread(known)


def _spread(values: np.ndarray) -> np.ndarray:
    """Share each value with its eight neighbours, by weights of 1, 1/2 and 1/4."""
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
    rows = padded[1:-1] + (padded[:-2] + padded[2:]) / 2
    return rows[:, 1:-1] + (rows[:, :-2] + rows[:, 2:]) / 2
