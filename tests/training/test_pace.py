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
    pace = estimate(built, model, of, 2)
    head, whole = pace.steps
    assert 0.01 < whole < 0.1
    assert 0.002 < head < whole
    assert 0.002 * 40 / 8 < pace.valid < 0.1


def test_the_estimate_changes_nothing():
    of = recipe(epochs=1)
    model = network()
    built = learner(of, model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    pace = estimate(built, model, of, len(phases(of)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert built.dls.train.draws.sum() == 0
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
