from __future__ import annotations

import numpy as np
import pytest
import torch

from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.training.drawn import render_batch

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
