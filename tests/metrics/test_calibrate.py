from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from signsclf.metrics import calibrate
from signsclf.metrics.calibrate import (
    acceptance_curve,
    cross_fit,
    cross_fits,
    fit_temperature,
    reject_threshold,
    softmax,
)
from signsclf.metrics.classification import expected_calibration_error


def sampled(n: int, temperature: float, seed: int = 0, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and targets sampled from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (n, classes))
    edges = softmax(logits / temperature).cumsum(1)
    targets = (rng.random((n, 1)) > edges).sum(1).clip(max=classes - 1)
    return logits.astype(np.float32), targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5, 6.0])
def test_a_known_temperature_is_found(temperature):
    assert fit_temperature(*sampled(8000, temperature)) == pytest.approx(temperature, rel=0.06)


def test_it_is_the_optimum():
    logits, targets = sampled(300, 1.7)
    found = fit_temperature(logits, targets)

    def loss(t: float) -> float:
        logs = np.log(softmax(logits / t))
        return float(-(301 / 302 * logs[np.arange(len(targets)), targets] + logs.mean(axis=1) / 302).mean())

    assert loss(found) <= min(loss(found * 0.98), loss(found * 1.02))


def test_all_right_is_no_certainty_and_all_wrong_ends_at_the_bound():
    logits = np.eye(4)[np.arange(40) % 4] * 3.0
    targets = np.arange(40) % 4
    confidence = softmax(logits / fit_temperature(logits, targets)).max(axis=1).mean()
    assert confidence == pytest.approx(1 - 1 / 42, abs=0.01)
    assert fit_temperature(logits, (targets + 1) % 4) == pytest.approx(20, rel=0.01)
    assert 0.05 <= fit_temperature(logits[:1], targets[:1]) <= 20


def test_huge_logits_do_no_harm():
    logits = np.array([[1e4, -1e4], [0, 1e4], [1e4, 0]], np.float32)
    assert np.isfinite(fit_temperature(logits, np.array([0, 1, 1])))
    assert np.allclose(softmax(logits).sum(1), 1)


cases = st.integers(1, 250).flatmap(
    lambda n: st.tuples(
        # Few distinct values, so that many confidences are equal.
        arrays.arrays(np.float64, (n, 3), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0])),
        arrays.arrays(np.int64, n, elements=st.integers(0, 2)),
    )
)


@settings(max_examples=300, deadline=None)
@given(case=cases, max_accepted_error=st.sampled_from([0.0, 0.005, 0.05, 0.2, 0.5, 1.0]))
def test_of_the_accepted_at_most_the_chosen_share_is_wrong_and_no_lower_threshold_would_do(case, max_accepted_error):
    logits, targets = case
    probabilities = softmax(logits)
    confidence, wrong = probabilities.max(1), probabilities.argmax(1) != targets
    threshold = reject_threshold(probabilities, targets, max_accepted_error)
    assert 0 <= threshold <= 1
    accepted = confidence >= threshold
    assert wrong[accepted].sum() <= max_accepted_error * accepted.sum() + 1e-9
    for lower in set(confidence[confidence < threshold]):
        more = confidence >= lower
        too_many_wrong = wrong[more].sum() > max_accepted_error * more.sum()
        assert too_many_wrong or (confidence <= lower).sum() <= len(confidence) // 100


def test_nothing_acceptable_is_a_threshold_of_one():
    assert reject_threshold(np.array([[0.9, 0.1]]), np.array([1]), 0.005) == 1.0


def test_the_least_sure_hundredth_of_many_images_is_refused_however_right():
    confidence = np.linspace(0.5, 0.999, 1_000)
    probabilities, targets = np.stack([confidence, 1 - confidence], axis=1), np.zeros(1_000, int)
    assert (confidence >= reject_threshold(probabilities, targets, 0.005)).sum() == 990
    assert (confidence >= reject_threshold(probabilities, targets, 1.0)).all()


def test_everything_right_accepts_everything():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    assert reject_threshold(probabilities, np.array([0, 0, 1]), 0.0) == 0.6


def test_no_image_is_evaluated_by_the_half_that_fitted_it(monkeypatch):
    logits, targets = sampled(120, 2.0)
    logits[:, 0] += np.arange(120) * 1e-3  # every row can be told
    groups = np.repeat(np.arange(20), 6)
    fitted: list[set[int]] = []
    real = calibrate.fit_temperature

    def rows_of(values: np.ndarray) -> set[int]:
        return {int(np.flatnonzero((logits == row).all(1))[0]) for row in values}

    def spy(values, wanted):
        fitted.append(rows_of(values))
        return real(values, wanted) * (1 if len(fitted) == 1 else 3)

    monkeypatch.setattr(calibrate, "fit_temperature", spy)
    cross_fit(logits, targets, groups, 0.05)
    first, second = fitted
    assert first | second == set(range(120))
    assert not first & second
    assert not {groups[i] for i in first} & {groups[i] for i in second}
    assert 50 <= len(first) <= 70


def test_a_temperature_that_helps_shows_in_the_figures():
    logits, targets = sampled(4000, 3.0)
    found = cross_fit(logits, targets, np.arange(4000), 0.02)
    assert found.n == 4000
    assert found.ece_after < found.ece_before / 2
    assert 0 < found.accepted < 1
    assert found.accepted_error < 0.06
    assert found.max_accepted_error == 0.02
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_a_memorised_half_does_not_improve_the_figures():
    """Frames of a track repeat each other: evaluated on its own frames the threshold would look perfect."""
    rng = np.random.default_rng(0)
    logits = np.repeat(rng.normal(0, 1, (40, 3)), 10, axis=0)
    targets = np.repeat(rng.integers(0, 3, 40), 10)
    whole = softmax(logits / fit_temperature(logits, targets))
    threshold = reject_threshold(whole, targets, 0.0)
    accepted = whole.max(1) >= threshold
    assert not (whole.argmax(1) != targets)[accepted].any()
    honest = [cross_fit(logits, targets, np.repeat(np.arange(40), 10), 0.0, seed) for seed in range(10)]
    assert max(found.accepted_error or 0 for found in honest) > 0


def test_one_group_cannot_be_evaluated():
    logits, targets = sampled(10, 1.0)
    assert cross_fit(logits, targets, np.zeros(10), 0.01) is None


def test_the_seed_decides_the_halves():
    logits, targets = sampled(200, 2.0)
    groups = np.arange(200)
    assert cross_fit(logits, targets, groups, 0.05, 1) == cross_fit(logits, targets, groups, 0.05, 1)
    assert cross_fit(logits, targets, groups, 0.05, 1) != cross_fit(logits, targets, groups, 0.05, 2)


def test_several_errors_share_their_fits_and_their_scores():
    logits, targets = sampled(400, 2.0)
    groups = np.arange(400) // 4
    found = cross_fits(logits, targets, groups, (0.01, 0.1))
    assert found.calibrations == tuple(cross_fit(logits, targets, groups, error) for error in (0.01, 0.1))
    right = found.after.predicted == targets
    assert expected_calibration_error(found.after.confidence, right) == found.calibrations[0].ece_after
    assert expected_calibration_error(found.before.confidence, right) == found.calibrations[0].ece_before
    np.testing.assert_array_equal(found.after.predicted, logits.argmax(axis=1))
    assert cross_fits(logits, targets, np.zeros(400), (0.01,)) is None


def test_of_very_many_logits_an_even_sample_fits_the_temperature(monkeypatch):
    logits, targets = sampled(20_000, 2.0)
    whole = fit_temperature(logits, targets)
    monkeypatch.setattr(calibrate, "MAX_LOGITS", 5 * 5_000)
    assert fit_temperature(logits, targets) == pytest.approx(whole, rel=0.05)
    assert fit_temperature(logits, targets) == fit_temperature(
        *(a[np.linspace(0, 19_999, 5_000).astype(int)] for a in (logits, targets))
    )


def test_the_acceptance_curve_takes_equal_confidences_together():
    accepted, error = acceptance_curve(np.array([0.9, 0.5, 0.9, 0.7]), np.array([True, False, False, True]))
    assert accepted.tolist() == [0.5, 0.75, 1.0]
    assert error.tolist() == [0.5, pytest.approx(1 / 3), 0.5]
