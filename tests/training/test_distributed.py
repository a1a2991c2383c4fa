from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from drawnshapes import CLASSES, SIZE, draw, learner, loaders, network, recipe
from test_fit import assert_same, untimed

from signsclf.errors import LostContactError, SignsclfError
from signsclf.training import distributed
from signsclf.training.augment import STRENGTHS, BatchAugment
from signsclf.training.checkpoint import read_checkpoint
from signsclf.training.distributed import FixedSum, Share, World, cut
from signsclf.training.fit import Fit, find_lr
from signsclf.training.loaders import LoaderConfig, SharedValidation, SourceRows, dataloaders
from signsclf.training.outliers import NO_CLASS

SIZES = [(4, 2), (4, 4), (6, 2), (6, 3), (8, 2), (8, 8), (12, 3), (12, 6)]


class OneOfSeveral(World):
    """A process that keeps what it would send, and goes on with its own part."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self.sent: list[list[torch.Tensor]] = []

    def sum(self, parts: FixedSum) -> torch.Tensor:
        self.sent.append([tensor.clone() for tensor in parts.parts])
        return parts.total()


def start(of, share: Share | None, n_valid: int = 40, folder=None, checkpoint=None, seed=0) -> Fit:
    model = network(seed, dropout=True)
    fit = Fit(learner(of, model, n_valid=n_valid), model, of, folder, checkpoint=checkpoint)
    fit.share = share
    return fit


@pytest.mark.parametrize("n", [16, 17, 23])
@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_micro_batches_cover_a_batch_and_are_about_as_large(n, shards):
    parts = [np.arange(n)[part] for part in cut(n, shards)]
    assert np.concatenate(parts).tolist() == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("shards", "size"), SIZES)
def test_a_sum_is_the_same_bits_whoever_adds_what(shards, size):
    terms = torch.randn(shards, 50) * 10.0 ** torch.randint(-6, 6, (shards, 1))
    alone = FixedSum(shards)
    for term in terms.clone():
        alone.add(term)
    together = FixedSum(size * len(_parts(terms, 0, size)))
    for rank in range(size):
        for part in _parts(terms, rank, size):
            together.add(part.clone())
    assert torch.equal(alone.total(), together.total())
    assert torch.allclose(alone.total(), terms.sum(0), rtol=1e-4)


def _parts(terms: torch.Tensor, rank: int, size: int) -> list[torch.Tensor]:
    own = Share(shards=len(terms), world=World(rank, size)).mine
    parts = FixedSum(len(own))
    for number in own:
        parts.add(terms[number].clone())
    return parts.parts


def test_a_sum_keeps_few_tensors_at_a_time():
    parts = FixedSum(64)
    for _ in range(63):
        parts.add(torch.ones(1))
        assert len(parts.parts) <= 6
    parts.add(torch.ones(1))
    assert parts.total().item() == 64 and len(parts.parts) == 1


@pytest.mark.parametrize("augment", ["none", "light", "strong", "camera", "harsh"])
@pytest.mark.parametrize("size", [2, 4])
def test_every_process_makes_the_micro_batches_that_one_alone_makes(augment, size):
    of = recipe(augment=augment, balance="full", flip="always")
    train = loaders(of).train
    alone = list(train.batches(0, 1, 0, Share(shards=4)))
    assert len(alone) == 5
    each = [list(train.batches(0, 1, 0, Share(shards=4, world=World(rank, size)))) for rank in range(size)]
    for number, (parts, y) in enumerate(alone):
        shared = [part for batches in each for part in batches[number][0]]
        assert all(torch.equal(a, b) for a, b in zip(parts, shared, strict=True))
        assert all(torch.equal(y, batches[number][1]) for batches in each)
        assert len(y) == 16 and [len(part) for part in parts] == [4] * 4


def test_classes_are_balanced_exactly_and_no_image_is_padded():
    of = recipe(balance="full", augment="none")
    train = loaders(of).train
    whole = [sorted(y.tolist()) for _, y in train.batches(0, 0)]
    for size in (1, 2, 4):
        for rank in range(size):
            share = Share(shards=4, world=World(rank, size))
            assert [sorted(y.tolist()) for _, y in train.batches(0, 0, 0, share)] == whole
    assert sum(map(len, whole)) == 80


def test_micro_batches_are_of_all_classes_even_where_the_rows_lie_by_class():
    pixels = np.zeros((96, SIZE, SIZE, 3), np.uint8)
    rows = SourceRows(pixels=pixels, labels=sorted(CLASSES * 32), classes=CLASSES)
    config = LoaderConfig(batch_size=48, mean=(0.5,) * 3, std=(0.5,) * 3)
    train = dataloaders(rows, np.arange(96), np.arange(0), config).train
    for _, y in train.batches(0, 0, 0, Share(shards=4)):
        assert all(len(y[part].unique()) == 3 for part in cut(len(y), 4))


def test_synthetic_signs_are_rendered_by_micro_batch():
    pixels, labels = draw(16)

    def render(ids: np.ndarray, side: int, seed: int, device: torch.device) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(len(ids), 3, side, side, generator=generator)

    rendered = np.r_[np.full(16, -1), np.full(16, 3)]
    rows = SourceRows(
        pixels=pixels, labels=labels + [CLASSES[0]] * 16, classes=CLASSES, rendered=rendered, render=render
    )
    config = LoaderConfig(batch_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    train = dataloaders(rows, np.arange(32), np.arange(0), config).train
    alone = next(iter(train.batches(0, 0, 0, Share(shards=4))))[0]
    shared = [part for rank in (0, 1) for part in next(iter(train.batches(0, 0, 0, _half(rank))))[0]]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    # A sign is its own in every micro-batch.
    assert len({part[-1].sum().item() for part in alone}) == 4


def _half(rank: int) -> Share:
    return Share(shards=4, world=World(rank, 2))


def test_augmentation_gives_an_image_the_numbers_that_it_has_in_the_whole_batch():
    x, y = torch.rand(8, 3, SIZE, SIZE), torch.arange(8) % 3
    for strength, share in itertools.product(STRENGTHS.values(), (0.0, 0.5)):
        augment = BatchAugment(strength, recipe(flip="always").flip, outliers=share)
        whole, labels = augment(x.clone(), y, 5)
        part, targets = augment(x[2:5].clone(), y, 5, slice(2, 5))
        assert torch.allclose(whole[2:5], part, atol=1e-5) and torch.equal(targets, labels)
        assert (labels == NO_CLASS).any() == bool(share)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_validation_images_are_evaluated_once_each_in_the_batches_of_one_process(size):
    valid = loaders(recipe(batch_size=4), n_valid=35).valid
    shares = [SharedValidation(loader=valid, share=Share(shards=size, world=World(r, size))) for r in range(size)]
    batches = [batch for share in shares for batch in share]
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]
    for (x, y), (wanted, targets) in zip(batches, valid, strict=True):
        assert torch.equal(x, wanted) and torch.equal(y, targets)
    assert [share.first_row for share in shares] == [8 * share.share.batches(5).start for share in shares]


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"freeze_epochs": 1, "weights": "some.pth"}])
def test_what_several_processes_send_comes_to_the_gradient_of_one(settings):
    of = recipe(epochs=1, **settings)
    sent = []
    for rank in range(2):
        world = OneOfSeveral(rank, 2)
        stopped = start(of, Share(shards=4, world=world), n_valid=0)
        stopped.share.asked.set()
        stopped.run()
        sent.append(world.sent[0])
    alone = OneOfSeveral(0, 1)
    first = start(of, Share(shards=4, world=alone), n_valid=0)
    first.share.asked.set()
    first.run()
    together = FixedSum(sum(map(len, sent)))
    for part in (part for parts in sent for part in parts):
        together.add(part)
    assert len(alone.sent) == 1, "asked to stop, it ends after the first batch"
    assert torch.equal(together.total(), alone.sent[0][0])


def test_one_shard_of_all_gives_the_plain_step():
    of = recipe(ema_decay=0.9)
    model, other = network(), network()
    plain = Fit(learner(of, model), model, of).run()
    fit = Fit(learner(of, other), other, of)
    fit.share = Share(shards=1)
    shared = fit.run()
    for name, tensor in plain.state.items():
        assert torch.allclose(tensor.float(), shared.state[name].float(), atol=1e-5), name
    assert plain.samples.tolist() == shared.samples.tolist()


def test_each_micro_batch_has_its_own_statistics_and_their_mean_is_kept():
    of = recipe(epochs=1, lr=1e-8, augment="none", batch_size=80)
    fit = start(of, Share(shards=4), n_valid=0)
    seen = []
    norm = fit.control.network.stem[1]
    norm.register_forward_hook(lambda _, args, __: seen.append(args[0].detach()))
    fit.run()
    assert [len(x) for x in seen] == [20] * 4
    wanted = 0.9 * torch.zeros(4) + 0.1 * torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    assert torch.allclose(norm.running_mean, wanted, atol=1e-6)
    assert norm.num_batches_tracked == 1


def test_a_sharded_run_resumes_bit_for_bit(tmp_path):
    of = recipe(ema_decay=0.9, batch_size=16)
    whole = start(of, Share(shards=4)).run()
    assert [row["accuracy"] is None for row in whole.history] == [False, False]
    broken = start(of, Share(shards=4, asked=threading.Event()), folder=tmp_path)
    steps = []
    after_step = broken.ema.after_step

    def stop_within() -> None:
        after_step()
        steps.append(1)
        if len(steps) == 7:
            broken.share.asked.set()

    broken.ema.after_step = stop_within
    assert broken.run().stopped
    resumed = start(of, Share(shards=4), folder=tmp_path, checkpoint=read_checkpoint(tmp_path), seed=9).run()
    assert_same(whole, resumed)
    assert [untimed(row) for row in whole.history] == [untimed(row) for row in resumed.history]


def test_a_learning_rate_is_searched_by_micro_batches_too():
    of = recipe(batch_size=16)
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    search = find_lr(learner(of, model), of, 40, share=Share(shards=4))
    assert search.suggestions["valley"] and len(search.losses) > 10
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_processes_on_several_machines_are_refused():
    variables = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    with pytest.raises(SignsclfError, match="several machines"):
        World.from_environment(variables)
    variables |= {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    assert World.from_environment(variables).size == 1
    # fastai would take them for its own.
    assert not {"RANK", "WORLD_SIZE"} & variables.keys()


def test_a_device_that_cannot_be_shared_is_refused():
    with pytest.raises(SignsclfError, match="--device mps"), World(0, 2).connected("mps"):
        pass
    if torch.cuda.device_count() < 2:
        with pytest.raises(SignsclfError, match="each process needs its own"), World(0, 2).connected("cuda"):
            pass


def test_a_lost_process_is_told_of_in_our_words_whatever_the_callbacks_make_of_it():
    class Alone(OneOfSeveral):
        def sum(self, parts: FixedSum) -> torch.Tensor:
            with distributed._in_contact():
                raise RuntimeError("Connection closed by peer [127.0.0.1]:1234\nmore")

    of = recipe(epochs=1)
    with pytest.raises(LostContactError) as caught:
        start(of, Share(shards=4, world=Alone(0, 2))).run()
    assert str(caught.value) == (
        "another process of this training has ended, or does not answer (Connection closed by peer [127.0.0.1]:1234); "
        "--resume continues the run"
    )
    model = network()
    with pytest.raises(LostContactError, match=r"^another process"):
        find_lr(learner(of, model), of, 40, share=Share(shards=4, world=Alone(0, 2)))


def test_a_full_memory_is_no_lost_process():
    with pytest.raises(RuntimeError, match="out of memory"), distributed._in_contact():
        raise RuntimeError("CUDA out of memory")


def test_a_search_is_seeded_alike_in_every_process():
    of, seeds = recipe(batch_size=16), []
    for rank, size in ((0, 1), (0, 2), (1, 2)):
        torch.manual_seed(5)
        fit = start(of.replace(epochs=1), Share(shards=4, world=OneOfSeveral(rank, size)), n_valid=0)
        fit.share.asked.set()
        fit.run()
        seeds.append(torch.initial_seed())
    assert len(set(seeds)) == 1
