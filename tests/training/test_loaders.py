from __future__ import annotations

from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signsclf.recipe import Augment, Balance, Flip
from signsclf.training import loaders as training_loaders
from signsclf.training.augment import STRENGTHS, BatchAugment
from signsclf.training.loaders import class_weights, dataloaders, mix_seed, planned_samples, sample_epoch
from signsclf.training.synthetic import render_batch

COUNTS = {"a": 60, "b": 15, "c": 5}
CLASSES = tuple(COUNTS)


def make(balance=Balance.NONE, augment=None, seed=0, batch_size=8, n_valid=10, device="cpu", epoch_images=0):
    """80 training images whose red channel is their row number, then validation, then 4 test images."""
    labels = [name for name, n in COUNTS.items() for _ in range(n)]
    labels = [labels[i] for i in np.random.default_rng(3).permutation(80)] + ["a", "b"] * (n_valid // 2) + ["c"] * 4
    n = len(labels)
    pixels = np.zeros((n, 8, 8, 3), np.uint8)
    pixels[..., 0] = np.arange(n)[:, None, None]
    return dataloaders(
        pixels,
        labels,
        CLASSES,
        np.arange(80),
        np.arange(80, 80 + n_valid),
        batch_size=batch_size,
        balance=balance,
        augment=augment,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        device=device,
        seed=seed,
        epoch_images=epoch_images,
    )


def drawn(loader) -> list[list[int]]:
    return [(x[:, 0, 0, 0] * 255).round().long().tolist() for x, _ in loader]


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        (Balance.NONE, np.array([60, 15, 5]) / 80),
        (Balance.SQRT, np.sqrt([60, 15, 5]) / np.sqrt([60, 15, 5]).sum()),
        (Balance.FULL, np.ones(3) / 3),
    ],
)
def test_weights_give_each_class_its_share_of_the_draws(balance, shares):
    counts = np.array([60, 15, 5])
    weights = class_weights(counts, balance)
    assert np.allclose(weights * counts / 80, shares)
    assert np.isclose((weights * counts).sum(), 80)


def test_effective_weights_follow_the_paper():
    counts = np.array([60, 15, 5])
    weights = class_weights(counts, Balance.EFFECTIVE)
    beta = 1 - 1 / counts.mean()
    expected = (1 - beta) / (1 - beta**counts)
    assert np.allclose(weights / weights[0], expected / expected[0])
    assert weights[2] > weights[1] > weights[0] > 0


@pytest.mark.parametrize("balance", Balance)
def test_a_class_without_images_weighs_nothing(balance):
    weights = class_weights(np.array([4, 0, 2]), balance)
    assert weights[1] == 0
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("balance", Balance)
def test_weights_go_by_position_not_by_label(balance):
    """fastai's own weighted loader reads a pandas Series by its index: shuffled rows would get others' weights."""
    loaders = make(balance)
    train = loaders.train
    labels = np.array(CLASSES)[train.targets[train.rows]]
    expected = dict(zip(CLASSES, class_weights(np.array(list(COUNTS.values())), balance), strict=True))
    assert np.allclose(train.weights, [expected[label] for label in labels])
    assert np.allclose(planned_samples(loaders, 3), [expected[name] * n for name, n in COUNTS.items()])


def test_labels_given_as_a_shuffled_series_are_read_by_position():
    labels = pd.Series(["a", "b", "a", "c"] * 5, index=np.random.default_rng(0).permutation(20))
    loaders = dataloaders(
        np.zeros((20, 8, 8, 3), np.uint8),
        labels.tolist(),
        CLASSES,
        np.arange(20),
        np.arange(0),
        batch_size=4,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    assert loaders.train.targets.tolist() == [0, 1, 0, 2] * 5


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 500), seed=st.integers(0, 2**32), scale=st.floats(0.01, 100))
def test_equal_weights_draw_each_image_exactly_once(n, seed, scale):
    order = sample_epoch(np.full(n, scale), seed)
    assert np.array_equal(np.sort(order), np.arange(n))


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.floats(0.01, 50), min_size=1, max_size=60), seed=st.integers(0, 2**32))
def test_an_image_is_drawn_the_whole_number_of_times_next_to_its_weight(weights, seed):
    values = np.array(weights) / np.mean(weights)
    times = np.bincount(sample_epoch(values, seed), minlength=len(values))
    assert times.sum() == len(values)
    assert (times >= np.floor(values - 1e-6)).all()
    assert (times <= np.ceil(values + 1e-6)).all()


def test_epochs_are_drawn_in_different_orders():
    assert not np.array_equal(sample_epoch(np.ones(100), 1), sample_epoch(np.ones(100), 2))


def test_mixed_seeds_differ_by_every_number():
    seeds = {mix_seed(*numbers) for numbers in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 1)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_epoch_draws_each_class_as_planned_to_within_one():
    loaders = make(Balance.FULL, batch_size=8)
    list(loaders.train)
    assert np.abs(loaders.train.draws - planned_samples(loaders, 3)).max() <= 1
    assert loaders.train.draws.sum() == 80


@pytest.mark.parametrize(("n", "read"), [(5, 5), (21, 16), (24, 24), (200, 200)])
def test_an_epoch_of_another_length_draws_that_many_by_the_same_weights(n, read):
    loaders = make(Balance.FULL, batch_size=8, epoch_images=n)
    first = drawn(loaders.train)
    assert sum(len(batch) for batch in first) == read
    assert loaders.train.draws.sum() == read
    assert np.allclose(planned_samples(loaders, 3), read / 3)
    loaders.train.epoch = 1
    assert drawn(loaders.train) != first
    loaders.train.first_batch = 1
    assert drawn(loaders.train) == drawn(loaders.train)[1:]


def test_made_draws_are_counted_over_epochs():
    loaders = make(Balance.SQRT, batch_size=32)
    for epoch in range(3):
        loaders.train.epoch = epoch
        list(loaders.train)
    assert len(loaders.train) == 2
    assert loaders.train.draws.sum() == 3 * 64


def test_a_batch_derives_from_seed_phase_epoch_and_number():
    augment = BatchAugment(STRENGTHS[Augment.STANDARD], Flip.NEVER)

    def batches(seed=0, phase=0, epoch=0, first=0):
        train = make(Balance.SQRT, augment, seed).train
        train.phase, train.epoch, train.first_batch = phase, epoch, first
        return [(x.clone(), y.clone()) for x, y in train]

    whole = batches(epoch=2)
    for (x, y), (again, labels) in zip(whole, batches(epoch=2), strict=True):
        assert torch.equal(x, again)
        assert torch.equal(y, labels)
    for other in ({"seed": 1, "epoch": 2}, {"phase": 1, "epoch": 2}, {"epoch": 3}):
        assert not torch.equal(whole[0][0], batches(**other)[0][0])


def test_an_epoch_goes_on_in_its_middle_with_the_same_batches():
    augment = BatchAugment(STRENGTHS[Augment.STANDARD], Flip.NEVER)
    train = make(Balance.SQRT, augment).train
    train.epoch = 1
    whole = list(train)
    resumed = make(Balance.SQRT, augment).train
    resumed.epoch, resumed.first_batch = 1, 4
    rest = list(resumed)
    assert len(rest) == len(whole) - 4
    for (x, y), (again, labels) in zip(whole[4:], rest, strict=True):
        assert torch.equal(x, again)
        assert torch.equal(y, labels)
    assert len(list(resumed)) == len(whole)


def test_batches_are_normalised_and_in_the_networks_layout():
    loaders = dataloaders(
        np.full((4, 6, 8, 3), 255, np.uint8),
        ["a"] * 4,
        CLASSES,
        np.arange(4),
        np.arange(0),
        batch_size=4,
        mean=(0.5, 0.25, 0.0),
        std=(0.5, 0.25, 2.0),
    )
    x, y = next(iter(loaders.train))
    assert x.shape == (4, 3, 6, 8)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert x[0, :, 0, 0].tolist() == [1.0, 3.0, 0.5]


def test_on_a_device_with_room_the_images_lie_there_and_the_batches_are_the_same(monkeypatch):
    augment = BatchAugment(STRENGTHS[Augment.STANDARD], Flip.NEVER)
    expected = list(make(Balance.SQRT, augment).train)
    # The processor plays a GPU, without room and with it.
    for room in (0, 10**9):
        monkeypatch.setattr(training_loaders, "_room", lambda device, room=room: room)
        for (x, y), (again, labels) in zip(expected, make(Balance.SQRT, augment).train, strict=True):
            assert torch.equal(x, again)
            assert torch.equal(y, labels)


def test_validation_comes_whole_in_order_and_never_augmented():
    loaders = make(augment=BatchAugment(STRENGTHS[Augment.STRONG], Flip.ALWAYS))
    for _ in range(2):
        assert list(chain.from_iterable(drawn(loaders.valid))) == list(range(80, 90))


def test_test_images_belong_to_neither_loader():
    loaders = make()
    assert len(loaders.train_ds) == 80
    assert len(loaders.valid_ds) == 10
    assert max(chain.from_iterable(drawn(loaders.train))) < 80


def test_the_datasets_hold_the_pictures_and_labels():
    loaders = make()
    pixels, label = loaders.train_ds[7]
    assert pixels[0, 0, 0] == 7
    assert int(label) == loaders.train.targets[7]
    assert list(loaders.vocab) == list(CLASSES)


def test_without_validation_images_there_is_an_empty_loader():
    loaders = make(n_valid=0)
    assert list(loaders.valid) == []
    assert len(list(loaders.train)) == 10


def test_fewer_images_than_a_batch_make_one_batch():
    assert [len(batch) for batch in drawn(make(batch_size=128).train)] == [80]


def test_a_shown_batch_is_as_training_sees_it_and_is_not_counted():
    train = make(Balance.SQRT).train
    shown, labels = train.augmented_batch(8)
    assert train.draws.sum() == 0
    assert shown.dtype == np.uint8
    x, y = next(iter(train))
    assert np.array_equal(shown[:, 0, 0, 0], (x[:, 0, 0, 0] * 255).round().numpy())
    assert np.array_equal(labels, y.numpy())


# -- drawn signs -----------------------------------------------------------------------------------------------------


def with_drawn(seed: int = 0, n_real: int = 12):
    """Real rows are black; then six drawn signs of each of two classes. Validation is of real rows."""
    labels = ["Stop", "Yield"] * (n_real // 2 + 2) + ["Stop", "Yield"] * 6
    n = n_real + 4
    drawn = np.concatenate([np.full(n, -1), np.tile([14, 13], 6)])
    return dataloaders(
        np.zeros((n, 16, 16, 3), np.uint8),
        labels,
        ("Stop", "Yield"),
        np.concatenate([np.arange(n_real), np.arange(n, n + 12)]),
        np.arange(n_real, n),
        batch_size=8,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        seed=seed,
        drawn=drawn,
        render=render_batch,
    )


def test_without_a_sign_to_render_the_renderer_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    loader = with_drawn().train
    monkeypatch.setattr(loader, "rows", np.arange(12))
    monkeypatch.setattr(loader, "weights", np.ones(12))
    monkeypatch.setattr(loader, "render", None)
    assert sum(len(x) for x, _ in loader) > 0


def test_drawn_signs_are_new_every_epoch_and_the_same_in_the_same_batch():
    loader, again = with_drawn().train, with_drawn().train
    first = list(loader)
    assert all(torch.equal(x, x2) and torch.equal(y, y2) for (x, y), (x2, y2) in zip(first, again, strict=True))
    # Begun in the midst of an epoch, the rest of it is the same.
    again.first_batch = 2
    assert torch.equal(next(iter(again))[0], first[2][0])
    lit = torch.cat([x for x, _ in first]).amax((1, 2, 3)) > 0
    assert lit.sum() == 12
    loader.epoch = 1
    other = torch.cat([x for x, _ in loader])
    signs, signs2 = torch.cat([x for x, _ in first])[lit], other[other.amax((1, 2, 3)) > 0]
    assert all((signs2 != sign).flatten(1).any(1).all() for sign in signs)


def test_drawn_signs_keep_their_labels_among_real_images():
    loader = with_drawn(seed=3).train
    seen = []
    for loader.epoch in range(4):
        seen += list(loader)
    x, y = (torch.cat(parts) for parts in zip(*seen, strict=True))
    # Those that are read are black; a stop sign is redder than a give-way sign.
    lit = x.amax((1, 2, 3)) > 0
    assert lit.sum() == 48
    redness = (x[:, 0] - x[:, 1]).mean((1, 2))
    assert redness[lit & (y == 0)].mean() > 2 * redness[lit & (y == 1)].mean()


def test_drawn_signs_follow_the_images_that_are_read_with_their_labels():
    loader = with_drawn(seed=3).train
    _, y = loader.read(np.array([17, 16, 1, 0]))
    assert y.tolist() == [0, 1, 1, 0]


def test_no_drawn_sign_is_judged_on():
    loaders = with_drawn()
    assert torch.cat([x for x, _ in loaders.valid]).amax() == 0
    assert planned_samples(loaders, 2).sum() == 24
