"""The camera on tensors: what light, lens, sensor and encoder make of a batch, sampled for each image on its own."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from signsclf.data.optics import Exposures, WavyLines


def per_image(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Shape a number, or a few channels, for each image to a batch: (N,) or (N, C) to float (N, C or 1, 1, 1)."""
    values = np.asarray(values, np.float32)
    return torch.from_numpy(values.reshape(*values.shape[:1], *values.shape[1:] or (1,), 1, 1)).to(like)


def expose(x: torch.Tensor, exposures: Exposures, part: slice = slice(None)) -> torch.Tensor:
    """Turn light into images.

    Args:
        x: float (N, 3, H, W), at least 0; from 1 on the sensor is saturated. It may be written to.
        exposures: of the images, or of a batch of which they are the ``part``.

    Returns:
        float (N, 3, H, W) in 0 to 1, in steps of 1/255 as a sensor gives them.
    """
    e, side = exposures.take(part), max(x.shape[2:])
    x = x * per_image(e.gain, x)
    if e.shadow is not None:
        x = x * (1 - per_image(e.shadow, x) * one_side(e.shadow_edge, x.shape[2:], x))
    if e.blur is not None:
        x = blur(x, e.blur * side, e.motion * side, e.motion_angle)
    if e.haze is not None:
        x = x + (x.mean((1, 2, 3), keepdim=True) - x) * per_image(e.haze, x)
    if e.fog is not None:
        depth = per_image(e.fog, x)
        depth = (depth * (0.5 + one_side(e.fog_edge, x.shape[2:], x, steepness=0.7))).clamp_max(0.9)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = x + (mean + (1 - mean).clamp_min(0) * per_image(e.fog_light, x) - x) * depth
    if e.glare is not None:
        x = x + per_image(e.glare, x) * (x - 0.8).clamp_min_(0).mean((1, 2, 3), keepdim=True)
    x = _limit_saturation(x)
    if e.noise is not None:
        generator = torch.Generator().manual_seed(e.noise_seed)
        noise = torch.randn((len(exposures.gain), *x.shape[1:]), generator=generator)[part]
        x = x + noise.to(x) * per_image(e.noise, x)
    for scale, chosen in e.downscale:
        if chosen.any():
            rows = _rows(chosen, x)
            x[rows] = _downscale(x[rows], scale)
    x = x.clamp_(0, 1).mul_(255).round_().div_(255)
    if e.jpeg_quality is not None:
        chosen = np.isfinite(e.jpeg_quality)
        rows = _rows(chosen, x)
        x[rows] = _jpeg(x[rows], e.jpeg_quality[chosen])
    return x


def blur(x: torch.Tensor, sigma: np.ndarray, motion: np.ndarray, angle: np.ndarray) -> torch.Tensor:
    """Blur each image by a lens out of focus by ``sigma`` and by a motion during the exposure, both in pixels.

    Both blurs are exact in the frequency domain: a Gaussian's transform is a Gaussian, that of a line a sinc.

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
    passed = torch.exp(per_image(sigma**2, x) * (-2 * math.pi**2) * (fx**2 + fy**2))
    passed = passed * torch.sinc(per_image(motion * np.cos(angle), x) * fx + per_image(motion * np.sin(angle), x) * fy)
    blurred = torch.fft.irfft2(torch.fft.rfft2(padded) * passed, padded.shape[2:])
    return blurred[..., pad : pad + height, pad : pad + width].clamp_min(0)


def one_side(lines: WavyLines, size: tuple[int, int], like: torch.Tensor, steepness: float = 8.0) -> torch.Tensor:
    """Mark one side of each image's line with 1, the other with 0; float (N, 1, *size).

    Args:
        steepness: the change from one to the other takes 1/(2·steepness) of the side.
    """
    down = torch.linspace(-1, 1, size[0], device=like.device).view(1, 1, -1, 1)
    across = torch.linspace(-1, 1, size[1], device=like.device).view(1, 1, 1, -1)
    sin, cos = per_image(np.sin(lines.angle), like), per_image(np.cos(lines.angle), like)
    waves = torch.sin((down * cos - across * sin) * per_image(lines.frequency, like))
    line = per_image(lines.offset, like) + per_image(lines.amplitude, like) * waves
    return ((across * cos + down * sin - line) * steepness + 0.5).clamp(0, 1)


def _rows(chosen: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(chosen)).to(like.device)


def _limit_saturation(x: torch.Tensor) -> torch.Tensor:
    """Keep a twentieth of each image below white however strong the light, so that something can be recognised."""
    step = max(1, min(x.shape[2:]) // 8)
    dark = x[:, :, ::step, ::step].flatten(1)
    dark = dark.kthvalue(max(1, dark.shape[1] // 20), 1).values.view(-1, 1, 1, 1)
    return x * (0.84 / dark.clamp_min(1e-6)).clamp_max(1)


def _downscale(x: torch.Tensor, scale: float) -> torch.Tensor:
    """Show images as a sensor with ``scale`` times as many pixels a side sees them."""
    height, width = x.shape[2:]
    small = (max(8, round(height * scale)), max(8, round(width * scale)))
    seen = F.interpolate(x, small, mode="bilinear", antialias=True).clamp(0, 1)
    return F.interpolate(_mosaic(seen), (height, width), mode="bilinear", antialias=True)


def _mosaic(x: torch.Tensor) -> torch.Tensor:
    """Show images as a sensor sees them whose pixels know one colour each, in Bayer's pattern."""
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


def _jpeg(x: torch.Tensor, quality: np.ndarray) -> torch.Tensor:
    """Compress and decompress images as JPEG does with these qualities (N,), without subsampling of colours."""
    n, _, height, width = x.shape
    cosines, steps = (table.to(x) for table in _jpeg_tables())
    scale = per_image(np.where(quality < 50, 50 / quality, 2 - quality / 50), x)[..., None, None]
    to_ycc = _TO_YCC.to(x)
    padded = F.pad(x, (0, -width % 8, 0, -height % 8), "replicate")
    rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
    blocks = torch.einsum("dc,nchw->ndhw", to_ycc, padded).view(n, 3, rows, 8, columns, 8).transpose(3, 4)
    kept = cosines @ (blocks - 0.5) @ cosines.T
    step = steps.view(1, 3, 1, 1, 8, 8) * scale
    blocks = cosines.T @ ((kept / step).round() * step) @ cosines + 0.5
    back = blocks.transpose(3, 4).reshape(n, 3, rows * 8, columns * 8)[..., :height, :width]
    return torch.einsum("cd,ndhw->nchw", torch.linalg.inv(to_ycc), back).clamp(0, 1)
