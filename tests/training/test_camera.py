from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from signsclf.data.optics import Exposures, Optics, WavyLines
from signsclf.training.camera import blur, expose, one_side

EVERYTHING = Optics(
    exposure=0.5,
    color_cast=(0.1, 0.1, 0.1),
    shadow=0.5,
    haze=0.5,
    fog=0.5,
    glare=0.5,
    blur=0.03,
    blur_spread=0.5,
    motion=0.5,
    motion_length=0.2,
    noise=0.05,
    grain=0.5,
    downscale=0.8,
    jpeg=0.5,
)


def pictures(n: int = 6, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(2)) * 1.5


def seen(x: torch.Tensor, optics: Optics, seed: int = 0) -> torch.Tensor:
    return expose(x.clone(), Exposures.sample(len(x), optics, np.random.default_rng(seed)))


@pytest.mark.parametrize("size", [(24, 32), (8, 8), (33, 19)])
@pytest.mark.parametrize("n", [0, 1, 6])
def test_pictures_keep_their_shape_and_lie_in_0_to_1_in_steps_of_a_sensor(n, size):
    out = seen(pictures(n, *size), EVERYTHING)
    assert out.shape == (n, 3, *size)
    assert torch.isfinite(out).all()
    assert n == 0 or (out.min() >= 0 and out.max() <= 1)
    plain = seen(pictures(n, *size), Optics(exposure=0.5)) * 255
    assert torch.allclose(plain, plain.round(), atol=1e-3)


def test_the_seed_decides_every_exposure():
    one, two, other = (seen(pictures(), EVERYTHING, seed) for seed in (4, 4, 5))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_a_camera_without_faults_shows_what_is_there():
    x = pictures().clamp(0.1, 0.8)
    assert (seen(x, Optics()) - x).abs().max() <= 0.5 / 255 + 1e-6


def test_even_the_strongest_light_leaves_something_to_see():
    x = pictures() * 40
    assert (seen(x, EVERYTHING).flatten(1).std(1) > 0.02).all()
    assert (seen(x, Optics()).flatten(1).std(1) > 0.05).all()


@pytest.mark.parametrize("field", ["exposure", "shadow", "haze", "fog", "blur", "noise", "downscale", "jpeg"])
def test_each_fault_changes_the_pictures(field):
    x = pictures().clamp(0, 0.9)
    value = {"shadow": 1.0, "haze": 1.0, "fog": 1.0, "downscale": 1.0, "jpeg": 1.0}.get(field, 0.1)
    assert (seen(x, Optics(**{field: value})) - seen(x, Optics())).abs().amax((1, 2, 3)).max() > 0.02


def test_a_blur_spreads_light_and_loses_none():
    spot = torch.zeros(3, 3, 31, 31)
    spot[:, :, 15, 15] = 1
    out = blur(spot, np.array([1.0, 1.5, 2.5]), np.zeros(3), np.zeros(3))
    assert torch.allclose(out.sum((2, 3)), torch.ones(3, 3), atol=0.03)
    ys = torch.arange(31.0) - 15
    spread = (out.sum(3)[:, 0] * ys**2).sum(1).sqrt()
    assert torch.allclose(spread, torch.tensor([1.0, 1.5, 2.5]), atol=0.1)


def test_motion_blurs_along_its_direction_only():
    spot = torch.zeros(2, 1, 31, 31)
    spot[:, :, 15, 15] = 1
    across, down = blur(spot, np.full(2, 0.6), np.full(2, 8.0), np.array([0, math.pi / 2]))[:, 0]
    assert torch.allclose(across, down.T, atol=1e-4)
    assert (across[15, 11:20] > 0.03).all()
    assert across[11].max() < 0.01


def test_a_shadow_has_two_sides():
    mask = one_side(WavyLines.sample(40, np.random.default_rng(0)), (20, 30), torch.zeros(1))
    assert mask.shape == (40, 1, 20, 30)
    assert mask.min() == 0 and mask.max() == 1
    assert 0.3 < mask.mean() < 0.7


def test_a_flat_picture_survives_jpeg():
    flat = torch.full((4, 3, 20, 20), 0.4)
    assert (seen(flat, Optics(jpeg=1.0)) - 0.4).abs().max() < 0.03


def test_grain_is_noise_of_up_to_nine_times_the_strength():
    flat = torch.full((400, 3, 16, 16), 0.5)
    fine, some = (seen(flat, Optics(noise=0.01, grain=share)).flatten(1).std(1) for share in (0.0, 0.3))
    assert fine.max() < 0.012
    assert 0.2 < (some > 0.012).float().mean() < 0.35
    assert 0.06 < some.max() < 0.1


def test_fog_is_brighter_than_what_it_hides_and_thicker_on_one_side():
    dark = torch.full((60, 3, 32, 32), 0.1)
    out = seen(dark, Optics(fog=1.0))
    assert out.min() >= 0.1 - 1 / 255
    assert out.mean() > 0.15
    halves = [half.mean((1, 2, 3)) for axis in (2, 3) for half in out.split(16, axis)]
    assert max((halves[0] - halves[1]).abs().max(), (halves[2] - halves[3]).abs().max()) > 0.1


def test_a_lower_quality_leaves_more_marks():
    x = pictures(40).clamp(0, 1)
    high, low = ((seen(x, Optics(jpeg=1.0, jpeg_quality=q)) - x).abs().mean() for q in (89, 1))
    assert low > 2 * high
