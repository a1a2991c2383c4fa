"""Drawn signs by the batch: each one set up anew before its background and seen by the camera, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from signsclf.data.synthetic import backgrounds, render_sign, variants
from signsclf.data.synthetic.camera import seen_from
from signsclf.data.synthetic.signs import CLASSES, outline
from signsclf.training.camera import Optics, each, expose, one_side, sometimes

Edge = float | torch.Tensor
"""A coordinate on the sign's plane, the same for all images or one for each, (N, 1, 1, 1)."""

OPTICS = Optics(
    cast=(0.08, 0.04, 0.10),
    haze=0.18,
    glare=0.3,
    focus=0.007,
    focus_spread=0.9,
    motion=0.25,
    motion_length=0.13,
    noise=0.02,
    coarse=0.45,
    encoded=0.08,
)
"""The camera of drawn signs; the light they stand in is drawn with the sign."""
_FINER = 2
"""Signs are sampled so many times finer than they are shown, then averaged."""
_LARGEST = 512
_PALE = (0.94, 0.87, 0.76)


@dataclass(frozen=True)
class _Stock:
    """What scenes are put together from, on the device.

    Attributes:
        signs: every form of every class, colours times alpha; uint8 (forms, 4, T, T).
        first: of each class the position of its first form.
        forms: of each class how many it has.
        tiles: backgrounds, float in 0 to 1 (3, B, H, W).
        patterns: grey likewise (1, K, H, W).
        edges: points on each class's outline, (C, P, 3), homogeneous.
    """

    signs: torch.Tensor
    first: np.ndarray
    forms: np.ndarray
    tiles: torch.Tensor
    patterns: torch.Tensor
    edges: np.ndarray


@lru_cache(maxsize=2)
def _stock(size: int, device: torch.device) -> _Stock:
    forms = np.array([variants(c) for c in range(CLASSES)])
    drawn = [render_sign(c, size, v).convert("RGBa") for c in range(CLASSES) for v in range(forms[c])]
    edges = np.ones((CLASSES, max(len(outline(c)) for c in range(CLASSES)), 3))
    for c in range(CLASSES):
        # Repeated to one length; for the outermost points it does not matter.
        edges[c, :, :2] = np.resize(outline(c), edges[c, :, :2].shape)
    return _Stock(
        signs=_stacked(drawn).to(device),
        first=np.cumsum(forms) - forms,
        forms=forms,
        tiles=_volume([backgrounds.tile(i) for i in range(backgrounds.TILES)]).to(device),
        patterns=_volume([backgrounds.clouding(i) for i in range(backgrounds.CLOUDINGS)]).to(device),
        edges=edges,
    )


def _stacked(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size as uint8 (N, C, H, W)."""
    stacked = np.stack([np.asarray(p) for p in pictures])
    return torch.from_numpy(stacked.reshape(*stacked.shape[:3], -1)).permute(0, 3, 1, 2).contiguous()


def _volume(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """The layers of one volume, float in 0 to 1 (C, N, H, W); see `_windows`."""
    return _stacked(pictures).float().div_(255).transpose(0, 1).contiguous()


def render_batch(class_ids: np.ndarray, size: int, seed: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """New images of these classes: another seed, other images.

    Args:
        class_ids: the benchmark's ClassIds, 0 to 42, int (N,).
        size: side of the images in pixels.
        seed: decides every draw.

    Returns:
        float (N, 3, size, size), RGB, in 0 to 1, on the device.
    """
    rng = np.random.default_rng(seed)
    n = len(class_ids)
    device = torch.device(device)
    stock = _stock(min(_LARGEST, _FINER * size), device)
    light, other = rng.standard_normal((2, n))
    inverse = _planes(stock.edges[class_ids], rng)
    grid = _grid(inverse, _FINER * size, device)
    # Log-normal, as the centres of GTSRB's images are: one in ten very dark, one in five brighter than can be told.
    level = np.clip(0.58 * np.exp(0.66 * light), 0.06, 2)
    ground_level = np.exp(0.75 * (0.45 * light + 0.9 * other) - 0.45)

    where = F.avg_pool2d(grid.permute(0, 3, 1, 2), _FINER)
    picture = _ground(stock, where, level, ground_level, rng)
    neighbours = np.flatnonzero(rng.random(n) < 0.3)
    if len(neighbours):
        shift = np.where(rng.random(len(neighbours)) < 0.5, 2.12, -2.12).astype(np.float32)
        beside = grid[neighbours].clone()
        beside[..., 1] += torch.from_numpy(shift).to(grid).view(-1, 1, 1)
        forms = rng.integers(len(stock.signs), size=len(neighbours))
        sign = _sampled(stock.signs, forms, beside)
        lit = sign[:, :3] * each(level[neighbours], sign)
        picture[neighbours] = picture[neighbours] * (1 - sign[:, 3:]) + lit
    forms = stock.first[class_ids] + (rng.random(n) * stock.forms[class_ids]).astype(int)
    sign = _sampled(stock.signs, forms, grid)
    picture = picture * (1 - sign[:, 3:]) + _weathered(sign, stock, rng) * each(level, sign)
    picture = _covered(picture, where, stock, level, rng)
    return expose(picture, OPTICS, rng)


def _planes(edges: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The maps from pictures (-1 to 1) to signs' planes (-0.5 to 0.5), (N, 3, 3)."""
    n = len(edges)
    yaw = np.radians(np.clip(rng.normal(0, 19, n), -50, 50))
    pitch, roll = np.radians(rng.normal(0, 8, n)), np.radians(rng.normal(0, 5.5, n))
    seen = seen_from(yaw, pitch, roll)
    points = edges @ seen.transpose(0, 2, 1)
    points = points[..., :2] / points[..., 2:]
    least, most = points.min(1), points.max(1)
    # As GTSRB's boxes have them: 10 % of the sign at least, 16 % in the middle, over 30 % for one in twenty.
    margins = 0.08 + 0.26 * rng.random(n)[:, None] ** 1.6 + rng.normal(0, 0.04, (n, 4))
    span = (most - least) * (1 + margins[:, :2] + margins[:, 2:])
    frame = np.zeros((n, 3, 3))
    frame[:, 0, 0], frame[:, 1, 1], frame[:, 2, 2] = 2 / span[:, 0], 2 / span[:, 1], 1
    frame[:, :2, 2] = (margins[:, :2] * (most - least) - least) * 2 / span - 1
    return np.linalg.inv(frame @ seen)


def _grid(inverse: np.ndarray, size: int, device: torch.device | str) -> torch.Tensor:
    """For each pixel where on the sign it looks, -1 to 1 from edge to edge; float (N, size, size, 2)."""
    inverse = torch.from_numpy(inverse.astype(np.float32)).to(device)
    centres = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
    rows = inverse[:, None, :, 1] * centres.view(1, -1, 1) + inverse[:, None, :, 2]
    points = inverse[:, None, None, :, 0] * centres.view(1, 1, -1, 1) + rows[:, :, None]
    return points[..., :2] * 2 / points[..., 2:].clamp_min(1e-3)


def _sampled(stock: torch.Tensor, chosen: np.ndarray, grid: torch.Tensor) -> torch.Tensor:
    """Pictures of the stock seen through grids, averaged to the size that is shown; in 0 to 1."""
    pictures = stock[torch.from_numpy(chosen).to(stock.device)].float().div_(255)
    seen = F.grid_sample(pictures, grid, "bilinear", padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(seen, _FINER)


def _windows(
    stock: torch.Tensor, n: int, size: int, least: float, most: float, rng: np.random.Generator, like: torch.Tensor
) -> torch.Tensor:
    """``n`` windows of pictures of the stock (C, K, H, W), their sides a share of the picture's; (n, C, size, size)."""
    side = rng.uniform(least, most, n)
    middle = rng.uniform(-1, 1, (2, n)) * (1 - side)
    which = (2 * rng.integers(stock.shape[1], size=n) + 1) / stock.shape[1] - 1
    centres = (torch.arange(size, device=like.device) + 0.5) * (2 / size) - 1
    flip = np.where(rng.random(n) < 0.5, side, -side)
    x = centres.view(1, 1, -1, 1) * each(flip, like) + each(middle[0], like)
    y = centres.view(1, -1, 1, 1) * each(side, like) + each(middle[1], like)
    grid = torch.cat([t.expand(n, size, size, 1) for t in (x, y, each(which, like))], -1)
    # The stock as one volume, looked at exactly in its layers: no picture has to be copied whole.
    seen = F.grid_sample(stock[None], grid[None], "bilinear", padding_mode="border", align_corners=False)
    return seen[0].transpose(0, 1)


def _box(where: torch.Tensor, left: Edge, top: Edge, right: Edge, bottom: Edge) -> torch.Tensor:
    """Where a pixel looks into an upright box of the sign's plane: 1 inside, 0 outside, soft at the edges."""
    size = where.shape[-1]
    u, v = where[:, :1], where[:, 1:]
    inside = torch.minimum(torch.minimum(u - left, right - u), torch.minimum(v - top, bottom - v))
    return (inside * (size / 3) + 0.5).clamp(0, 1)


def _ground(
    stock: _Stock, where: torch.Tensor, level: np.ndarray, ground_level: np.ndarray, rng: np.random.Generator
) -> torch.Tensor:
    """Background, pole, board and plate, in their light.

    Args:
        where: for each pixel where on the sign's plane it looks, (N, 2, S, S).
        level, ground_level: light on the signs and on what is behind them, (N,).
    """
    n, size = len(where), where.shape[-1]
    picture = _windows(stock.tiles, n, size, 0.25, 1.0, rng, where)
    # Sky over trees, a wall in the sun beside one in the shade.
    step = each(np.exp(rng.normal(0, 1.0, n) * (rng.random(n) < 0.6)), where) - 1
    picture = picture * (1 + step * one_side(n, (size, size), rng, where))
    mean = picture.mean((2, 3), keepdim=True)
    picture = (mean + (picture - mean) * each(rng.uniform(0.8, 2.2, n), where)).clamp_min(0)
    picture = picture * each(ground_level, where)
    metal = each(rng.uniform(0.15, 0.75, n) * ground_level, where)
    half = each(sometimes(rng, n, 0.75, 0.08, 0.22), where)
    up = each(np.where(rng.random(n) < 0.8, -0.6, -3), where)
    pole = _box(where, -half, up, half, 9.0) * (half > 0)
    picture = picture + (metal * (1 - 0.5 * (where[:, :1] > half / 3).float()) - picture) * pole
    # Some signs are mounted on a board.
    has_board = each(rng.random(n) < 0.07, where)
    reach = each(rng.uniform(1.05, 1.4, n), where)
    board = each(level * rng.uniform(0.3, 0.95, n), where)
    picture = picture + (board - picture) * _box(where, -reach, -reach, reach, reach) * has_board
    has_plate = each(rng.random(n) < 0.25, where)
    white = each(0.92 * level, where)
    plate = _box(where, -0.84, 1.04, 0.84, 1.8) * has_plate
    text = _box(where, -0.56, 1.28, 0.56, 1.48) * 0.75
    return picture + (white * (1 - text) - picture) * plate


def _weathered(sign: torch.Tensor, stock: _Stock, rng: np.random.Generator) -> torch.Tensor:
    """The signs' colours after years of sun and dirt, and under today's shadows."""
    n, size = len(sign), sign.shape[-1]
    colours, alpha = sign[:, :3], sign[:, 3:]
    # Sun bleaches the red foils most, the blue ones less, and hardly the black.
    fading = each(sometimes(rng, n, 0.25, 0.1, 1.0) ** 1.5, sign)
    vivid = ((colours.amax(1, keepdim=True) - colours.amin(1, keepdim=True)) * 1.5).clamp_max(1)
    share = torch.where(colours[:, 2:] > colours[:, :1], 0.4, 0.75) * vivid * fading
    pale = torch.tensor(_PALE).to(sign).view(1, 3, 1, 1)
    colours = colours + (pale * alpha - colours) * share
    grey = (colours * torch.tensor([0.30, 0.59, 0.11]).to(sign).view(1, 3, 1, 1)).sum(1, keepdim=True)
    colours = grey + (colours - grey) * each(rng.uniform(0.55, 1.1, n), sign)
    dirt = each(sometimes(rng, n, 0.35, 0.1, 0.6), sign)
    shadow = each(sometimes(rng, n, 0.15, 0.2, 0.7), sign)
    edge = ((_windows(stock.patterns, n, size, 0.3, 0.8, rng, sign) - 0.5) * 4 + 0.5).clamp(0, 1)
    return colours * (1 - dirt * _windows(stock.patterns, n, size, 0.3, 0.8, rng, sign)) * (1 - shadow * edge)


def _covered(
    picture: torch.Tensor, where: torch.Tensor, stock: _Stock, level: np.ndarray, rng: np.random.Generator
) -> torch.Tensor:
    """Stickers, twigs and leaves in front of some of the signs."""
    n, size = len(picture), picture.shape[-1]
    x, y = each(rng.uniform(-0.9, 0.9, n), where), each(rng.uniform(-0.9, 0.9, n), where)
    kind = rng.random(n)
    width, height = each(rng.uniform(0.1, 0.28, n), where), each(rng.uniform(0.1, 0.24, n), where)
    sticker = _box(where, x - width, y - height, x + width, y + height) * each(kind < 0.05, where)
    slope, pen = each(rng.normal(0, 1, n), where), each(rng.uniform(0.02, 0.06, n), where)
    off = ((where[:, 1:] - y) - slope * (where[:, :1] - x)).abs() / (1 + slope**2).sqrt()
    twig = ((pen - off) * (size / 3) + 0.5).clamp(0, 1) * each((kind > 0.05) & (kind < 0.10), where)
    near = (1.2 - ((where[:, :1] - x) ** 2 + (where[:, 1:] - y) ** 2).sqrt() * 1.6).clamp(0, 1)
    leaves = ((_windows(stock.patterns, n, size, 0.4, 1.0, rng, where) + near * 0.6 - 0.95) * 6).clamp(0, 1)
    leaves = leaves * near * each((kind > 0.10) & (kind < 0.15), where)
    colour = np.where((kind < 0.05)[:, None], rng.uniform(0, 1, (n, 3)), (0.2, 0.3, 0.12))
    share = torch.maximum(torch.maximum(sticker, twig), leaves)
    return picture + (each(colour * level[:, None], picture) - picture) * share
