"""Augmentation of whole batches as tensors on the device: no Python runs once per image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from signsclf.data.optics import Exposures, Optics
from signsclf.recipe import Augment, Flip
from signsclf.training.camera import expose, per_image
from signsclf.training.outliers import NO_CLASS, outliers


@dataclass(frozen=True, kw_only=True)
class AugmentParams:
    """How far each image may be changed, sampled uniformly and independently for each image.

    Attributes:
        rotate: degrees to either side.
        scale: log-uniform zoom by up to this factor either way; 0.1 is 10 %.
        shift: share of the side, either way.
        shear: degrees to either side, horizontally and vertically.
        perspective: how far the plane leans: the depth changes by this share from one edge to the other.
        brightness: shift of the mean, share of full scale, either way.
        contrast: log-uniform factor; 0.3 is 30 %.
        saturation: log-uniform factor of the distance to grey.
        blur: share of the batches that are blurred with a small Gaussian.
        noise: standard deviation of pixel noise, share of full scale.
        cutout: side of a square that half of the images lose to their mean, share of the image's side; 0 is off.
        cover: side at most of a square that half of the images lose to their mean or to any one colour, likewise.
        optics: the camera that looks at the images anew; None is off.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    cover: float = 0.0
    optics: Optics | None = None


_STANDARD_WARP = AugmentParams(rotate=12, scale=0.15, shift=0.08, shear=6, perspective=0.15)
STRENGTHS = {
    Augment.NONE: AugmentParams(),
    Augment.LIGHT: AugmentParams(
        rotate=5, scale=0.05, shift=0.04, shear=3, perspective=0.05, brightness=0.10, contrast=0.15, saturation=0.1
    ),
    Augment.STANDARD: replace(_STANDARD_WARP, brightness=0.20, contrast=0.35, saturation=0.2, blur=0.1),
    Augment.STRONG: AugmentParams(
        rotate=18,
        scale=0.25,
        shift=0.12,
        shear=10,
        perspective=0.25,
        brightness=0.25,
        contrast=0.5,
        saturation=0.4,
        blur=0.2,
        noise=0.03,
        cutout=0.3,
    ),
    Augment.CAMERA: replace(
        _STANDARD_WARP,
        saturation=0.3,
        cutout=0.25,
        optics=Optics(
            exposure=0.4,
            color_cast=(0.06, 0.03, 0.07),
            shadow=0.15,
            haze=0.12,
            glare=0.2,
            blur=0.004,
            blur_spread=0.8,
            motion=0.18,
            motion_length=0.12,
            noise=0.02,
            downscale=0.2,
            jpeg=0.08,
        ),
    ),
}
_CAMERA = STRENGTHS[Augment.CAMERA]
STRENGTHS[Augment.HARSH] = replace(
    _CAMERA,
    cutout=0.0,
    cover=0.5,
    optics=replace(
        _CAMERA.optics,
        exposure=0.7,
        haze=0.0,
        fog=0.2,
        glare=0.25,
        motion=0.25,
        motion_length=0.2,
        grain=0.3,
        jpeg=0.25,
        jpeg_quality=10,
    ),
)


class _Sampler:
    """Samples numbers for each of a batch's ``n`` images, and gives those of the images of ``part``."""

    def __init__(self, rng: np.random.Generator, n: int, part: slice) -> None:
        self.rng, self.n, self.part = rng, n, part

    def uniform(self, low: float, high: float) -> np.ndarray:
        """Sample a number for each image, float64 (N,)."""
        return self.rng.uniform(low, high, self.n)[self.part]

    def points(self) -> np.ndarray:
        """Sample two numbers in 0 to 1 for each image, float64 (2, N, 1)."""
        return self.rng.uniform(0, 1, (2, self.n, 1))[:, self.part]

    def colours(self) -> np.ndarray:
        """Sample three numbers in 0 to 1 for each image, float64 (N, 3)."""
        return self.rng.random((self.n, 3))[self.part]

    def half(self) -> np.ndarray:
        """Choose half of the images, bool (N,)."""
        return self.rng.random(self.n)[self.part] < 0.5


class BatchAugment:
    """Change a float batch: mirror, one warp of rotation, scale, shift, shear and perspective, then light and blur.

    Args:
        strength: how far.
        flip: whether and how images are mirrored.
        mirror_map: for each class index the class of its mirror image, -1 where it may not be mirrored; int64 (C,).
            Needed for `Flip.MAP` only.
        outliers: share of the images to replace by `signsclf.training.outliers.outliers`.
    """

    def __init__(
        self, strength: AugmentParams, flip: Flip, mirror_map: np.ndarray | None = None, outliers: float = 0.0
    ) -> None:
        if flip is Flip.MAP and mirror_map is None:
            raise ValueError("Flip.MAP needs a mirror_map")
        self.strength = strength
        self.flip = flip
        self.outliers = outliers
        self.mirror_map = None if mirror_map is None else torch.from_numpy(np.asarray(mirror_map, np.int64))

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, seed: int, part: slice = slice(None)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment a batch, and its labels where it is mirrored, or where outliers take the place of images.

        Args:
            x: float (N, 3, H, W) in 0 to 1; or, of these, the images of ``part``.
            y: int64 (N,), class indices of the whole batch.
            seed: decides everything that is sampled, on the CPU, so that a GPU sees the same.
            part: images of the batch to augment; each is given the numbers that it has in the whole batch.

        Returns:
            The images of ``part``, and the labels of the whole batch, `NO_CLASS` for outliers.
        """
        s, n = self.strength, len(y)
        rng = np.random.default_rng(seed)
        replaced = np.zeros(n, bool)
        if self.outliers:
            x, replaced = self._with_outliers(x, n, seed, part)
        sampler = _Sampler(rng, n, part)
        mirrored, y = self._mirror(y, rng)
        mirrored = mirrored[part]
        matrix = _homographies(s, mirrored, sampler)
        if mirrored.any() or any((s.rotate, s.scale, s.shift, s.shear, s.perspective)):
            x = _warp(x, matrix)
        x = _light(s, x, sampler)
        if s.blur and rng.random() < s.blur:
            x = _blur(x, rng.uniform(0.4, 1.1))
        if s.noise:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            x = x + s.noise * torch.randn((n, *x.shape[1:]), generator=generator)[part].to(x)
        if s.optics is not None:
            x = expose(x.clamp_min_(0), Exposures.sample(n, s.optics, rng), part)
        if s.cutout:
            x = _cut_out(x, s.cutout, sampler)
        if s.cover:
            x = _covered(x, s.cover, sampler)
        if replaced.any():
            y = y.masked_fill(torch.from_numpy(replaced).to(y.device), NO_CLASS)
        return x.clamp_(0, 1), y

    def _with_outliers(self, x: torch.Tensor, n: int, seed: int, part: slice) -> tuple[torch.Tensor, np.ndarray]:
        """Replace some images by outliers; say which of the whole batch's ``n`` are to be."""
        # Its own numbers, so that the other images are those of a batch without outliers.
        rng = np.random.default_rng((seed, 1))
        replaced = rng.random(n) < self.outliers
        here = np.flatnonzero(replaced[part])
        if len(here):
            mine = np.cumsum(replaced)[part][here] - 1
            x = x.clone()
            x[here] = outliers(x[here], int(replaced.sum()), mine, int(rng.integers(2**62)))
        return x, replaced

    def _mirror(self, y: torch.Tensor, rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor]:
        n = len(y)
        if self.flip is Flip.NEVER:
            return np.zeros(n, bool), y
        half = rng.random(n) < 0.5
        if self.flip is Flip.ALWAYS:
            return half, y
        target = self.mirror_map.to(y.device)[y]
        chosen = torch.from_numpy(half).to(y.device) & (target >= 0)
        return chosen.cpu().numpy(), torch.where(chosen, target, y)


def _homographies(s: AugmentParams, mirrored: np.ndarray, sampler: _Sampler) -> np.ndarray:
    """Sample for each image the 3×3 matrix from output to input coordinates in -1 to 1; float32 (n, 3, 3)."""

    def sample(limit: float) -> np.ndarray:
        return sampler.uniform(-limit, limit)

    angle, zoom = np.radians(sample(s.rotate)), np.exp(sample(math.log1p(s.scale)))
    shear_x, shear_y = np.tan(np.radians(sample(s.shear))), np.tan(np.radians(sample(s.shear)))
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    matrix = np.zeros((len(mirrored), 3, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = cos, -sin + shear_x
    matrix[:, 1, 0], matrix[:, 1, 1] = sin + shear_y, cos
    matrix[:, 0, 2], matrix[:, 1, 2] = 2 * sample(s.shift), 2 * sample(s.shift)
    matrix[:, 2, 0], matrix[:, 2, 1] = sample(s.perspective), sample(s.perspective)
    matrix[:, 2, 2] = 1
    matrix[:, 0, :] *= np.where(mirrored, -1.0, 1.0)[:, None]
    return matrix.astype(np.float32)


def _warp(x: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    n, _, h, w = x.shape
    ys = (torch.arange(h, device=x.device) + 0.5) * (2 / h) - 1
    xs = (torch.arange(w, device=x.device) + 0.5) * (2 / w) - 1
    grid = torch.stack([xs.expand(h, w), ys[:, None].expand(h, w), torch.ones(h, w, device=x.device)], -1)
    projected = grid.reshape(1, h * w, 3) @ torch.from_numpy(matrix).to(x.device).transpose(1, 2)
    flat = projected[..., :2] / projected[..., 2:].clamp_min(0.1)
    return F.grid_sample(x, flat.reshape(n, h, w, 2), "bilinear", padding_mode="reflection", align_corners=False)


def _light(s: AugmentParams, x: torch.Tensor, sampler: _Sampler) -> torch.Tensor:
    if not (s.brightness or s.contrast or s.saturation):
        return x
    n = len(x)

    def factors(limit: float) -> torch.Tensor:
        values = np.exp(sampler.uniform(-math.log1p(limit), math.log1p(limit)))
        return torch.from_numpy(values.astype(np.float32)).to(x.device).view(n, 1, 1, 1)

    contrast, saturation = factors(s.contrast), factors(s.saturation)
    shift = torch.from_numpy(sampler.uniform(-s.brightness, s.brightness).astype(np.float32)).to(x.device)
    mean = x.mean((1, 2, 3), keepdim=True)
    grey = x.mean(1, keepdim=True)
    # Dark signs must not drown in the shift: it is relative to the image's own mean.
    shift = shift.view(n, 1, 1, 1) * (mean + 0.1).clamp_max(1)
    return (grey + (x - grey) * saturation - mean) * contrast + mean + shift


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    taps = torch.arange(-2, 3, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(taps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 5)
    x = F.conv2d(F.pad(x, (2, 2, 0, 0), "reflect"), kernel[:, :, None, :], groups=3)
    return F.conv2d(F.pad(x, (0, 0, 2, 2), "reflect"), kernel[:, :, :, None], groups=3)


def _cut_out(x: torch.Tensor, share: float, sampler: _Sampler) -> torch.Tensor:
    """Replace a square in half of the images by their mean (DeVries and Taylor 2017, arXiv:1708.04552)."""
    hole = _squares(x, np.full(len(x), share), sampler)
    return torch.where(hole, x.mean((1, 2, 3), keepdim=True), x)


def _covered(x: torch.Tensor, share: float, sampler: _Sampler) -> torch.Tensor:
    """Cover images as `_cut_out` does, but with squares from half of that side up, half of them in any colour."""
    hole = _squares(x, sampler.uniform(share / 2, share), sampler)
    coloured = torch.from_numpy(sampler.half()).to(x.device).view(-1, 1, 1, 1)
    colour = per_image(sampler.colours(), x)
    return torch.where(hole, torch.where(coloured, colour, x.mean((1, 2, 3), keepdim=True)), x)


def _squares(x: torch.Tensor, side: np.ndarray, sampler: _Sampler) -> torch.Tensor:
    """Sample a square in half of the images, its middle anywhere, its side a share of theirs; bool (N, 1, H, W)."""
    n, _, h, w = x.shape
    half = per_image(side / 2, x)[..., 0, 0]
    centre = torch.from_numpy(sampler.points().astype(np.float32)).to(x.device)
    used = torch.from_numpy(sampler.half()).to(x.device)
    rows = ((torch.arange(h, device=x.device) + 0.5) / h - centre[0]).abs() < half
    columns = ((torch.arange(w, device=x.device) + 0.5) / w - centre[1]).abs() < half
    return rows[:, None, :, None] & columns[:, None, None, :] & used.view(n, 1, 1, 1)
