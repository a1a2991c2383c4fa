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
from signsclf.training.loaders import (
    EpochBatches,
    LoaderConfig,
    SourceRows,
    class_weights,
    dataloaders,
    mix_seed,
    planned_samples,
    sample_epoch,
)
from signsclf.training.synthetic import render_batch

COUNTS = {"a": 60, "b": 15, "c": 5}
CLASSES = tuple(COUNTS)


def make(balance=Balance.NONE, augment=None, n_valid=10, **config):
    """80 training images whose red channel is their row number, then validation, then 4 test images."""
    labels = [name for name, n in COUNTS.items() for _ in range(n)]
    labels = [labels[i] for i in np.random.default_rng(3).permutation(80)] + ["a", "b"] * (n_valid // 2) + ["c"] * 4
    pixels = np.zeros((len(labels), 8, 8, 3), np.uint8)
    pixels[..., 0] = np.arange(len(labels))[:, None, None]
    plain = {"batch_size": 8, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return dataloaders(
        SourceRows(pixels=pixels, labels=labels, classes=CLASSES),
        np.arange(80),
        np.arange(80, 80 + n_valid),
        LoaderConfig(**{**plain, **config}, balance=balance, augment=augment),
    )


def numbers(batches) -> list[list[int]]:
    """Row numbers of each batch, as the pixels tell them."""
    return [(x[:, 0, 0, 0] * 255).round().long().tolist() for x, _ in batches]


def counted(batches) -> np.ndarray:
    return sum(np.bincount(y, minlength=len(CLASSES)) for _, y in batches)


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        (Balance.NONE, np.array([60, 15, 5]) / 80),
        (Balance.SQRT, np.sqrt([60, 15, 5]) / np.sqrt([60, 15, 5]).sum()),
        (Balance.FULL, np.ones(3) / 3),
    ],
)
def test_weights_give_each_class_its_share_of_the_samples(balance, shares):
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
    labels = np.array(CLASSES)[train.source.targets[train.rows]]
    expected = dict(zip(CLASSES, class_weights(np.array(list(COUNTS.values())), balance), strict=True))
    assert np.allclose(train.weights[train.rows], [expected[label] for label in labels])
    assert np.allclose(planned_samples(loaders), [expected[name] * n for name, n in COUNTS.items()])


def test_labels_given_as_a_shuffled_series_are_read_by_position():
    labels = pd.Series(["a", "b", "a", "c"] * 5, index=np.random.default_rng(0).permutation(20))
    rows = SourceRows(pixels=np.zeros((20, 8, 8, 3), np.uint8), labels=labels.tolist(), classes=CLASSES)
    config = LoaderConfig(batch_size=4, mean=(0, 0, 0), std=(1, 1, 1))
    loaders = dataloaders(rows, np.arange(20), np.arange(0), config)
    assert [int(label) for _, label in loaders.train_ds] == [0, 1, 0, 2] * 5


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 500), seed=st.integers(0, 2**32), scale=st.floats(0.01, 100))
def test_equal_weights_sample_each_image_exactly_once(n, seed, scale):
    order = sample_epoch(np.full(n, scale), seed)
    assert np.array_equal(np.sort(order), np.arange(n))


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.floats(0.01, 50), min_size=1, max_size=60), seed=st.integers(0, 2**32))
def test_an_image_is_sampled_the_whole_number_of_times_next_to_its_weight(weights, seed):
    values = np.array(weights) / np.mean(weights)
    times = np.bincount(sample_epoch(values, seed), minlength=len(values))
    assert times.sum() == len(values)
    assert (times >= np.floor(values - 1e-6)).all()
    assert (times <= np.ceil(values + 1e-6)).all()


def test_epochs_are_sampled_in_different_orders():
    assert not np.array_equal(sample_epoch(np.ones(100), 1), sample_epoch(np.ones(100), 2))


def test_mixed_seeds_differ_by_every_number():
    seeds = {mix_seed(*numbers) for numbers in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 1)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_epoch_samples_each_class_as_planned_to_within_one():
    loaders = make(Balance.FULL)
    samples = counted(loaders.train.batches(0, 0))
    assert np.abs(samples - planned_samples(loaders)).max() <= 1
    assert samples.sum() == 80


@pytest.mark.parametrize(("n", "read"), [(5, 5), (21, 16), (24, 24), (200, 200)])
def test_an_epoch_of_another_length_samples_that_many_by_the_same_weights(n, read):
    loaders = make(Balance.FULL, epoch_images=n)
    first = numbers(loaders.train.batches(0, 0))
    assert sum(len(batch) for batch in first) == read
    assert np.allclose(planned_samples(loaders), read / 3)
    second = numbers(loaders.train.batches(0, 1))
    assert second != first
    assert numbers(loaders.train.batches(0, 1, first=1)) == second[1:]


def test_a_last_partial_batch_is_left_out():
    loaders = make(Balance.SQRT, batch_size=32)
    assert len(loaders.train) == 2
    assert counted(loaders.train.batches(0, 0)).sum() == 64


def test_a_batch_derives_from_seed_phase_epoch_and_number():
    augment = BatchAugment(STRENGTHS[Augment.STANDARD], Flip.NEVER)

    def batches(seed=0, phase=0, epoch=0):
        return list(make(Balance.SQRT, augment, seed=seed).train.batches(phase, epoch))

    whole = batches(epoch=2)
    assert_equal(whole, batches(epoch=2))
    for other in ({"seed": 1, "epoch": 2}, {"phase": 1, "epoch": 2}, {"epoch": 3}):
        assert not torch.equal(whole[0][0], batches(**other)[0][0])


def assert_equal(batches, others) -> None:
    for (x, y), (x2, y2) in zip(batches, others, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_what_was_read_before_changes_no_batch():
    train = make(Balance.SQRT, BatchAugment(STRENGTHS[Augment.STANDARD], Flip.NEVER)).train
    whole = list(train.batches(0, 1))
    list(train)
    train.one_batch()
    one, two = train.batches(0, 1), train.batches(1, 5)
    assert_equal(whole, [pair[0] for pair in zip(one, two, strict=True)])


def test_an_epoch_goes_on_in_its_middle_with_the_same_batches():
    train = make(Balance.SQRT, BatchAugment(STRENGTHS[Augment.STANDARD], Flip.NEVER)).train
    whole = list(train.batches(0, 1))
    assert_equal(whole[4:], train.batches(0, 1, first=4))
    view = EpochBatches(loader=train, phase=0, epoch=1, first=4)
    assert_equal(whole[4:], view)
    assert len(view) == len(whole)


def test_plain_passes_differ_and_are_the_same_for_the_same_seed():
    passes = [numbers(train) for train in [make().train] for _ in range(3)]
    assert passes[0] != passes[1] != passes[2]
    assert all(sorted(chain.from_iterable(batches)) == list(range(80)) for batches in passes)
    assert passes[0] == numbers(make().train)
    assert passes[0] != numbers(make(seed=1).train)


def test_batches_are_normalised_and_in_the_networks_layout():
    rows = SourceRows(pixels=np.full((4, 6, 8, 3), 255, np.uint8), labels=["a"] * 4, classes=CLASSES)
    config = LoaderConfig(batch_size=4, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    loaders = dataloaders(rows, np.arange(4), np.arange(0), config)
    x, y = next(iter(loaders.train))
    assert x.shape == (4, 3, 6, 8)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert x[0, :, 0, 0].tolist() == [1.0, 3.0, 0.5]


def test_on_a_gpu_with_enough_free_memory_the_images_lie_there_and_the_batches_are_the_same(monkeypatch):
    augment = BatchAugment(STRENGTHS[Augment.STANDARD], Flip.NEVER)
    expected = list(make(Balance.SQRT, augment).train.batches(0, 0))
    # The CPU plays a GPU without free memory, and with it.
    for free in (0, 10**9):
        monkeypatch.setattr(training_loaders, "_free_memory", lambda device, free=free: free)
        train = make(Balance.SQRT, augment).train
        assert_equal(expected, train.batches(0, 0))
        assert (train.source.on_device._resident is not None) is bool(free)


def test_validation_comes_whole_in_order_and_never_augmented():
    loaders = make(augment=BatchAugment(STRENGTHS[Augment.STRONG], Flip.ALWAYS))
    for _ in range(2):
        assert list(chain.from_iterable(numbers(loaders.valid))) == list(range(80, 90))


def test_test_images_belong_to_neither_loader():
    loaders = make()
    assert len(loaders.train_ds) == 80
    assert len(loaders.valid_ds) == 10
    assert max(chain.from_iterable(numbers(loaders.train))) < 80


def test_the_datasets_hold_the_pictures_and_labels():
    loaders = make()
    pixels, label = loaders.train_ds[7]
    assert np.asarray(pixels)[0, 0, 0] == 7
    assert int(label) == loaders.train.source.targets[7]
    assert list(loaders.vocab) == list(CLASSES)


def test_without_validation_images_there_is_an_empty_loader():
    loaders = make(n_valid=0)
    assert list(loaders.valid) == []
    assert len(list(loaders.train)) == 10


def test_fewer_images_than_a_batch_make_one_batch():
    assert [len(batch) for batch in numbers(make(batch_size=128).train)] == [80]


def test_a_shown_batch_is_as_training_sees_it():
    train = make(Balance.SQRT, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)).train
    shown, targets = train.augmented_batch(8)
    assert shown.dtype == np.uint8
    x, y = next(train.batches(0, 0))
    assert np.array_equal(shown[:, 0, 0, 0], ((x[:, 0, 0, 0] * 0.2 + 0.5) * 255).round().numpy())
    assert np.array_equal(targets, y.numpy())


# -- synthetic signs -------------------------------------------------------------------------------------------------


def with_signs(seed: int = 0, n_real: int = 12):
    """Real rows are black; then six synthetic signs of each of two classes. Validation is of real rows."""
    labels = ["Stop", "Yield"] * (n_real // 2 + 2) + ["Stop", "Yield"] * 6
    n = n_real + 4
    rows = SourceRows(
        pixels=np.zeros((n, 16, 16, 3), np.uint8),
        labels=labels,
        classes=("Stop", "Yield"),
        rendered=np.concatenate([np.full(n, -1), np.tile([14, 13], 6)]),
        render=render_batch,
    )
    config = LoaderConfig(batch_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), seed=seed)
    train_rows = np.concatenate([np.arange(n_real), np.arange(n, n + 12)])
    return dataloaders(rows, train_rows, np.arange(n_real, n), config)


def test_without_a_sign_to_render_the_renderer_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "render_batch", None)
    loaders = with_signs()
    real = loaders.train.new(loaders.valid_ds, drop_last=False)
    assert sum(len(x) for x, _ in real) == 4


def test_synthetic_signs_are_new_every_epoch_and_the_same_in_the_same_batch():
    loader = with_signs().train
    first = list(loader.batches(0, 0))
    assert_equal(first, with_signs().train.batches(0, 0))
    assert_equal(first[2:], loader.batches(0, 0, first=2))
    lit = torch.cat([x for x, _ in first]).amax((1, 2, 3)) > 0
    assert lit.sum() == 12
    other = torch.cat([x for x, _ in loader.batches(0, 1)])
    signs, signs2 = torch.cat([x for x, _ in first])[lit], other[other.amax((1, 2, 3)) > 0]
    assert all((signs2 != sign).flatten(1).any(1).all() for sign in signs)


@pytest.mark.parametrize("plain", [False, True])
def test_synthetic_signs_keep_their_labels_among_real_images(plain: bool):
    loader = with_signs(seed=3).train
    seen = [batch for epoch in range(4) for batch in (loader if plain else loader.batches(0, epoch))]
    x, y = (torch.cat(parts) for parts in zip(*seen, strict=True))
    # Those that are read are black; a stop sign is redder than a give-way sign.
    lit = x.amax((1, 2, 3)) > 0
    assert lit.sum() == 48
    redness = (x[:, 0] - x[:, 1]).mean((1, 2))
    assert redness[lit & (y == 0)].mean() > 2 * redness[lit & (y == 1)].mean()


def test_rows_in_another_order_come_in_that_order():
    loaders = with_signs(seed=3)
    order = [20, 1, 17, 0, 16, 3]
    loader = loaders.train.new(shuffle=False, drop_last=False, bs=6, n=6, get_idxs=lambda: order)
    x, y = loader.one_batch()
    assert (x.amax((1, 2, 3)) > 0).tolist() == [row >= 12 for row in order]
    assert y.tolist() == [row % 2 for row in order]


def test_no_synthetic_sign_is_in_validation():
    loaders = with_signs()
    assert torch.cat([x for x, _ in loaders.valid]).amax() == 0
    assert planned_samples(loaders).sum() == 24
