from __future__ import annotations

import numpy as np
import pytest
import torch

from signsclf.recipe import Augment, Flip
from signsclf.training.augment import STRENGTHS, AugmentParams, BatchAugment

MAP = np.array([1, 0, 2, -1])
"""Class 0 and 1 swap when mirrored, 2 is its own mirror image, 3 may not be mirrored."""


def arrow(points_right: bool) -> torch.Tensor:
    """A white triangle on black, 24 px, its tip to one side: (3, 24, 24)."""
    picture = torch.zeros(3, 24, 24)
    for column in range(4, 20):
        half = (20 - column) // 2
        picture[:, 12 - half : 12 + half, column] = 1
    return picture if points_right else picture.flip(-1)


def arrows(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Right arrows of class 0, left ones of class 1."""
    y = torch.arange(n) % 2
    return torch.stack([arrow(label == 0) for label in y]), y


def noise(n: int = 16, size: int = 24) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", Augment)
@pytest.mark.parametrize("flip", Flip)
def test_seed_decides_everything_and_the_range_holds(kind, flip):
    augment = BatchAugment(STRENGTHS[kind], flip, MAP)
    y = torch.arange(16) % 4
    for seed in range(8):
        one, labels = augment(noise(), y, seed)
        two, again = augment(noise(), y, seed)
        assert torch.equal(one, two)
        assert torch.equal(labels, again)
        assert one.min() >= 0
        assert one.max() <= 1
        assert torch.isfinite(one).all()
        assert one.shape == (16, 3, 24, 24)


@pytest.mark.parametrize("kind", [kind for kind in Augment if kind is not Augment.NONE])
def test_another_seed_and_another_image_are_changed_otherwise(kind):
    augment = BatchAugment(STRENGTHS[kind], Flip.NEVER)
    x = noise(1).expand(8, -1, -1, -1).contiguous()
    y = torch.zeros(8, dtype=torch.int64)
    one, _ = augment(x.clone(), y, 1)
    two, _ = augment(x.clone(), y, 2)
    assert not torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def test_stronger_changes_more():
    y = torch.zeros(64, dtype=torch.int64)
    x = arrow(True).expand(64, -1, -1, -1).contiguous() * 0.6 + 0.2
    change = [
        float((BatchAugment(STRENGTHS[kind], Flip.NEVER)(x.clone(), y, 3)[0] - x).abs().mean())
        for kind in (Augment.NONE, Augment.LIGHT, Augment.STANDARD, Augment.STRONG)
    ]
    assert change[0] == 0
    assert change == sorted(change)


def test_none_leaves_pixels_and_labels_alone():
    x, y = noise(), torch.arange(16) % 4
    out, labels = BatchAugment(STRENGTHS[Augment.NONE], Flip.NEVER)(x.clone(), y, 9)
    assert torch.equal(out, x)
    assert torch.equal(labels, y)


@pytest.mark.parametrize("kind", Augment)
def test_never_mirrors_when_not_told_to(kind):
    x, y = arrows(256)
    out, labels = BatchAugment(STRENGTHS[kind], Flip.NEVER)(x.clone(), y, 1)
    assert torch.equal(labels, y)
    # Strong augmentation may cut the tip off; mirrored, half would point the other way.
    assert (pointing_right(out) == (y == 0)).float().mean() > 0.95


def pointing_right(x: torch.Tensor) -> torch.Tensor:
    """Nearer to the right arrow than to the left one."""
    right, left = arrow(True)[0], arrow(False)[0]
    grey = x.mean(1)
    grey = grey - grey.mean((1, 2), keepdim=True)
    return (grey * right).sum((1, 2)) > (grey * left).sum((1, 2))


@pytest.mark.parametrize("kind", [Augment.NONE, Augment.STANDARD])
def test_by_the_map_the_class_changes_with_the_picture(kind):
    x, y = arrows()
    out, labels = BatchAugment(STRENGTHS[kind], Flip.MAP, MAP)(x.clone(), y, 4)
    assert torch.equal(pointing_right(out), labels == 0)
    assert 10 < int((labels != y).sum()) < 54


def test_by_the_map_symmetric_classes_keep_their_label_and_forbidden_ones_their_picture():
    augment = BatchAugment(STRENGTHS[Augment.NONE], Flip.MAP, MAP)
    x, _ = arrows()
    right = x[:1].expand(64, -1, -1, -1).contiguous()
    own = torch.full((64,), 2)
    out, labels = augment(right.clone(), own, 4)
    assert torch.equal(labels, own)
    assert 10 < int(pointing_right(out).sum()) < 54
    forbidden = torch.full((64,), 3)
    out, labels = augment(right.clone(), forbidden, 4)
    assert torch.equal(labels, forbidden)
    assert torch.equal(out, right)


def test_always_mirrors_half_and_keeps_the_label():
    x, y = arrows()
    out, labels = BatchAugment(STRENGTHS[Augment.NONE], Flip.ALWAYS)(x.clone(), y, 4)
    assert torch.equal(labels, y)
    mirrored = pointing_right(out) != (y == 0)
    assert 10 < int(mirrored.sum()) < 54
    assert torch.allclose(out[mirrored], x[mirrored].flip(-1), atol=1e-4)
    assert torch.allclose(out[~mirrored], x[~mirrored], atol=1e-4)


def test_the_map_is_required_for_its_kind_of_flip():
    with pytest.raises(ValueError, match="mirror_map"):
        BatchAugment(AugmentParams(), Flip.MAP)


def test_rotation_rotates_by_up_to_its_degrees_about_the_centre():
    bar = torch.zeros(32, 3, 48, 48)
    bar[:, :, 22:26, 8:40] = 1
    out, _ = BatchAugment(AugmentParams(rotate=40), Flip.NEVER)(bar, torch.zeros(32, dtype=torch.int64), 0)
    ys, xs = torch.meshgrid(torch.arange(48.0) - 23.5, torch.arange(48.0) - 23.5, indexing="ij")
    mass = out.mean(1)
    total = mass.sum((1, 2))
    xx, yy, xy = ((mass * part).sum((1, 2)) / total for part in (xs * xs, ys * ys, xs * ys))
    angles = torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2).abs()
    assert angles.max() <= 41
    assert angles.max() > 30
    assert angles.min() < 10
    assert torch.allclose((mass * xs).sum((1, 2)) / total, torch.zeros(32), atol=0.5)


def test_scale_and_shift_move_the_picture():
    dot = torch.zeros(64, 3, 33, 33)
    dot[:, :, 15:18, 15:18] = 1
    y = torch.zeros(64, dtype=torch.int64)
    moved, _ = BatchAugment(AugmentParams(shift=0.2), Flip.NEVER)(dot.clone(), y, 0)
    at = moved.mean(1).flatten(1).argmax(1)
    columns = at % 33 - 16
    assert columns.min() < -3
    assert columns.max() > 3
    assert columns.abs().max() <= 8
    zoomed, _ = BatchAugment(AugmentParams(scale=0.5), Flip.NEVER)(dot.clone(), y, 0)
    area = zoomed.mean(1).sum((1, 2)) / 9
    assert area.min() < 0.8
    assert area.max() > 1.3


def test_light_keeps_the_place_of_things():
    x, y = arrows(16)
    x = x * 0.5 + 0.25
    out, _ = BatchAugment(AugmentParams(brightness=0.2, contrast=0.3, saturation=0.3), Flip.NEVER)(x.clone(), y, 0)
    assert not torch.allclose(out, x, atol=0.02)
    for before, after in zip(x, out, strict=True):
        assert after[before > 0.5].min() > after[before < 0.5].max()


def test_cutout_erases_a_square_in_some():
    x = noise(32)
    out, _ = BatchAugment(AugmentParams(cutout=0.5), Flip.NEVER)(x.clone(), torch.zeros(32, dtype=torch.int64), 0)
    changed = (out != x).any(1).flatten(1).float().mean(1)
    assert 5 < int((changed > 0).sum()) < 27
    assert changed.max() <= 0.3


def test_covers_differ_in_size_and_half_of_them_have_a_colour():
    x = noise(64)
    out, _ = BatchAugment(AugmentParams(cover=0.5), Flip.NEVER)(x.clone(), torch.zeros(64, dtype=torch.int64), 0)
    changed = (out != x).any(1)
    share = changed.flatten(1).float().mean(1)
    assert 10 < int((share > 0).sum()) < 54
    # A sixteenth of the area to a quarter, and less where it reaches over the edge.
    assert share.max() <= 0.3
    assert len({round(float(s), 2) for s in share[share > 0]}) > 5
    filled = [out[i][:, changed[i]].mean(1) for i in range(64) if share[i] > 0]
    with_mean = [torch.allclose(f, torch.full((3,), float(f.mean())), atol=1e-3) for f in filled]
    assert 0.2 < np.mean(with_mean) < 0.8
