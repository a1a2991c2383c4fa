"""The camera as tensors: what light, lens, sensor and encoder make of a batch, drawn for each image on its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Optics:
    """How far pictures are changed. Chances are shares of the images; every draw is independent for each image.

    Attributes:
        exposure: standard deviation of the logarithm of the light.
        cast: standard deviations of the logarithms of red, green and blue light.
        shadow: chance that part of the picture lies in shadow.
        haze: chance of a veil of stray light.
        fog: chance of a thicker one, which shines, and is denser on one side than on the other.
        glare: chance that light spills over from what is too bright.
        focus: median standard deviation of the lens's blur, share of the side; log-normal, by `focus_spread`.
        focus_spread: standard deviation of its logarithm.
        motion: chance of motion blur, of up to `motion_length` of the side.
        motion_length: see there.
        noise: standard deviation of the sensor's noise at most, share of full scale.
        grain: chance of up to nine times that, as a sensor has it at night.
        coarse: chance that the sensor had about as few pixels as are shown, 0.7 to 1.3 a side, each of one colour.
        encoded: chance of the marks of JPEG.
        quality: JPEG's quality at least, 1 to 90.
    """

    exposure: float = 0.0
    cast: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shadow: float = 0.0
    haze: float = 0.0
    fog: float = 0.0
    glare: float = 0.0
    focus: float = 0.0
    focus_spread: float = 0.0
    motion: float = 0.0
    motion_length: float = 0.0
    noise: float = 0.0
    grain: float = 0.0
    coarse: float = 0.0
    encoded: float = 0.0
    quality: float = 30.0


def each(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """A number, or a few channels, for each image: (N,) or (N, C) as float (N, C or 1, 1, 1) on the batch's device."""
    values = np.asarray(values, np.float32)
    return torch.from_numpy(values.reshape(*values.shape[:1], *values.shape[1:] or (1,), 1, 1)).to(like)


def sometimes(rng: np.random.Generator, n: int, chance: float, low: float, high: float) -> np.ndarray:
    """Uniform from ``low`` to ``high`` with this chance, else 0; (n,)."""
    return np.where(rng.random(n) < chance, rng.uniform(low, high, n), 0.0)


def expose(x: torch.Tensor, optics: Optics, rng: np.random.Generator) -> torch.Tensor:
    """Light to pictures.

    Args:
        x: float (N, 3, H, W), at least 0; from 1 on the sensor is saturated. It may be written to.
        rng: decides every draw, on the CPU, so that a GPU sees the same ones.

    Returns:
        float (N, 3, H, W) in 0 to 1, in steps of 1/255 as a sensor gives them.
    """
    n, side = len(x), max(x.shape[2:])
    cast = np.exp(rng.normal(0, 1, (n, 3)) * optics.cast + rng.normal(0, optics.exposure, (n, 1)))
    x = x * each(cast, x)
    if optics.shadow:
        depth = each(sometimes(rng, n, optics.shadow, 0.2, 0.75), x)
        x = x * (1 - depth * one_side(n, x.shape[2:], rng, x))
    if optics.focus or optics.motion:
        sigma = optics.focus * np.exp(rng.normal(0, optics.focus_spread, n))
        length = optics.motion_length * sometimes(rng, n, optics.motion, 0.15, 1.0)
        # A car shakes up and down less than it goes sideways.
        angle = np.where(rng.random(n) < 0.6, rng.normal(0, 0.4, n), rng.uniform(0, math.pi, n))
        x = smear(x, sigma * side, length * side, angle)
    if optics.haze:
        veil = each(sometimes(rng, n, optics.haze, 0.05, 0.5), x)
        x = x + (x.mean((1, 2, 3), keepdim=True) - x) * veil
    if optics.fog:
        depth = each(sometimes(rng, n, optics.fog, 0.05, 0.8), x)
        depth = (depth * (0.5 + one_side(n, x.shape[2:], rng, x, steepness=0.7))).clamp_max(0.9)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = x + (mean + (1 - mean).clamp_min(0) * each(rng.random(n), x) - x) * depth
    if optics.glare:
        spill = each(sometimes(rng, n, optics.glare, 0.1, 0.7), x)
        x = x + spill * (x - 0.8).clamp_min_(0).mean((1, 2, 3), keepdim=True)
    x = _unsaturated(x)
    if optics.noise:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        grain = torch.randn(x.shape, generator=generator).to(x)
        level = rng.random(n) ** 2
        if optics.grain:
            level = np.where(rng.random(n) < optics.grain, rng.uniform(0, 9, n), level)
        x = x + grain * each(optics.noise * level, x)
    if optics.coarse:
        x = _coarse(x, optics.coarse, rng)
    x = x.clamp_(0, 1).mul_(255).round_().div_(255)
    if optics.encoded:
        chosen = _some(rng, n, optics.encoded, x)
        x[chosen] = _encoded(x[chosen], optics.quality, rng)
    return x


def smear(x: torch.Tensor, sigma: np.ndarray, motion: np.ndarray, angle: np.ndarray) -> torch.Tensor:
    """Each image out of focus by its own ``sigma`` and moved by its own ``motion``, both in pixels.

    The two blurs are exact in the frequencies: a Gaussian's transform is a Gaussian, that of a line a sinc.

    Args:
        x: float (N, C, H, W).
        sigma, motion, angle: (N,); the angle in radians from the horizontal.
    """
    if not len(x):
        # Intel's MKL refuses to transform no images.
        return x
    height, width = x.shape[2:]
    pad = min(height, width) // 6
    padded = F.pad(x, (pad,) * 4, "reflect")
    fy = torch.fft.fftfreq(height + 2 * pad, device=x.device).view(1, 1, -1, 1)
    fx = torch.fft.rfftfreq(width + 2 * pad, device=x.device).view(1, 1, 1, -1)
    passed = torch.exp(each(sigma**2, x) * (-2 * math.pi**2) * (fx**2 + fy**2))
    passed = passed * torch.sinc(each(motion * np.cos(angle), x) * fx + each(motion * np.sin(angle), x) * fy)
    seen = torch.fft.irfft2(torch.fft.rfft2(padded) * passed, padded.shape[2:])
    return seen[..., pad : pad + height, pad : pad + width].clamp_min(0)


def _some(rng: np.random.Generator, n: int, chance: float, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(rng.random(n) < chance)).to(like.device)


def one_side(
    n: int, size: tuple[int, int], rng: np.random.Generator, like: torch.Tensor, steepness: float = 8.0
) -> torch.Tensor:
    """1 on one side of a wavy line through each picture, 0 on the other; float (n, 1, *size).

    Args:
        steepness: from one to the other it goes within 1/(2·steepness) of the side.
    """
    angle, offset = rng.uniform(0, 2 * math.pi, n), rng.uniform(-0.6, 0.6, n)
    waves, often = rng.uniform(0, 0.4, n), rng.uniform(2, 9, n)
    down = torch.linspace(-1, 1, size[0], device=like.device).view(1, 1, -1, 1)
    across = torch.linspace(-1, 1, size[1], device=like.device).view(1, 1, 1, -1)
    sin, cos = each(np.sin(angle), like), each(np.cos(angle), like)
    line = each(offset, like) + each(waves, like) * torch.sin((down * cos - across * sin) * each(often, like))
    return ((across * cos + down * sin - line) * steepness + 0.5).clamp(0, 1)


def _unsaturated(x: torch.Tensor) -> torch.Tensor:
    """However strong the light, a twentieth of a picture stays below white, or nothing would be left to recognise."""
    step = max(1, min(x.shape[2:]) // 8)
    dark = x[:, :, ::step, ::step].flatten(1)
    dark = dark.kthvalue(max(1, dark.shape[1] // 20), 1).values.view(-1, 1, 1, 1)
    return x * (0.84 / dark.clamp_min(1e-6)).clamp_max(1)


def _coarse(x: torch.Tensor, chance: float, rng: np.random.Generator) -> torch.Tensor:
    height, width = x.shape[2:]
    # A batch is resampled in one go, so that it has a few sizes instead of one for each image.
    for share in rng.uniform(0.7, 1.3, 4):
        chosen = _some(rng, len(x), chance / 4, x)
        small = (max(8, round(height * share)), max(8, round(width * share)))
        if len(chosen):
            part = F.interpolate(x[chosen], small, mode="bilinear", antialias=True).clamp(0, 1)
            x[chosen] = F.interpolate(_mosaicked(part), (height, width), mode="bilinear", antialias=True)
    return x


def _mosaicked(x: torch.Tensor) -> torch.Tensor:
    """As a sensor sees it whose pixels know one colour each, in Bayer's pattern: fine lines turn rainbows."""
    known = torch.zeros(1, *x.shape[1:]).to(x)
    known[:, 0, ::2, ::2] = known[:, 1, ::2, 1::2] = known[:, 1, 1::2, ::2] = known[:, 2, 1::2, 1::2] = 1
    spread = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]]).to(x).expand(3, 1, 3, 3)
    return F.conv2d(x * known, spread, padding=1, groups=3) / F.conv2d(known, spread, padding=1, groups=3)


# Annex K of ITU-T T.81: how coarsely JPEG keeps each frequency, of brightness and of colour.
_BRIGHTNESS = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_COLOUR = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


@lru_cache(maxsize=1)
def _jpeg_tables() -> tuple[torch.Tensor, torch.Tensor]:
    """The cosine transform of eight pixels (8, 8), and the steps of the three channels (3, 8, 8) on 0 to 1."""
    k, i = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    cosines = np.cos((2 * i + 1) * k * math.pi / 16) * np.where(k == 0, 0.125**0.5, 0.5)
    steps = np.array([table.split() for table in (_BRIGHTNESS, _COLOUR, _COLOUR)], np.float32).reshape(3, 8, 8) / 255
    return torch.from_numpy(cosines.astype(np.float32)), torch.from_numpy(steps)


def _encoded(x: torch.Tensor, lowest: float, rng: np.random.Generator) -> torch.Tensor:
    """As after JPEG with qualities of ``lowest`` to 90, its colours not thinned out."""
    n, _, height, width = x.shape
    cosines, steps = (table.to(x) for table in _jpeg_tables())
    quality = rng.uniform(lowest, 90, n)
    scale = each(np.where(quality < 50, 50 / quality, 2 - quality / 50), x)[..., None, None]
    to_ycc = _TO_YCC.to(x)
    padded = F.pad(x, (0, -width % 8, 0, -height % 8), "replicate")
    rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
    blocks = torch.einsum("dc,nchw->ndhw", to_ycc, padded).view(n, 3, rows, 8, columns, 8).transpose(3, 4)
    kept = cosines @ (blocks - 0.5) @ cosines.T
    step = steps.view(1, 3, 1, 1, 8, 8) * scale
    blocks = cosines.T @ ((kept / step).round() * step) @ cosines + 0.5
    back = blocks.transpose(3, 4).reshape(n, 3, rows * 8, columns * 8)[..., :height, :width]
    return torch.einsum("cd,ndhw->nchw", torch.linalg.inv(to_ycc), back).clamp(0, 1)
