from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinysource import Watched

from signsclf.metrics import robustness
from signsclf.metrics.robustness import CORRUPTIONS, STRENGTHS, corrupt, measure, sample

STRENGTH = range(1, STRENGTHS + 1)


def pictures(n: int = 24, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth blobs with an edge, of all brightnesses: what a camera sees, and no mere noise."""
    random = np.random.default_rng(seed)
    ys, xs = np.mgrid[:height, :width] / max(height, width)
    waves = random.uniform(2, 9, (n, 1, 1, 3)) * xs[..., None] + random.uniform(2, 9, (n, 1, 1, 3)) * ys[..., None]
    images = 110 + 70 * np.sin(waves + random.uniform(0, 6, (n, 1, 1, 3)))
    images[:, height // 4 : -height // 4, width // 4 : width // 2] += 60
    return np.clip(images, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
class TestEachCorruption:
    def test_gives_images_of_the_same_kind_and_leaves_the_given_ones_alone(self, name):
        images = pictures(5, 20, 28)
        before = images.copy()
        for strength in STRENGTH:
            found = corrupt(images, name, strength)
            assert found.dtype == np.uint8
            assert found.shape == images.shape
        np.testing.assert_array_equal(images, before)

    def test_is_the_same_for_the_same_seed(self, name):
        images = pictures()
        np.testing.assert_array_equal(corrupt(images, name, 3, seed=4), corrupt(images, name, 3, seed=4))

    def test_changes_the_more_the_stronger(self, name):
        images = pictures()
        distance = [np.abs(corrupt(images, name, k).astype(int) - images).mean() for k in STRENGTH]
        assert distance[0] > 0.3
        assert all(weak < strong for weak, strong in itertools.pairwise(distance)), distance

    def test_does_not_depend_on_the_images_that_come_after(self, name):
        images = pictures(robustness._CHUNK + 9)
        whole = corrupt(images, name, 2)
        np.testing.assert_array_equal(whole[: robustness._CHUNK], corrupt(images[: robustness._CHUNK], name, 2))

    @settings(max_examples=10, deadline=None)
    @given(st.integers(8, 40), st.integers(8, 40), st.integers(1, STRENGTHS), st.sampled_from([0, 255]))
    def test_takes_any_shape_and_the_extremes(self, name, height, width, strength, level):
        images = np.full((2, height, width, 3), level, np.uint8)
        assert corrupt(images, name, strength).shape == images.shape


@pytest.mark.parametrize("name", ["noise", "motion blur", "fog", "partial cover", "rotation"])
def test_what_is_random_differs_by_seed_and_by_image(name):
    same = np.repeat(pictures(1), 12, axis=0)
    found = corrupt(same, name, 4, seed=1)
    assert (found != corrupt(same, name, 4, seed=2)).any()
    assert any((found[0] != other).any() for other in found[1:])


def test_plain_images_stay_plain_under_blur_and_keep_their_mean():
    plain = np.full((2, 16, 16, 3), 77, np.uint8)
    for name in ("blur", "motion blur", "contrast", "pixelation", "rotation"):
        np.testing.assert_array_equal(corrupt(plain, name, 5), plain, err_msg=name)


def test_cover_hides_the_area_that_it_says_where_it_lies_inside():
    black = np.zeros((400, 40, 40, 3), np.uint8)
    hidden = (corrupt(black, "partial cover", 5) != 0).any(axis=3).mean(axis=(1, 2))
    assert hidden.max() == pytest.approx(CORRUPTIONS["partial cover"][1][4], abs=0.03)


@pytest.mark.parametrize(("name", "strength"), [("rain", 1), ("fog", 0), ("fog", 6)])
def test_refuses_what_there_is_not(name, strength):
    with pytest.raises(ValueError, match="partial cover"):
        corrupt(pictures(1), name, strength)


def test_refuses_floats():
    with pytest.raises(ValueError, match="uint8"):
        corrupt(pictures(1).astype(np.float32), "fog", 1)


class TestMeasure:
    def brightness(self, pixels: np.ndarray) -> np.ndarray:
        """Class 1 is bright: darkness and over-exposure fool it, rotation does not."""
        bright = pixels.mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - bright, bright], axis=1)

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        targets = np.arange(40) % 2
        return np.where(targets, 190, 70).astype(np.uint8)[:, None, None, None] + pictures(40) // 16, targets

    def test_finds_what_fools_a_classifier_and_what_does_not(self):
        pixels, targets = self.images()
        found = measure(pixels, targets, np.arange(40), self.brightness)
        assert found.clean == 1
        assert found.accuracy["rotation"] == (1.0,) * STRENGTHS
        assert found.accuracy["darkness"][-1] == 0.5
        assert found.mean == pytest.approx(np.mean([found.accuracy[name] for name in CORRUPTIONS]))
        low, high = found.interval
        assert low <= found.mean <= high

    def test_is_the_same_for_the_same_seed_and_tells_how_far_it_is(self):
        pixels, targets = self.images()
        watched = Watched()
        first = measure(pixels, targets, np.arange(40), self.brightness, 5, watched)
        assert first == measure(pixels, targets, np.arange(40), self.brightness, 5)
        assert watched.progressed[-1] == ("corrupting", 55 * 40, 55 * 40)
        assert set(first.to_dict()["accuracy"]) == set(CORRUPTIONS)


def test_a_sample_is_bounded_without_repeats_and_by_seed():
    assert sample(30, 0).tolist() == list(range(30))
    found = sample(robustness.SAMPLE + 500, 1)
    assert len(set(found.tolist())) == robustness.SAMPLE
    assert (found != sample(robustness.SAMPLE + 500, 2)).any()
