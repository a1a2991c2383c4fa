"""Robustness to bad light, bad weather and bad cameras: eleven corruptions of five strengths each.

In the manner of Hendrycks and Dietterich 2019 (arXiv:1903.12261), but not their ImageNet-C: corruptions are applied at
the network's input size. So a strength means the same for a small photograph and a large one, and resizing averages
nothing away. Lengths are shares of the image's side; noise and the 8-pixel blocks of JPEG are in pixels, and so harsher
on a network with a small input.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from signsclf.metrics.intervals import Interval, bootstrap_mean
from signsclf.observer import Observer

STRENGTHS = 5
SAMPLE = 2_000
"""How many images are corrupted at most, 55 times each."""
_CHUNK = 128
_GREYS = (180.0, 245.0)


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Accuracy on corrupted images.

    Attributes:
        n: images, the same ones for each corruption.
        clean: accuracy on the uncorrupted images.
        accuracy: name of the corruption to the accuracy at strengths 1 to 5.
        mean: mean of all these accuracies, each weighing the same.
        interval: its 95 % cluster bootstrap interval; None with a single group.
        seed: of the random parts.
    """

    n: int
    clean: float
    accuracy: dict[str, tuple[float, ...]]
    mean: float
    interval: Interval | None
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "n": self.n,
            "clean_accuracy": self.clean,
            "mean_corrupted_accuracy": self.mean,
            "interval": None if self.interval is None else list(self.interval),
            "accuracy": {name: list(values) for name, values in self.accuracy.items()},
            "seed": self.seed,
        }


def sample(n: int, seed: int) -> np.ndarray:
    """Sample the positions of at most `SAMPLE` of n images without replacement; in ascending order."""
    if n <= SAMPLE:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, 0x5A]).choice(n, SAMPLE, replace=False))


def measure(
    pixels: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
    observer: Observer | None = None,
) -> Robustness:
    """Measure the accuracy on images corrupted in every way and strength.

    Args:
        pixels: uint8 (N, H, W, 3), N ≥ 1.
        targets: int (N,).
        groups: the group of each image, int (N,); see `signsclf.metrics.intervals.group_numbers`.
        predict: maps images to probabilities or logits (n, C).
        observer: told of progress.
    """
    observer = observer or Observer()
    shape = (len(CORRUPTIONS), STRENGTHS, len(pixels))
    right = np.zeros(shape, bool)
    clean = np.concatenate([predict(pixels[i : i + _CHUNK]).argmax(axis=1) for i in range(0, len(pixels), _CHUNK)])
    for row, name in enumerate(CORRUPTIONS):
        for strength in range(1, STRENGTHS + 1):
            for start in range(0, len(pixels), _CHUNK):
                part = slice(start, start + _CHUNK)
                answer = predict(_corrupt_chunk(pixels[part], name, strength, seed, start)).argmax(axis=1)
                right[row, strength - 1, part] = answer == targets[part]
            observer.progress("corrupting", (row * STRENGTHS + strength) * len(pixels), int(np.prod(shape)))
    return Robustness(
        n=len(pixels),
        clean=float((clean == targets).mean()),
        accuracy={name: tuple(right[row].mean(axis=1).tolist()) for row, name in enumerate(CORRUPTIONS)},
        mean=float(right.mean()),
        interval=bootstrap_mean(right.mean(axis=(0, 1)), groups),
        seed=seed,
    )


def corrupt(pixels: np.ndarray, name: str, strength: int, seed: int = 0) -> np.ndarray:
    """Corrupt images in one way; the same seed gives the same pixels.

    The random parts (noise, directions, positions) are the same for all strengths, so that a higher strength is more of
    the same corruption.

    Args:
        pixels: uint8 (N, H, W, 3).
        name: one of `CORRUPTIONS`.
        strength: 1 to `STRENGTHS`.

    Returns:
        uint8 (N, H, W, 3), a new array.

    Raises:
        ValueError: an unknown corruption or strength, or pixels of another type or shape.
    """
    if name not in CORRUPTIONS or strength not in range(1, STRENGTHS + 1):
        raise ValueError(f"{name!r} at {strength!r}: give one of {', '.join(CORRUPTIONS)} and 1 to {STRENGTHS}")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels should be uint8 (N, H, W, 3), and are {pixels.dtype} {pixels.shape}")
    chunks = [
        _corrupt_chunk(pixels[start : start + _CHUNK], name, strength, seed, start)
        for start in range(0, len(pixels), _CHUNK)
    ]
    return np.concatenate(chunks) if chunks else pixels.copy()


def _corrupt_chunk(pixels: np.ndarray, name: str, strength: int, seed: int, start: int) -> np.ndarray:
    function, levels = CORRUPTIONS[name]
    random = np.random.default_rng([seed, list(CORRUPTIONS).index(name), start])
    values = function(pixels.astype(np.float32), levels[strength - 1], random)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _noise(x: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return x + deviation * random.standard_normal(x.shape, dtype=np.float32)


def _blur(x: np.ndarray, share: float, _: np.random.Generator) -> np.ndarray:
    return _along_both(x, lambda side: _gaussian(side, share * min(x.shape[1:3])))


def _motion_blur(x: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    # The mean along a line through each pixel, in one of four directions.
    length = share * min(x.shape[1:3])
    result = np.empty_like(x)
    which = random.integers(0, 4, len(x))
    for number, (down, across) in enumerate(((0, 1), (1, 0), (1, 1), (1, -1))):
        chosen = x[which == number]
        if not len(chosen):
            continue
        reach = length / 2 / np.hypot(down, across)
        taps = np.arange(-int(np.ceil(reach)), int(np.ceil(reach)) + 1)
        # Fractional weights at the ends make any length possible.
        weights = np.clip(reach + 0.5 - np.abs(taps), 0, 1)
        edge = taps[-1]
        padded = np.pad(chosen, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="edge")
        height, width = x.shape[1:3]
        result[which == number] = sum(
            weight * padded[:, edge + t * down :, edge + t * across :][:, :height, :width]
            for t, weight in zip(taps.tolist(), (weights / weights.sum()).astype(np.float32), strict=True)
        )
    return result


def _contrast(x: np.ndarray, kept: float, _: np.random.Generator) -> np.ndarray:
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (x - mean) * kept


def _scale(x: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    return x * factor


def _fog(x: np.ndarray, density: float, random: np.random.Generator) -> np.ndarray:
    # Clouds: a coarse and a finer random grid, interpolated to the image's size.
    n, height, width = x.shape[:3]
    clouds = np.zeros((n, height, width), np.float32)
    for cells, weight in ((3, 0.65), (6, 0.35)):
        grid = random.random((n, cells, cells), dtype=np.float32)
        clouds += weight * (_stretch(height, cells) @ grid @ _stretch(width, cells).T)
    cover = density * (0.6 + 0.8 * clouds)[..., None]
    grey = _GREYS[0] + (_GREYS[1] - _GREYS[0]) * random.random((n, 1, 1, 1), dtype=np.float32)
    return x + (grey - x) * np.clip(cover, 0, 1)


def _jpeg(x: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    result = np.empty_like(x)
    for i, image in enumerate(x.astype(np.uint8)):
        data = io.BytesIO()
        Image.fromarray(image).save(data, "JPEG", quality=int(quality))
        with Image.open(data) as decoded:
            result[i] = np.asarray(decoded)
    return result


def _pixelate(x: np.ndarray, share: float, _: np.random.Generator) -> np.ndarray:
    def both(side: int) -> np.ndarray:
        cells = max(1, round(share * side))
        nearest = np.minimum((np.arange(side) + 0.5) * cells // side, cells - 1).astype(int)
        return _cell_means(cells, side)[nearest]

    return _along_both(x, both)


def _cover(x: np.ndarray, area: float, random: np.random.Generator) -> np.ndarray:
    # A square of one colour whose middle lies in the image; a stronger one contains the weaker.
    n, height, width = x.shape[:3]
    middles = random.random((n, 2, 1), dtype=np.float32) * np.array([[height], [width]], np.float32)
    colours = random.integers(0, 256, (n, 1, 1, 3)).astype(np.float32)
    half = np.sqrt(area * height * width) / 2
    rows = np.abs(np.arange(height) + 0.5 - middles[:, 0]) <= half
    columns = np.abs(np.arange(width) + 0.5 - middles[:, 1]) <= half
    return np.where((rows[:, :, None] & columns[:, None, :])[..., None], colours, x)


def _rotate(x: np.ndarray, degrees: float, random: np.random.Generator) -> np.ndarray:
    # To the left or to the right, bilinear; pixels from outside repeat the edge.
    height, width = x.shape[1:3]
    ys, xs = np.mgrid[:height, :width] - np.array([[[(height - 1) / 2]], [[(width - 1) / 2]]])
    turned = random.random(len(x)) < 0.5
    result = np.empty_like(x)
    for chosen, sign in ((turned, 1), (~turned, -1)):
        angle = np.deg2rad(sign * degrees)
        y = np.clip(np.cos(angle) * ys - np.sin(angle) * xs + (height - 1) / 2, 0, height - 1)
        across = np.clip(np.sin(angle) * ys + np.cos(angle) * xs + (width - 1) / 2, 0, width - 1)
        top, left = np.floor(y).astype(int), np.floor(across).astype(int)
        bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
        down = (y - top).astype(np.float32)[..., None]
        over = (across - left).astype(np.float32)[..., None]
        images = x[chosen]
        upper = images[:, top, left] * (1 - over) + images[:, top, right] * over
        lower = images[:, bottom, left] * (1 - over) + images[:, bottom, right] * over
        result[chosen] = upper * (1 - down) + lower * down
    return result


def _along_both(x: np.ndarray, matrix: Callable[[int], np.ndarray]) -> np.ndarray:
    """Apply a separable filter: ``matrix(side)``, (side, side), along the rows and along the columns."""
    height, width = x.shape[1:3]
    n = len(x)
    tall = np.matmul(matrix(height).astype(np.float32), x.reshape(n, height, width * 3)).reshape(x.shape)
    return np.einsum("uw,nhwc->nhuc", matrix(width).astype(np.float32), tall, optimize=True)


def _gaussian(side: int, deviation: float) -> np.ndarray:
    """Build a Gaussian blur as a matrix (side, side); weights that fall outside go to the edge pixels."""
    reach = int(np.ceil(4 * deviation))
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    matrix = np.zeros((side, side))
    for place in range(side):
        np.add.at(matrix[place], np.clip(np.arange(place - reach, place + reach + 1), 0, side - 1), bell)
    return matrix / bell.sum()


def _cell_means(cells: int, side: int) -> np.ndarray:
    """Build the mean over equal cells of a side as a matrix (cells, side)."""
    edges = np.linspace(0, side, cells + 1)
    pixels = np.arange(side)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(inside, 0, None) * cells / side


def _stretch(side: int, cells: int) -> np.ndarray:
    """Build linear interpolation from a number of cells to a side as a matrix (side, cells)."""
    places = np.linspace(0, cells - 1, side)[:, None]
    return np.clip(1 - np.abs(places - np.arange(cells)), 0, 1).astype(np.float32)


CORRUPTIONS: dict[str, tuple[Callable[[np.ndarray, float, np.random.Generator], np.ndarray], tuple[float, ...]]] = {
    "noise": (_noise, (8, 16, 24, 34, 46)),
    "blur": (_blur, (0.015, 0.022, 0.03, 0.04, 0.05)),
    "motion blur": (_motion_blur, (0.06, 0.09, 0.13, 0.17, 0.22)),
    "contrast": (_contrast, (0.7, 0.5, 0.35, 0.24, 0.15)),
    "darkness": (_scale, (0.6, 0.4, 0.27, 0.18, 0.11)),
    "over-exposure": (_scale, (1.4, 1.9, 2.5, 3.3, 4.5)),
    "fog": (_fog, (0.25, 0.4, 0.52, 0.64, 0.75)),
    "jpeg": (_jpeg, (50, 35, 25, 17, 12)),
    "pixelation": (_pixelate, (0.7, 0.58, 0.48, 0.4, 0.33)),
    "partial cover": (_cover, (0.04, 0.08, 0.13, 0.19, 0.26)),
    "rotation": (_rotate, (5, 10, 15, 20, 27)),
}
"""Name to function and five strengths: the standard deviation in grey levels (noise); shares of the side (standard
deviation of blur, length of motion blur, pixels kept by pixelation); the contrast kept; factors of brightness; the
density of fog; JPEG quality; the share of the area covered; degrees of rotation."""
