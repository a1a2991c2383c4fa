from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from signsclf import images
from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.data.optics import Exposures
from signsclf.data.synthetic import frame
from signsclf.data.synthetic.scene import OPTICS, Scenes, hue_matrices
from signsclf.training.camera import expose
from signsclf.training.synthetic import render_batch, render_scenes

CLASSES = np.arange(len(CLASS_NAMES))


@pytest.mark.parametrize("size", [8, 24, 32])
def test_images_have_the_size_asked_for_and_lie_in_0_to_1(size):
    x = render_batch(CLASSES, size, 0)
    assert x.shape == (43, 3, size, size) and x.dtype == torch.float32
    assert torch.isfinite(x).all() and x.min() >= 0 and x.max() <= 1


def test_the_seed_decides_every_image_and_no_two_are_the_same():
    ids = np.full(12, 14)
    one, two, other = render_batch(ids, 32, 7), render_batch(ids, 32, 7), render_batch(ids, 32, 8)
    assert torch.equal(one, two)
    together = torch.cat([one, other]).flatten(1)
    assert len(together.unique(dim=0)) == 24


def test_a_batch_of_one_and_of_none():
    assert render_batch(np.array([3]), 16, 0).shape == (1, 3, 16, 16)
    assert render_batch(np.array([], int), 16, 0).shape == (0, 3, 16, 16)


def test_light_varies_as_widely_as_on_the_road():
    means = render_batch(np.tile(CLASSES, 6), 16, 1).mean((1, 2, 3))
    dark, middle, bright = np.percentile(means, [5, 50, 95])
    assert dark < 0.15 and 0.2 < middle < 0.45 and bright > 0.55


@pytest.mark.parametrize(
    "alike",
    [
        [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16],
        [6, 32, 41, 42],
        [11, *range(18, 32)],
        [33, 34, 35, 36, 37, 38, 39, 40],
        [12, 13, 14, 17],
    ],
)
def test_what_tells_a_class_from_its_likes_is_seldom_lost(alike):
    """Where one sign is put in another's place and all else stays, most pictures change visibly."""
    told = []
    for one, other in zip(alike, [*alike[1:], alike[0]], strict=True):
        a, b = (render_batch(np.full(48, class_id), 32, one) for class_id in (one, other))
        told.append(((a - b).abs().flatten(1).amax(1) * 255 >= 8).float().mean().item())
    assert min(told) > 0.85 and np.mean(told) > 0.93, told


def test_both_renderers_show_the_same_scene():
    seen = []
    for class_id in range(0, 43, 2):
        rng = np.random.default_rng(class_id)
        scene, exposure = Scenes.sample(np.array([class_id]), rng), Exposures.sample(1, OPTICS, rng)
        exposure = replace(exposure, noise=np.zeros(1))
        one = frame.expose(frame.render_scene(scene, 40, 40), exposure) / 255
        batch = expose(render_scenes(scene, 40), exposure)
        seen.append((one, batch[0].permute(1, 2, 0).numpy()))
    ones, batches = (np.array(part) for part in zip(*seen, strict=True))
    apart = np.abs(ones - batches).mean((1, 2, 3))
    assert apart.max() < 0.02 and apart.mean() < 0.01
    assert np.abs(ones - np.roll(batches, 1, 0)).mean() > 0.1


def test_a_turn_of_hue_leaves_greys_and_turns_red_to_orange():
    turn, back = hue_matrices(np.array([0.2, -0.2]))
    assert np.allclose(turn @ [0.4, 0.4, 0.4], 0.4) and np.allclose(turn @ back, np.eye(3))
    red, green, blue = turn @ [0.8, 0.1, 0.1]
    assert red > green > blue


def test_both_renderers_turn_the_hue():
    scene = replace(Scenes.sample(np.array([14]), np.random.default_rng(3)), hue=np.array([0.6]))
    plain = replace(scene, hue=np.zeros(1))
    for alike, other in ((scene, plain), (plain, scene)):
        one = frame.render_scene(alike, 40, 40)
        batches = (render_scenes(s, 40)[0].permute(1, 2, 0).numpy() for s in (alike, other))
        near, far = (np.abs(one - batch).mean() for batch in batches)
        assert near < far / 4


def test_where_foil_is_gone_the_grey_below_it_shows():
    scene = Scenes.sample(np.full(40, 38), np.random.default_rng(0))
    whole = replace(scene, peeling=np.zeros(40), bare=np.full(40, 0.9), cover=np.zeros(40, int))
    before, after = (render_scenes(s, 32) for s in (whole, replace(whole, peeling=np.full(40, 0.4))))
    changed = (before - after).abs().amax(1) > 0.02
    assert 0.02 < changed.float().mean() < 0.3
    blue = before[:, 2] > before[:, 0] * 1.5
    assert (after - before)[:, 0][changed & blue].mean() > 0


def test_a_wide_margin_is_seen_with_few_pixels():
    scene = Scenes.sample(np.full(2000, 5), np.random.default_rng(0))
    pixels = scene.sensor_pixels()
    # Of a sign 15 pixels wide GTSRB shows 25, of one of 50 pixels 60.
    assert pixels[np.abs(scene.margin - 1 / 3).argmin()] == pytest.approx(25, abs=0.5)
    assert pixels[np.abs(scene.margin - 0.1).argmin()] == pytest.approx(60, abs=1)
    exposure = Exposures.sample(2000, OPTICS, np.random.default_rng(0), pixels / 32)
    scale = np.ones(2000)
    for how_much, chosen in exposure.downscale:
        scale[chosen] = how_much
    assert (scale[pixels > 1.3 * 32] == 1).all()
    few = pixels < 1.3 * 32
    assert (scale[few] != 1).mean() == pytest.approx(OPTICS.downscale, abs=0.05)
    assert np.corrcoef(scale[few & (scale != 1)], pixels[few & (scale != 1)])[0, 1] > 0.8


@pytest.mark.slow
def test_validation_images_have_the_distribution_of_training_images():
    """Light, contrast and sharpness of frames of every size, squashed as decoding does, and of batches."""
    tracks = [(class_id, track, track % 6, 0) for class_id in CLASSES for track in range(10)]
    frames = [images.resize(Image.fromarray(frame.render_frame(*track)), (40, 40)) for track in tracks]
    one = _statistics(np.array(frames) / 255)
    batch = _statistics(render_batch(np.tile(CLASSES, 20), 40, 1).permute(0, 2, 3, 1).numpy())
    assert np.allclose(one, batch, rtol=0.15), one / batch


def _statistics(x: np.ndarray) -> np.ndarray:
    """Quartiles of mean, of contrast and of the difference of neighbours relative to it, and of colour; (4, 3)."""
    grey, colour = x.mean(3), (x.max(3) - x.min(3)).mean((1, 2))
    contrast = grey.std((1, 2))
    detail = np.abs(np.diff(grey, axis=1)).mean((1, 2)) / (contrast + 0.02)
    return np.percentile([grey.mean((1, 2)), contrast, detail, colour], [25, 50, 75], axis=1).T


def test_frames_of_a_sign_have_the_poses_of_any_scenes():
    rng = np.random.default_rng(0)
    one, other = (Scenes.sample(rng.integers(43, size=4000), rng) for _ in range(2))
    frames = one.passed_by(other)
    for angle in ("yaw", "pitch", "roll"):
        assert getattr(frames, angle).std() == pytest.approx(getattr(one, angle).std(), rel=0.05)
        apart = getattr(frames, angle) - getattr(one, angle)
        assert 0.2 < apart.std() / getattr(one, angle).std() < 0.6
    assert np.array_equal(frames.form, one.form) and np.array_equal(frames.level, one.level)
