"""Rendered signs by the batch: each in a new scene, seen by the camera, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from signsclf.data.optics import Exposures
from signsclf.data.synthetic import backgrounds, render_sign
from signsclf.data.synthetic import scene as scenery
from signsclf.data.synthetic.scene import FORMS, OPTICS, Scenes, Windows, hue_matrices
from signsclf.training.camera import expose, one_side, per_image

Edge = float | torch.Tensor
"""A coordinate on the sign's plane, the same for all images or one for each, (N, 1, 1, 1)."""

_FINER = 2
"""Signs are sampled so many times finer than they are shown, then averaged."""
_LARGEST = 512
_COVERS = (scenery.STICKER, scenery.TWIG, scenery.LEAVES)


@dataclass(frozen=True, kw_only=True)
class _Stock:
    """What scenes are put together from, on the device.

    Attributes:
        signs: every form of every class in the order of `FORMS`, colours times alpha; uint8 (forms, 4, T, T).
        tiles: backgrounds, float in 0 to 1 (3, B, H, W).
        patterns: grey likewise (1, K, H, W).
    """

    signs: torch.Tensor
    tiles: torch.Tensor
    patterns: torch.Tensor


@lru_cache(maxsize=2)
def _stock(size: int, device: torch.device) -> _Stock:
    return _Stock(
        signs=_stacked([render_sign(c, size, v).convert("RGBa") for c, v in FORMS]).to(device),
        tiles=_volume([backgrounds.tile(i) for i in range(backgrounds.TILES)]).to(device),
        patterns=_volume([backgrounds.clouding(i) for i in range(backgrounds.CLOUDINGS)]).to(device),
    )


def _stacked(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Stack pictures of one size as uint8 (N, C, H, W)."""
    stacked = np.stack([np.asarray(p) for p in pictures])
    return torch.from_numpy(stacked.reshape(*stacked.shape[:3], -1)).permute(0, 3, 1, 2).contiguous()


def _volume(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Stack pictures as the layers of one volume, float in 0 to 1 (C, N, H, W); see `_windows`."""
    return _stacked(pictures).float().div_(255).transpose(0, 1).contiguous()


def render_batch(class_ids: np.ndarray, size: int, seed: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Render new images of these classes: another seed, other images.

    Args:
        class_ids: the benchmark's ClassIds, 0 to 42, int (N,).
        size: side of the images in pixels.
        seed: decides every scene and exposure.

    Returns:
        float (N, 3, size, size), RGB, in 0 to 1, on the device.
    """
    rng = np.random.default_rng(seed)
    scenes = Scenes.sample(class_ids, rng)
    exposures = Exposures.sample(len(class_ids), OPTICS, rng, scenes.sensor_pixels() / size)
    return expose(render_scenes(scenes, size, device), exposures)


def render_scenes(scenes: Scenes, size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Render scenes as light, before a camera: float (N, 3, size, size), RGB, where 1 saturates the sensor."""
    device = torch.device(device)
    stock = _stock(min(_LARGEST, _FINER * size), device)
    grid = _grid(scenes.views()[0], _FINER * size, device)
    where = F.avg_pool2d(grid.permute(0, 3, 1, 2), _FINER)
    picture = _background(scenes, stock, where)
    rows = np.flatnonzero(scenes.neighbour >= 0)
    if len(rows):
        shifted = grid[rows].clone()
        shift = scenes.neighbour_shift[rows].astype(np.float32)
        shifted[..., 1] += torch.from_numpy(shift).to(grid).view(-1, 1, 1)
        sign = _sampled(stock.signs, scenes.neighbour[rows], shifted)
        lit = sign[:, :3] * per_image(scenes.level[rows], sign)
        picture[rows] = picture[rows] * (1 - sign[:, 3:]) + lit
    sign = _sampled(stock.signs, scenes.form, grid)
    picture = picture * (1 - sign[:, 3:]) + _weathered(scenes, stock, sign) * per_image(scenes.level, sign)
    return _covered(scenes, stock, picture, where)


def _grid(inverse: np.ndarray, size: int, device: torch.device | str) -> torch.Tensor:
    """Tell for each pixel where on the sign it looks, -1 to 1 from edge to edge; float (N, size, size, 2)."""
    inverse = torch.from_numpy(inverse.astype(np.float32)).to(device)
    centres = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
    rows = inverse[:, None, :, 1] * centres.view(1, -1, 1) + inverse[:, None, :, 2]
    points = inverse[:, None, None, :, 0] * centres.view(1, 1, -1, 1) + rows[:, :, None]
    return points[..., :2] * 2 / points[..., 2:].clamp_min(1e-3)


def _sampled(stock: torch.Tensor, chosen: np.ndarray, grid: torch.Tensor) -> torch.Tensor:
    """See pictures of the stock through grids, averaged to the size that is shown; in 0 to 1."""
    pictures = stock[torch.from_numpy(chosen).to(stock.device)].float().div_(255)
    seen = F.grid_sample(pictures, grid, "bilinear", padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(seen, _FINER)


def _windows(stock: torch.Tensor, windows: Windows, like: torch.Tensor) -> torch.Tensor:
    """See pictures of the stock (C, K, H, W) through windows; (N, C, size, size)."""
    n, size = len(windows.layer), like.shape[-1]
    layer = (2 * windows.layer + 1) / stock.shape[1] - 1
    centres = (torch.arange(size, device=like.device) + 0.5) * (2 / size) - 1
    across = np.where(windows.mirrored, -windows.side, windows.side)
    x = centres.view(1, 1, -1, 1) * per_image(across, like) + per_image(windows.x, like)
    y = centres.view(1, -1, 1, 1) * per_image(windows.side, like) + per_image(windows.y, like)
    grid = torch.cat([t.expand(n, size, size, 1) for t in (x, y, per_image(layer, like))], -1)
    # The stock as one volume, looked at exactly in its layers: no picture has to be copied whole.
    seen = F.grid_sample(stock[None], grid[None], "bilinear", padding_mode="border", align_corners=False)
    return seen[0].transpose(0, 1)


def _box(where: torch.Tensor, left: Edge, top: Edge, right: Edge, bottom: Edge) -> torch.Tensor:
    """Tell where a pixel looks into an upright box of the sign's plane: 1 inside, 0 outside, soft at the edges."""
    size = where.shape[-1]
    u, v = where[:, :1], where[:, 1:]
    inside = torch.minimum(torch.minimum(u - left, right - u), torch.minimum(v - top, bottom - v))
    return (inside * (size / 3) + 0.5).clamp(0, 1)


def _background(scenes: Scenes, stock: _Stock, where: torch.Tensor) -> torch.Tensor:
    """Render background, pole, board and plate, in their light.

    Args:
        where: for each pixel where on the sign's plane it looks, (N, 2, S, S).
    """
    picture = _windows(stock.tiles, scenes.background, where)
    step = per_image(scenes.step, where) - 1
    picture = picture * (1 + step * one_side(scenes.step_edge, where.shape[2:], where))
    mean = picture.mean((2, 3), keepdim=True)
    picture = (mean + (picture - mean) * per_image(scenes.contrast, where)).clamp_min(0)
    picture = picture * per_image(scenes.background_level, where)
    half, top, metal = (per_image(v, where) for v in (scenes.pole, scenes.pole_top, scenes.metal))
    pole = _box(where, -half, top, half, scenery.POLE_BOTTOM) * (half > 0)
    picture = picture + (metal * (1 - 0.5 * (where[:, :1] > half / 3).float()) - picture) * pole
    reach, board = per_image(scenes.board, where), per_image(scenes.board_level, where)
    has_board = per_image(scenes.has_board, where)
    picture = picture + (board - picture) * _box(where, -reach, -reach, reach, reach) * has_board
    white = per_image(scenery.PLATE_LEVEL * scenes.level, where)
    plate = _box(where, *scenery.PLATE) * per_image(scenes.has_plate, where)
    text = _box(where, *scenery.PLATE_TEXT) * 0.75
    return picture + (white * (1 - text) - picture) * plate


def _weathered(scenes: Scenes, stock: _Stock, sign: torch.Tensor) -> torch.Tensor:
    """Show the signs' colours after years of sun and dirt, and under today's shadows."""
    colours, alpha = sign[:, :3], sign[:, 3:]
    vivid = ((colours.amax(1, keepdim=True) - colours.amin(1, keepdim=True)) * 1.5).clamp_max(1)
    bleached = torch.where(colours[:, 2:] > colours[:, :1], scenery.BLEACHED_BLUE, scenery.BLEACHED)
    share = bleached * vivid * per_image(scenes.fading, sign)
    pale = torch.tensor(scenery.PALE).to(sign).view(1, 3, 1, 1)
    colours = colours + (pale * alpha - colours) * share
    turned = torch.from_numpy(hue_matrices(scenes.hue).astype(np.float32)).to(sign)
    colours = torch.einsum("nij,njhw->nihw", turned, colours).clamp_min(0)
    grey = (colours * torch.tensor(scenery.LUMA).to(sign).view(1, 3, 1, 1)).sum(1, keepdim=True)
    colours = grey + (colours - grey) * per_image(scenes.saturation, sign)
    peeling = _windows(stock.patterns, scenes.peeling_pattern, sign) - (1 - per_image(scenes.peeling, sign))
    colours = colours + (per_image(scenes.bare, sign) * alpha - colours) * (peeling * scenery.PEELED_EDGE).clamp(0, 1)
    dirt, shadow = per_image(scenes.dirt, sign), per_image(scenes.shadow, sign)
    edge = ((_windows(stock.patterns, scenes.shadow_pattern, sign) - 0.5) * 4 + 0.5).clamp(0, 1)
    return colours * (1 - dirt * _windows(stock.patterns, scenes.dirt_pattern, sign)) * (1 - shadow * edge)


def _covered(scenes: Scenes, stock: _Stock, picture: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Put stickers, twigs and leaves in front of some of the signs."""
    size = picture.shape[-1]
    x, y = per_image(scenes.cover_x, where), per_image(scenes.cover_y, where)
    width, height = per_image(scenes.sticker_width, where), per_image(scenes.sticker_height, where)
    is_sticker, is_twig, is_leaves = (per_image(scenes.cover == kind, where) for kind in _COVERS)
    sticker = _box(where, x - width, y - height, x + width, y + height) * is_sticker
    slope, pen = per_image(scenes.twig_slope, where), per_image(scenes.twig_width, where)
    off = ((where[:, 1:] - y) - slope * (where[:, :1] - x)).abs() / (1 + slope**2).sqrt()
    twig = ((pen - off) * (size / 3) + 0.5).clamp(0, 1) * is_twig
    near = (1.2 - ((where[:, :1] - x) ** 2 + (where[:, 1:] - y) ** 2).sqrt() * 1.6).clamp(0, 1)
    leaves = ((_windows(stock.patterns, scenes.leaf_pattern, where) + near * 0.6 - 0.95) * 6).clamp(0, 1)
    leaves = leaves * near * is_leaves
    share = torch.maximum(torch.maximum(sticker, twig), leaves)
    return picture + (per_image(scenes.cover_color * scenes.level[:, None], picture) - picture) * share
