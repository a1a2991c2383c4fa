from __future__ import annotations

import errno
import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawnshapes import learner, network, recipe
from fastai.callback.core import Callback
from tinysource import Watched
from torch import nn

from signsclf.errors import DivergedError, ModelError
from signsclf.observer import BatchDone, EpochDone, Observer
from signsclf.training import checkpoint as checkpoints
from signsclf.training.checkpoint import read_checkpoint, write_checkpoint
from signsclf.training.fit import Fit, FitResult, find_lr, suggest

TIMES = {"seconds"}


class AfterSteps(Callback):
    """Calls a function after so many optimizer steps."""

    def __init__(self, n: int, call) -> None:
        self.left, self.call = n, call

    def after_step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.call()


def begin(of, folder=None, *, n_valid=40, dropout=False, checkpoint=None, observer=None, seed=0) -> Fit:
    # On resuming the network starts from other weights: all that counts must come from the checkpoint.
    model = network(seed, dropout)
    return Fit(learner(of, model, n_valid=n_valid), model, of, folder, observer=observer, checkpoint=checkpoint)


def resume(of, folder: Path, **more) -> FitResult:
    return begin(of, folder, checkpoint=read_checkpoint(folder), seed=99, **more).run()


def break_after(of, folder: Path, batches: int, **more) -> FitResult:
    """Trains and asks to stop after so many batches."""
    fit = begin(of, folder, **more)
    fit.learner.add_cb(AfterSteps(batches, fit.stop.set))
    return fit.run()


def assert_same(one: FitResult, two: FitResult) -> None:
    assert one.state.keys() == two.state.keys()
    for name, tensor in one.state.items():
        assert torch.equal(tensor, two.state[name]), name
    assert one.best_epoch == two.best_epoch
    assert [untimed(row) for row in one.history] == [untimed(row) for row in two.history]
    assert one.samples.tolist() == two.samples.tolist()
    assert one.lr == two.lr


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


# -- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[FitResult, list]:
    watched = Watched()
    of = recipe(epochs=8, lr=0.1, balance="full")
    return begin(of, observer=watched).run(), watched.events


def test_it_learns(trained):
    result, _ = trained
    assert len(result.history) == 8
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < 0.7 * losses[0]
    assert max(row["accuracy"] for row in result.history) > 0.9


def test_the_last_epoch_is_kept_under_the_networks_own_names_whatever_validation_says(tmp_path, monkeypatch):
    scores = iter([[0.9, -1.0], [0.5, -1.0], [0.4, -1.0]])
    monkeypatch.setattr("signsclf.training.callbacks.epoch_score", lambda row: next(scores))
    fit = begin(recipe(epochs=3), tmp_path)
    result = fit.run()
    assert result.best_epoch == 3
    assert result.state.keys() == network().state_dict().keys()
    live = fit.control.network.state_dict()
    assert all(torch.equal(result.state[name], live[name]) for name in live)


def test_history_and_observer_tell_the_same_story(trained):
    result, told = trained
    epochs = [event for event in told if isinstance(event, EpochDone)]
    assert [event.row for event in epochs] == result.history
    assert [row["epoch"] for row in result.history] == list(range(1, 9))
    assert epochs[-1].seconds_left == 0
    batches = [event for event in told if isinstance(event, BatchDone)]
    assert {(b.epoch, b.batch) for b in batches} >= {(epoch, 5) for epoch in range(1, 9)}
    assert all(b.n_batches == 5 and b.n_epochs == 8 and b.images_per_second > 0 for b in batches)
    # The validation is still to come.
    assert 0 < batches[-1].seconds_left < epochs[-2].seconds_left


def test_every_sample_is_counted(trained):
    result, _ = trained
    assert result.samples.sum() == 8 * 80
    assert result.samples.max() - result.samples.min() <= 8
    assert result.lr == 0.1
    assert result.seconds > 0
    assert not result.stopped


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_others():
    of = recipe(epochs=1)
    first = begin(of, dropout=True).run()
    torch.manual_seed(5)
    assert_same(first, begin(of, dropout=True).run())
    other = begin(recipe(epochs=1, seed=1), dropout=True).run()
    assert not torch.equal(first.state["fc.weight"], other.state["fc.weight"])


def test_averaged_weights_are_judged_and_kept():
    plain = begin(recipe()).run()
    averaged = begin(recipe(ema_decay=0.9)).run()
    assert [r["train_loss"] for r in plain.history] == [r["train_loss"] for r in averaged.history]
    assert [r["valid_loss"] for r in plain.history] != [r["valid_loss"] for r in averaged.history]
    assert not torch.equal(plain.state["fc.weight"], averaged.state["fc.weight"])


def test_without_validation_the_last_epoch_is_kept_and_judgement_is_null():
    of = recipe(ema_decay=0.9)
    fit = begin(of, n_valid=0)
    result = fit.run()
    assert result.best_epoch == 2
    for row in result.history:
        assert row["valid_loss"] is row["accuracy"] is row["macro_f1"] is None
        assert math.isfinite(row["train_loss"])
    names = [name for name, _ in fit.control.network.named_parameters()]
    averaged = dict(zip(names, fit.ema.shadow[: len(names)], strict=True))
    assert not torch.equal(averaged["stem.0.weight"], fit.control.network.stem[0].weight)
    assert torch.equal(result.state["stem.0.weight"], averaged["stem.0.weight"])


def test_head_first_then_all():
    of = recipe(weights="imagenet", freeze_epochs=1, epochs=1, lr_ratio=10.0, optimizer="adam", lr=1e-2)
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    after_head: dict[str, torch.Tensor] = {}

    class Looks(Observer):
        def epoch_done(self, event: EpochDone) -> None:
            if not after_head:
                after_head.update({name: p.detach().clone() for name, p in model.named_parameters()})

    result = Fit(learner(of, model), model, of, observer=Looks()).run()
    assert [row["phase"] for row in result.history] == ["head", "all"]
    assert {n for n in before if not torch.equal(before[n], after_head[n])} == {"fc.weight", "fc.bias"}
    assert all(not torch.equal(p, after_head[n]) for n, p in model.named_parameters())


def test_patience_ends_it_early(tmp_path, monkeypatch):
    scores = iter([[0.5, -1.0], [0.6, -1.0], [0.6, -1.1], [0.5, -0.9], [0.7, -1.0]])
    monkeypatch.setattr("signsclf.training.callbacks.epoch_score", lambda row: next(scores))
    of = recipe(epochs=9, patience=2)
    watched = Watched()
    result = begin(of, tmp_path, observer=watched).run()
    assert result.best_epoch == 2
    assert result.history[-1]["epoch"] == 4
    assert not result.stopped
    assert [e for e in watched.events if isinstance(e, EpochDone)][-1].seconds_left == 0
    assert_same(result, resume(of, tmp_path))


def test_half_precision_trains_and_is_kept_whole():
    result = begin(recipe(precision="bf16")).run()
    assert all(t.dtype == torch.float32 for n, t in result.state.items() if t.is_floating_point())
    assert math.isfinite(result.history[-1]["valid_loss"])
    exact = begin(recipe()).run()
    assert not torch.equal(result.state["fc.weight"], exact.state["fc.weight"])
    assert torch.allclose(result.state["fc.weight"], exact.state["fc.weight"], atol=0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_that_diverges_stops_and_names_a_lower_rate(optimizer: str, tmp_path: Path):
    of = recipe(lr=100.0, epochs=8, optimizer=optimizer)
    with pytest.raises(DivergedError, match=r"the loss is .* in epoch \d at --lr ") as caught:
        begin(of, tmp_path).run()
    assert str(caught.value).endswith("start anew with --lr 10 --overwrite")
    if (tmp_path / "checkpoint.pt").exists():
        state = read_checkpoint(tmp_path)
        assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_loss_that_is_no_number_stops_within_its_epoch():
    of = recipe(epochs=2)
    model = network()
    fit = Fit(learner(of, model, n_valid=0), model, of)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match="the loss is nan in epoch 1"):
        fit.run()


def test_a_search_stops_on_request_and_the_run_can_be_resumed(tmp_path: Path):
    of = recipe(lr="auto")
    model = network()
    told = []

    class Stops(Observer):
        def progress(self, task: str, done: int, total: int) -> None:
            told.append((task, done, total))
            if done == 7:
                fit.stop.set()

    fit = Fit(learner(of, model), model, of, tmp_path, observer=Stops())
    assert fit.search() is None
    result = fit.run()
    assert result.stopped
    assert result.lr is None
    assert told[-1] == ("rates", 7, 100)
    assert result.history == []
    assert not (tmp_path / "checkpoint.pt").exists()


def test_training_turns_nothing_into_float64():
    """Apple's GPUs have no float64: nothing that a step computes may be turned into it.

    fastai's schedules are a few numbers of float64 on the CPU whatever the device.
    """
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class NoFloat64(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            given, made = (
                {leaf.dtype for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)} for tree in (args, result)
            )
            assert torch.float64 not in made or not given - {torch.float64}, function
            return result

    of = recipe(weights="imagenet", freeze_epochs=1, epochs=1, ema_decay=0.5, optimizer="adam")
    model = network()
    fit = Fit(learner(of, model), model, of)
    with NoFloat64():
        fit.run()


# -- broken and resumed ----------------------------------------------------------------------------------------------

PLAIN = {"epochs": 2}
EVERYTHING = {
    "weights": "imagenet",
    "freeze_epochs": 1,
    "epochs": 2,
    "ema_decay": 0.9,
    "optimizer": "adam",
    "lr": 0.01,
    "lr_ratio": 10.0,
    "augment": "strong",
    "balance": "full",
}


@pytest.mark.parametrize(
    ("settings", "batches"),
    [(PLAIN, 2), (PLAIN, 5), (PLAIN, 8)] + [(EVERYTHING, n) for n in (1, 3, 5, 6, 9, 10, 12)],
)
def test_a_broken_run_ends_in_the_weights_of_the_unbroken_one(tmp_path, unbroken, settings, batches):
    of = recipe(**settings)
    stopped = break_after(of, tmp_path, batches, dropout=True)
    assert stopped.stopped
    assert_same(unbroken(settings), resume(of, tmp_path, dropout=True))


@pytest.fixture(scope="module")
def unbroken():
    """Results of whole runs, each trained once."""
    known: dict[str, FitResult] = {}

    def run(settings: dict) -> FitResult:
        key = repr(settings)
        if key not in known:
            known[key] = begin(recipe(**settings), dropout=True).run()
        return known[key]

    return run


def test_a_run_broken_twice_is_still_the_same(tmp_path, unbroken):
    of = recipe(**EVERYTHING)
    break_after(of, tmp_path, 2, dropout=True)
    again = break_after(of, tmp_path, 5, dropout=True, checkpoint=read_checkpoint(tmp_path), seed=99)
    assert again.stopped
    assert_same(unbroken(EVERYTHING), resume(of, tmp_path, dropout=True))


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, unbroken, monkeypatch):
    """Nothing is written at the end: what the last epoch's checkpoint holds must be enough."""
    of = recipe(**EVERYTHING)

    class Killed(BaseException):
        pass

    class Kills(Observer):
        def batch_done(self, event: BatchDone) -> None:
            if (event.epoch, event.batch) == (3, 5):
                raise Killed

    with pytest.raises(Killed):
        begin(of, tmp_path, dropout=True, observer=Kills()).run()
    assert read_checkpoint(tmp_path)["position"] == [1, 1, 0]
    assert_same(unbroken(EVERYTHING), resume(of, tmp_path, dropout=True))


def test_a_long_epoch_is_written_down_on_its_way(tmp_path, unbroken):
    of = recipe(**EVERYTHING)
    positions = []
    fit = begin(of, tmp_path, dropout=True)
    fit.control.checkpoint_seconds = 0
    save = fit.control.save
    fit.control.save = lambda *position: (positions.append(position), save(*position))
    assert_same(unbroken(EVERYTHING), fit.run())
    assert positions[:6] == [(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 4), (1, 0, 0), (1, 0, 1)]


def test_a_finished_run_resumes_to_its_result_without_training(tmp_path):
    of = recipe(**PLAIN)
    done = begin(of, tmp_path).run()
    again = begin(of, tmp_path, checkpoint=read_checkpoint(tmp_path))
    again.learner.add_cb(AfterSteps(1, lambda: pytest.fail("it trains")))
    assert_same(done, again.run())


def test_a_broken_run_without_validation_keeps_the_last_epoch(tmp_path):
    of = recipe(ema_decay=0.9)
    whole = begin(of, n_valid=0).run()
    break_after(of, tmp_path, 3, n_valid=0)
    assert_same(whole, resume(of, tmp_path, n_valid=0))


def test_a_search_is_not_repeated_on_resuming(tmp_path):
    of = recipe(epochs=1, lr="auto")
    fit = begin(of, tmp_path)
    search = fit.search()
    fit.learner.add_cb(AfterSteps(1, fit.stop.set))
    first = fit.run()
    assert first.stopped
    again = begin(of, tmp_path, checkpoint=read_checkpoint(tmp_path), seed=99)
    assert again.search() is None
    second = again.run()
    assert second.lr == first.lr == search.suggestions["valley"]
    assert_same(begin(of).run(), second)


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file\nat x")],
)
def test_a_full_disk_leaves_the_last_checkpoint_good(tmp_path, monkeypatch, unbroken, trouble):
    of = recipe(**PLAIN)
    real, count = torch.save, 0

    def save(state, file) -> None:
        nonlocal count
        count += 1
        if count == 2:
            file.write(b"half a checkpoint")
            raise trouble
        real(state, file)

    monkeypatch.setattr(checkpoints.torch, "save", save)
    with pytest.raises(
        ModelError, match=r"cannot be written .*the last one is kept; free some space.*--resume"
    ) as caught:
        begin(of, tmp_path, dropout=True).run()
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert_same(unbroken(PLAIN), resume(of, tmp_path, dropout=True))


def test_the_first_checkpoint_failing_says_that_there_is_none(tmp_path):
    with pytest.raises(ModelError, match="there is none yet"):
        write_checkpoint(tmp_path / "not there", {})


class Opens:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    proof = tmp_path / "it ran"
    path = tmp_path / "checkpoint.pt"
    torch.save({"version": 1, "model": Opens(proof)}, path)
    with pytest.raises(ModelError, match="not a checkpoint of signsclf"):
        read_checkpoint(tmp_path)
    path.write_bytes(pickle.dumps(Opens(proof)))
    with pytest.raises(ModelError, match="not a checkpoint of signsclf"):
        read_checkpoint(tmp_path)
    assert not proof.exists()


def test_missing_damaged_and_unknown_checkpoints_are_one_line(tmp_path):
    def refused() -> str:
        with pytest.raises(ModelError) as caught:
            read_checkpoint(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nothing to resume" in refused()
    begin(recipe(epochs=1), tmp_path).run()
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused()
    path.write_bytes(b"")
    assert "damaged" in refused()
    state = torch.load(io.BytesIO(whole), weights_only=True)
    torch.save({**state, "version": 2}, path)
    assert "version 1" in refused()
    del state["model"]
    torch.save(state, path)
    assert "version 1" in refused()


def test_a_checkpoint_that_calls_samples_draws_is_read(tmp_path, unbroken):
    """So earlier versions wrote them."""
    of = recipe(**PLAIN)
    break_after(of, tmp_path, 3, dropout=True)
    state = read_checkpoint(tmp_path)
    state["draws"] = state.pop("samples")
    torch.save(state, tmp_path / "checkpoint.pt")
    assert_same(unbroken(PLAIN), resume(of, tmp_path, dropout=True))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    begin(recipe(epochs=1), tmp_path).run()
    model = network(width=8)
    with pytest.raises(ModelError, match="not of the recipe's network"):
        Fit(learner(recipe(), model), model, recipe(), checkpoint=read_checkpoint(tmp_path))


# -- learning-rate search --------------------------------------------------------------------------------------------


def test_the_search_rises_suggests_and_puts_everything_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of = recipe()
    model = network()
    built = learner(of, model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    watched = Watched()
    search = find_lr(built, of, 40, watched)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert built.epoch_history.samples.sum() == 0
    assert built.epoch_history.rows == []
    assert search.lrs == sorted(search.lrs)
    assert 1 < len(search.losses) == len(search.lrs) <= 40
    assert search.lrs[0] == pytest.approx(1e-7)
    assert set(search.suggestions) == {"valley", "slide", "minimum", "steep"}
    assert 1e-7 < search.suggestions["valley"] < 10
    assert watched.progressed == sorted(watched.progressed)
    assert watched.progressed[-1][::2] == ("rates", 40)
    assert list(tmp_path.iterdir()) == []
    # A run after it is the run without it.
    assert_same(Fit(built, model, of).run(), begin(of).run())


class Bursts(nn.Sequential):
    """Gives no numbers from the n-th batch on."""

    def __init__(self, inner: nn.Sequential, after: int) -> None:
        super().__init__(*inner)
        self.after, self.seen = after, 0

    def forward(self, x):
        self.seen += 1
        out = super().forward(x)
        return out * math.nan if self.seen > self.after else out


@pytest.mark.parametrize("after", [0, 1, 3, 12])
def test_the_search_survives_losses_that_are_no_numbers(after):
    of = recipe()
    model = network()
    built = learner(of, model)
    built.model = Bursts(built.model, after)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    search = find_lr(built, of, 40)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert len(search.losses) == after
    assert all(math.isfinite(loss) for loss in search.losses)
    assert search.diverged_early
    assert all(rate is None or rate > 0 for rate in search.suggestions.values())


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9])
def test_a_curve_too_short_suggests_nothing_rather_than_crash(n):
    found = suggest([1e-7 * 2**i for i in range(n)], [2.0, 1.5, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 9.0][:n], 100)
    assert found == dict.fromkeys(("valley", "slide", "minimum", "steep"))


@pytest.mark.parametrize("n", [10, 15, 24, 25, 26, 30])
def test_a_short_curve_never_crashes(n):
    rng = np.random.default_rng(n)
    for losses in (np.linspace(2, 1, n), np.linspace(1, 2, n), np.ones(n), rng.random(n)):
        found = suggest(np.geomspace(1e-7, 1e-3, n).tolist(), losses.tolist(), 100)
        assert all(rate is None or 0 < rate < 1 for rate in found.values())


def test_a_plain_curve_suggests_rates_on_its_way_down():
    lrs = np.geomspace(1e-7, 10, 100)
    losses = 2.3 - 1.8 / (1 + np.exp(-3 * (np.log10(lrs) + 3))) + 0.02 * lrs**2
    found = suggest(lrs.tolist(), losses.tolist(), 100)
    assert 1e-4 < found["valley"] < 1e-1
    assert 1e-4 < found["steep"] < 1e-1
    assert found["minimum"] is not None


def test_a_checkpoint_says_on_how_many_threads_its_weights_were_computed(tmp_path: Path):
    break_after(recipe(epochs=2), tmp_path, 3)
    assert read_checkpoint(tmp_path)["threads"] == torch.get_num_threads()
