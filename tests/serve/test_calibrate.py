"""What a calibration chooses from what it measures."""

from __future__ import annotations

import pytest

from signsclf.serve import calibrate as module
from signsclf.serve.calibrate import calibrate
from signsclf.serve.models import load_model
from signsclf.serve.settings import ServeSettings

pytestmark = pytest.mark.serve


@pytest.fixture
def measured(monkeypatch, tiny):
    """Calibrate with these figures: (runners, threads, batch) to (images/s, seconds of a run)."""

    def choose(figures: dict, cores: int = 2, **settings: int):
        monkeypatch.setattr("signsclf.serve.settings.usable_cores", lambda: cores)
        asked = []

        def measure(model, runners, size, seconds):
            key = (runners, model.classifier.threads, size)
            asked.append(key)
            return figures.get(key, (1.0, 0.01))

        monkeypatch.setattr(module, "_measure", measure)
        found = calibrate(load_model(tiny, "tiny"), ServeSettings(**settings))
        return (found.runners, found.model.classifier.threads, found.model.max_batch), asked

    return choose


def test_the_most_images_a_second_win(measured):
    chosen, asked = measured({(2, 1, 1): (100, 0.02), (1, 2, 1): (80, 0.012), (2, 1, 8): (200, 0.03)})
    assert chosen == (2, 1, 8)
    assert asked == [(2, 1, 1), (1, 2, 1), *((2, 1, size) for size in (2, 4, 8, 16, 32))]


def test_where_they_are_equal_the_sooner_answer_and_the_larger_batch_win(measured):
    chosen, _ = measured({(2, 1, 1): (100, 0.02), (1, 2, 1): (97, 0.012), (1, 2, 4): (96, 0.03), (1, 2, 8): (90, 0.04)})
    assert chosen == (1, 2, 4)


def test_batches_that_keep_others_waiting_are_not_taken(measured):
    chosen, asked = measured({(2, 1, 1): (10, 0.1), (2, 1, 2): (20, 0.2), (2, 1, 4): (99, 0.8)})
    assert chosen == (2, 1, 1) and (2, 1, 4) not in asked


def test_what_is_fixed_stays(measured):
    figures = {(3, 1, 8): (1, 9.0)}
    assert measured(figures, runners=3, threads=1, max_batch=8)[0] == (3, 1, 8)
    assert {key[:2] for key in measured({}, threads=2)[1]} == {(1, 2)}
    assert {key[:2] for key in measured({}, runners=1, cores=4)[1]} == {(1, 4)}


def test_a_real_one_is_told_in_one_line(tiny):
    found = calibrate(load_model(tiny, "tiny"), ServeSettings(max_batch=2))
    assert found.rate > 0 and found.milliseconds > 0
    assert str(found).startswith("tiny: ") and "up to 2 images a run" in str(found)


def test_load_beside_it_changes_no_choice(tiny, monkeypatch):
    """Where a run has one thread, its own time counts: a run that waits for a core seems no slower."""
    model = load_model(tiny, "tiny", threads=1)
    monkeypatch.setattr(module.time, "thread_time", iter([0.0, 0.5]).__next__)
    rate, seconds = module._measure(model, runners=1, size=4, seconds=0.0)
    assert (rate, seconds) == (8.0, 0.5)
