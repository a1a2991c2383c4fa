"""Time estimates: what is timed, how steps correct it, and that pauses do not count."""

from __future__ import annotations

import time

import pytest
import torch
from drawnshapes import learner, network, recipe

from signsclf.training import pace as timing
from signsclf.training.fit import Fit, phases
from signsclf.training.pace import Pace, estimate, typical


def test_a_pause_is_no_step():
    assert typical([1.0, 1.0, 1.0, 600.0]) == 1.0


def test_rendering_every_third_step_counts():
    assert typical([0.1, 0.1, 0.4] * 5) == pytest.approx(0.2)


def test_what_is_left_counts_steps_and_validations_of_all_phases():
    pace = Pace([1.0, 2.0], 10.0)
    assert pace.left((2, 3), 5) == 2 * (5 + 10) + 3 * (10 + 10)
    assert pace.left((2, 3), 5, 0, 1, 3) == 2 + 10 + 3 * (10 + 10)
    assert pace.left((2, 3), 5, 1, 2, 0) == 10 + 10
    assert pace.left((2, 3), 5, 2) == 0


def test_slower_steps_of_one_phase_make_the_later_ones_slower_too():
    pace = Pace([1.0, 2.0], 0.0)
    for _ in range(5):
        pace.step(0, 3.0)
    assert pace.steps == [3.0, 6.0]
    for _ in range(5):
        pace.step(1, 4.0)
    assert pace.steps == [3.0, 4.0]


def test_a_validation_is_taken_as_it_was():
    pace = Pace([0.0], 100.0)
    pace.validation(7.0)
    assert pace.left((2,), 4) == 14.0


def test_the_estimate_is_the_time_of_warm_steps(monkeypatch: pytest.MonkeyPatch):
    """A network that sleeps: the first steps, which warm it up, for much longer."""
    of = recipe(epochs=3, batch_size=8)
    model = network()
    built = learner(of, model, n_valid=40)
    calls = 0

    def slow(module: torch.nn.Module, given: object) -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.5 if calls <= 2 else 0.01 if torch.is_grad_enabled() else 0.002)

    model.register_forward_pre_hook(slow)
    monkeypatch.setattr(timing, "_MOST_STEPS", 6)
    pace = estimate(built, model, of, (3, 30))
    head, whole = pace.steps
    assert 0.01 < whole < 0.1
    assert 0.002 < head < whole
    assert 0.002 * 40 / 8 < pace.valid < 0.1


def test_a_short_training_is_not_timed_for_longer_than_it_takes():
    model, calls = network(), []
    built = learner(recipe(), model)
    model.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    estimate(built, model, recipe(), (1,))
    # Two warm ones and the fewest that are timed; these again without the way back, as in validation.
    assert calls.count(True) == timing._WARM_STEPS + timing._FEWEST_STEPS
    assert calls.count(False) == timing._FEWEST_STEPS


def test_the_estimate_changes_nothing():
    of = recipe(epochs=1)
    model = network()
    built = learner(of, model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    pace = estimate(built, model, of, phases(of))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert built.epoch_history.samples.sum() == 0
    assert torch.equal(torch.get_rng_state(), generator)
    result, plain = Fit(built, model, of, pace=pace).run(), Fit(learner(of, fresh := network()), fresh, of).run()
    assert all(torch.equal(tensor, plain.state[name]) for name, tensor in result.state.items())


def test_what_is_left_at_the_start_is_the_whole_training_with_its_search():
    of = recipe(epochs=4)
    model = network()
    built = learner(of, model, n_valid=0)
    steps = 4 * len(built.dls.train)
    assert Fit(built, model, of, pace=Pace([0.5], 0.0)).seconds_left == steps * 0.5
    searching = Fit(built, model, recipe(epochs=4, lr="auto"), pace=Pace([0.5], 0.0))
    assert searching.seconds_left == (steps + timing.SEARCH_STEPS) * 0.5


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "seconds", "chosen"),
    [
        (2.0, {2: 0.1, 1: 0.05}, 2),  # alone on the machine: nothing is tried
        (1.2, {2: 0.4, 1: 0.2}, 1),
        (1.2, {2: 0.1, 1: 0.2}, 2),
    ],
)
def test_threads_are_one_where_others_use_the_cpu_and_one_is_faster(
    two_threads: None, monkeypatch: pytest.MonkeyPatch, cores: float, seconds: dict[int, float], chosen: int
):
    monkeypatch.setattr(timing, "_timed", lambda step: (cores, seconds[torch.get_num_threads()]))
    assert timing.choose_threads(lambda: None) == chosen
    assert torch.get_num_threads() == chosen


def test_a_step_that_computes_keeps_a_core_busy_and_one_that_waits_none():
    def compute() -> None:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    assert timing._timed(lambda: time.sleep(0.05))[0] < 0.3
    cores, took = timing._timed(compute)
    assert cores > 0.2
    assert took >= 0.05
