"""What stands behind a sign: sky, leaves, branches, walls and windows, as tiles that are rendered once a process."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

TILE = 192
"""Pixels a side of a tile."""
TILES = 64
"""Number of tiles; a scene takes one."""
CLOUDINGS = 16
"""Number of grey tiles."""


def noise(rng: np.random.Generator, cells: int, octaves: int = 4, size: int = TILE) -> np.ndarray:
    """Sample smooth noise (size, size), 0 to 1: random values on ever finer grids, each half as strong."""
    total, weight = np.zeros((size, size), np.float32), 0.0
    for octave in range(octaves):
        side = min(cells << octave, size)
        grid = Image.fromarray(rng.integers(0, 256, (side, side), np.uint8))
        total += np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255 * 0.5**octave
        weight += 0.5**octave
    return np.clip((total / weight - 0.5) * 1.6 + 0.5, 0, 1)


@lru_cache(maxsize=TILES)
def tile(index: int) -> Image.Image:
    """Render an RGB tile; the same index always gives the same tile."""
    rng = np.random.default_rng((0x51613, index))
    makers = (_leaves, _leaves, _leaves, _leaves, _sky, _branches, _wall, _houses)
    return makers[index % len(makers)](rng)


@lru_cache(maxsize=CLOUDINGS)
def clouding(index: int) -> Image.Image:
    """Render a grey tile of smooth noise, for dirt and for the shadows of leaves."""
    rng = np.random.default_rng((0xC10D, index))
    return Image.fromarray((noise(rng, 3 + index % 5, 3) * 255).astype(np.uint8))


def _coloured(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low + (high - low) * values[..., None]


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _sky(rng: np.random.Generator) -> Image.Image:
    down = np.linspace(0, 1, TILE, dtype=np.float32)[:, None] * np.ones((1, TILE), np.float32)
    blue, pale = (
        np.array([rng.uniform(90, 190), rng.uniform(130, 205), 225]),
        np.array([225, 230, rng.uniform(215, 245)]),
    )
    clouds = noise(rng, int(rng.integers(1, 4)))
    return _image(_coloured(np.clip(down * 0.6 + clouds * rng.uniform(0.2, 0.9), 0, 1), blue, pale))


def _leaves(rng: np.random.Generator) -> Image.Image:
    shape = noise(rng, int(rng.integers(3, 8)), 4)
    detail = noise(rng, int(rng.integers(16, 64)), 3)
    light = np.clip(shape * 0.5 + detail * 0.7 - rng.uniform(0.25, 0.45), 0, 1) ** rng.uniform(1.0, 1.8)
    autumn, dullness = rng.uniform(0, 1), rng.uniform(0.2, 0.9)
    high = np.array([120 + 100 * autumn, 150 - 10 * autumn, 70]) * rng.uniform(0.9, 1.8)
    high = high + (high.mean() - high) * dullness
    low = np.array([24, 24, 22]) * rng.uniform(0.3, 2)
    picture = _coloured(light, low, high)
    if rng.random() < 0.4:
        # Sky between the leaves.
        gaps = np.clip((noise(rng, int(rng.integers(6, 24)), 4) - rng.uniform(0.62, 0.8)) * 5, 0, 1)[..., None]
        picture = picture * (1 - gaps) + np.array([225, 232, 240]) * gaps
    return _image(picture)


def _branches(rng: np.random.Generator) -> Image.Image:
    image = _sky(rng)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(25, 90))):
        x, y, angle, width = *rng.uniform(0, TILE, 2), rng.uniform(0, 2 * np.pi), rng.uniform(1, 5)
        shade = int(rng.uniform(15, 80))
        for _ in range(6):
            nx, ny = x + 18 * np.cos(angle), y + 18 * np.sin(angle)
            draw.line([x, y, nx, ny], (shade + 8, shade + 3, shade), max(1, round(width)))
            x, y, angle, width = nx, ny, angle + rng.normal(0, 0.4), width * 0.85
    return image.filter(ImageFilter.GaussianBlur(0.6))


def _wall(rng: np.random.Generator) -> Image.Image:
    base = np.array([rng.uniform(90, 210)] * 3) * np.array([1.0, rng.uniform(0.75, 1.0), rng.uniform(0.55, 1.0)])
    picture = base * (0.8 + 0.4 * noise(rng, 6, 5)[..., None])
    image = _image(picture)
    if rng.random() < 0.5:
        draw = ImageDraw.Draw(image)
        height, width = rng.uniform(6, 14), rng.uniform(14, 34)
        joint = tuple(int(v) for v in np.clip(base * rng.uniform(0.5, 1.3), 0, 255))
        for row in range(int(TILE / height) + 1):
            draw.line([0, row * height, TILE, row * height], joint)
            for column in range(int(TILE / width) + 2):
                x = (column - 0.5 * (row % 2)) * width
                draw.line([x, row * height, x, (row + 1) * height], joint)
    return image


def _houses(rng: np.random.Generator) -> Image.Image:
    image = _wall(rng) if rng.random() < 0.5 else _sky(rng)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 14))):
        x, y = rng.uniform(-40, TILE, 2)
        w, h = rng.uniform(15, 110, 2)
        colour = rng.uniform(10, 240) * np.array([1, 1, 1]) * rng.uniform(0.7, 1.1, 3)
        if rng.random() < 0.15:
            colour = np.array([(190, 30, 30), (30, 80, 170), (240, 180, 20)][int(rng.integers(3))])
        draw.rectangle([x, y, x + w, y + h], tuple(int(v) for v in np.clip(colour, 0, 255)))
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))
