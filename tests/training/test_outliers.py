from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawnshapes import SIZE, TINY, draw, learner, network, recipe

from signsclf.export.onnx import torch_logits
from signsclf.recipe import Flip
from signsclf.training.augment import AugmentParams, BatchAugment
from signsclf.training.fit import Fit
from signsclf.training.losses import CrossEntropy
from signsclf.training.outliers import NO_CLASS, _cycles, _shuffled, _windows, outliers, textures


def noise(n: int = 60, size: int = 24) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("size", [8, 24, 33])
def test_they_are_images_decided_by_the_seed_and_unlike_what_they_are_made_of(size):
    x, every = noise(size=size), np.arange(60)
    made = outliers(x.clone(), 60, every, 3)
    assert made.shape == x.shape and torch.isfinite(made).all()
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(made, outliers(x.clone(), 60, every, 3))
    assert not torch.equal(made, outliers(x.clone(), 60, every, 4))
    assert (made - x).abs().amax((1, 2, 3)).min() > 0.1


def test_an_outlier_is_the_same_one_in_every_part_of_a_batch():
    x = noise()
    whole = outliers(x.clone(), 60, np.arange(60), 3)
    mine = np.array([0, 7, 30, 31, 59])
    assert torch.allclose(outliers(x[mine], 60, mine, 3), whole[mine], atol=1e-6)


def test_each_kind_is_made():
    # Of images of one colour, windows and shuffled ones are the same again.
    x = torch.full((300, 3, 16, 16), 0.25)
    changed = (outliers(x.clone(), 300, np.arange(300), 0) - x).abs().amax((1, 2, 3)) > 1e-4
    assert 70 <= int(changed.sum()) <= 130
    dot = torch.zeros(300, 3, 16, 16)
    dot[:, :, 6:10, 6:10] = 1
    white = outliers(dot.clone(), 300, np.arange(300), 0)[~changed].mean((1, 2, 3))
    share = 16 / 256
    assert 70 <= int(torch.isclose(white, torch.tensor(share)).sum()) <= 130


def test_a_window_shows_an_edge_and_nothing_of_the_middle():
    dot = torch.zeros(40, 3, 20, 20)
    dot[:, :, 9:11, 9:11] = 1
    middle = np.stack([np.random.default_rng(0).uniform(-1, 1, 40), np.ones(40)], 1)
    assert not _windows(dot, np.full(40, 0.35), middle).any()
    lines = torch.zeros(1, 3, 20, 20)
    lines[:, :, -1] = 1
    seen = _windows(lines, np.array([0.2]), np.array([[0.0, 1.0]]))
    # One of twenty rows is five of them in a window of a fifth of the side.
    assert seen[0, 0].mean(1).gt(0.5).sum() == 5


@pytest.mark.parametrize("pieces", [2, 4])
def test_shuffled_pieces_are_all_there_and_none_where_it_was(pieces):
    order = _cycles(50, pieces**2, np.random.default_rng(0))
    assert (np.sort(order, axis=1) == np.arange(pieces**2)).all()
    assert (order != np.arange(pieces**2)).all()
    assert len({tuple(row) for row in order}) > 4
    x = torch.arange(9 * 9.0).view(1, 1, 9, 9).expand(50, 3, -1, -1) / 81
    made = _shuffled(x, pieces, order)
    assert torch.equal(made.flatten(1).sort().values, x.flatten(1).sort().values)
    side = 9 // pieces
    for image, row in zip(made, order, strict=True):
        y, x_ = divmod(int(row[0]), pieces)
        assert torch.equal(image[0, :side, :side], x[0, 0, y * side : (y + 1) * side, x_ * side : (x_ + 1) * side])


def test_textures_are_of_many_colours_and_as_even_as_photographs():
    made = textures(200, 32, torch.Generator().manual_seed(1))
    assert made.shape == (200, 3, 32, 32) and made.min() >= 0 and made.max() <= 1
    assert made.mean((1, 2, 3)).std() > 0.1 and made.std((2, 3)).mean() > 0.05
    # Neighbours are alike, as they are in no white noise.
    steps = (made[..., 1:] - made[..., :-1]).abs().mean((1, 2, 3)) / made.std((1, 2, 3))
    assert steps.median() < 0.6


def test_a_batch_has_its_share_of_them_and_the_other_images_are_as_without():
    x, y = noise(400), torch.arange(400) % 3
    strength = AugmentParams(rotate=10, contrast=0.3)
    plain, labels = BatchAugment(strength, Flip.ALWAYS)(x.clone(), y, 7)
    mixed, targets = BatchAugment(strength, Flip.ALWAYS, outliers=0.2)(x.clone(), y, 7)
    outside = targets == NO_CLASS
    assert 50 <= int(outside.sum()) <= 110
    assert torch.equal(targets[~outside], labels[~outside])
    assert torch.equal(mixed[~outside], plain[~outside])
    assert (mixed[outside] - plain[outside]).abs().amax((1, 2, 3)).min() > 0.05
    assert not (BatchAugment(strength, Flip.ALWAYS)(x, y, 7)[1] == NO_CLASS).any()


def test_their_loss_is_least_where_no_class_is_likelier_than_another():
    loss = CrossEntropy(0.1, outliers=True)
    none = torch.full((4,), NO_CLASS)
    even, sure = torch.zeros(4, 5), 3 * torch.eye(5)[:4]
    assert loss(even, none).item() == pytest.approx(0.5 * np.log(5), rel=1e-6)
    assert loss(sure, none) > loss(even, none)
    logits, y = torch.randn(6, 5), torch.tensor([0, NO_CLASS, 4, 2, NO_CLASS, 1])
    known = y != NO_CLASS
    expected = F.cross_entropy(logits[known], y[known], label_smoothing=0.1, reduction="sum")
    expected = expected - 0.5 * logits[~known].log_softmax(1).mean(1).sum()
    assert loss(logits, y).item() == pytest.approx(expected.item() / 6, rel=1e-6)
    assert torch.allclose(loss(logits, y.clamp_min(0)), CrossEntropy(0.1)(logits, y.clamp_min(0)))


def test_a_network_trained_with_them_is_less_sure_of_other_things():
    other = textures(200, SIZE, torch.Generator().manual_seed(9)).permute(0, 2, 3, 1).mul(255).byte().numpy()
    shapes = draw(200, seed=8)[0]
    sure = {}
    for share in (0.0, 0.3):
        of = recipe(epochs=10, outliers=share)
        model = network()
        fit = Fit(learner(of, model, n_train=240), model, of)
        result = fit.run()
        # Outliers are counted with no class.
        assert result.samples.sum() <= 240 * 10 * (1 - share / 2)
        model.load_state_dict(result.state)
        model.eval()
        of_shapes, of_others = (
            torch.from_numpy(torch_logits(model, TINY, images)).softmax(1).amax(1) for images in (shapes, other)
        )
        sure[share] = float(of_others.mean() / of_shapes.mean())
        assert result.history[-1]["accuracy"] > 0.9
    assert sure[0.3] < sure[0.0] - 0.1, sure
