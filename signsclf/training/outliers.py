"""Images of nothing that is a class: parts of images, images cut up and shuffled, and textures.

A network that is taught to fit them to no class is unsure of most out-of-distribution images (outlier exposure:
Hendrycks, Mazeika and Dietterich 2019, arXiv:1812.04606; here they are made, where the paper takes other photographs).
For classes that are told by the whole of one object, such as signs: a shuffled texture is the same one.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

NO_CLASS = -1
"""Target of an outlier; its loss is the cross-entropy with all classes alike."""

_PIECES = (2, 4)
"""Pieces a side that an image is cut into."""
_WINDOW, _SHUFFLED, _TEXTURE = range(3)
_PATCHES, _SHAPES = 4, 3


def outliers(x: torch.Tensor, n: int, mine: np.ndarray, seed: int) -> torch.Tensor:
    """Make outliers of images, in even shares of each kind.

    Args:
        x: float (N, 3, side, side) in 0 to 1; it is written to.
        n: outliers of the whole batch.
        mine: which of those ``n`` the images are, int (N,).
        seed: decides everything that is sampled, on the CPU.

    Returns:
        float (N, 3, side, side) in 0 to 1.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    kind = rng.integers(3, size=n)
    half, middle = rng.uniform(0.2, 0.4, n), rng.uniform(-1, 1, (n, 2))
    # At an edge, where there is least of what the image is of.
    middle[np.arange(n), rng.integers(2, size=n)] = rng.choice([-1.0, 1.0], n)
    pieces = rng.choice(_PIECES, n)
    orders = {each: _cycles(n, each**2, rng) for each in _PIECES}
    rows = np.flatnonzero(kind[mine] == _WINDOW)
    if len(rows):
        x[rows] = _windows(x[rows], half[mine[rows]], middle[mine[rows]])
    for each, order in orders.items():
        rows = np.flatnonzero((kind[mine] == _SHUFFLED) & (pieces[mine] == each))
        if len(rows):
            x[rows] = _shuffled(x[rows], each, order[mine[rows]])
    textured = np.flatnonzero(kind == _TEXTURE)
    rows = np.flatnonzero(kind[mine] == _TEXTURE)
    if len(rows):
        made = textures(len(textured), x.shape[-1], generator)
        x[rows] = made[np.searchsorted(textured, mine[rows])].to(x)
    return x


def _cycles(n: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Sample permutations that leave nothing where it was, int (n, length): each is one cycle."""
    cycle = rng.permuted(np.tile(np.arange(length), (n, 1)), axis=1)
    order = np.empty_like(cycle)
    np.put_along_axis(order, cycle, np.roll(cycle, 1, axis=1), axis=1)
    return order


def _windows(x: torch.Tensor, half: np.ndarray, middle: np.ndarray) -> torch.Tensor:
    """Enlarge a window of each image: its half side (N,), and its middle (N, 2) from edge to edge in -1 to 1."""
    matrix = np.zeros((len(x), 2, 3), np.float32)
    matrix[:, 0, 0] = matrix[:, 1, 1] = half
    matrix[:, :, 2] = middle * (1 - half[:, None])
    grid = F.affine_grid(torch.from_numpy(matrix).to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _shuffled(x: torch.Tensor, pieces: int, order: np.ndarray) -> torch.Tensor:
    """Cut images into ``pieces`` a side and put these in another order, int (N, pieces²)."""
    n, channels, height, width = x.shape
    h, w = height // pieces, width // pieces
    cut = x[:, :, : h * pieces, : w * pieces].reshape(n, channels, pieces, h, pieces, w)
    cut = cut.permute(0, 2, 4, 1, 3, 5).reshape(n, pieces**2, channels, h, w)
    cut = cut[torch.arange(n)[:, None], torch.from_numpy(order)]
    cut = cut.reshape(n, pieces, pieces, channels, h, w).permute(0, 3, 1, 4, 2, 5)
    x = x.clone()
    x[:, :, : h * pieces, : w * pieces] = cut.reshape(n, channels, h * pieces, w * pieces)
    return x


def textures(n: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Make pictures of nothing: patches and shapes of coloured noise that cover each other, as leaves on a ground do.

    Natural images are well described by such "dead leaves" (Lee, Mumford and Huang 2001), and networks learn from
    them (Baradad et al. 2021, arXiv:2106.05963).

    Returns:
        float (n, 3, side, side) in 0 to 1.
    """

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator) * (high - low) + low

    def surface() -> torch.Tensor:
        colour = torch.rand(n, 3, 1, 1, generator=generator)
        return colour + _noise(n, side, uniform(0.8, 2.2), generator) * uniform(0, 0.25)

    picture = surface()
    for _ in range(_PATCHES):
        form = _noise(n, side, uniform(1.4, 2.4), generator)[:, :1]
        patch = ((form - uniform(-0.2, 1.4)) * uniform(2, 12) + 0.5).clamp(0, 1)
        picture = torch.lerp(picture, surface(), patch * (uniform(0, 1) < 0.6))
    centres = (torch.arange(side) + 0.5) * (2 / side) - 1
    down, across = centres.view(1, 1, -1, 1), centres.view(1, 1, 1, -1)
    for _ in range(_SHAPES):
        angle, x, y = uniform(0, torch.pi), across - uniform(-1, 1), down - uniform(-1, 1)
        u = (x * angle.cos() + y * angle.sin()) / uniform(0.1, 0.9)
        v = (y * angle.cos() - x * angle.sin()) / uniform(0.1, 0.9)
        # An ellipse, or nearly a rectangle.
        power = torch.where(uniform(0, 1) < 0.5, 2.0, 6.0)
        shape = ((1 - u.abs() ** power - v.abs() ** power) * 4 + 0.5).clamp(0, 1)
        picture = torch.lerp(picture, surface(), shape * (uniform(0, 1) < 0.5))
    grey = picture.mean(1, keepdim=True)
    picture = grey + (picture - grey) * uniform(0, 1) ** 1.5
    return (picture * uniform(0.2, 1.3)).clamp(0, 1)


def _noise(n: int, side: int, slope: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Sample noise whose amplitude falls with frequency to the power of ``slope`` (n, 1, 1, 1), as in photographs.

    Returns:
        float (n, 3, side, side), of mean 0 and deviation 1 in each image; its colours go together more or less.
    """
    frequency = (torch.fft.fftfreq(side).view(-1, 1) ** 2 + torch.fft.rfftfreq(side).view(1, -1) ** 2).sqrt()
    frequency[0, 0] = torch.inf
    white = torch.randn(n, 3, side, side, generator=generator)
    coloured = torch.fft.irfft2(torch.fft.rfft2(white) * frequency**-slope, (side, side))
    coloured = coloured / coloured.std((2, 3), keepdim=True)
    mixed = torch.eye(3) + 0.3 * torch.randn(n, 3, 3, generator=generator)
    mixed = mixed + 2 * torch.rand(n, 1, 1, generator=generator)
    coloured = torch.einsum("nij,njhw->nihw", mixed, coloured)
    return coloured / coloured.std((1, 2, 3), keepdim=True)
