from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from signsclf.metrics.classification import Report, grouped_interval, wilson
from signsclf.metrics.intervals import (
    bootstrap_intervals,
    bootstrap_mean,
    compare_pairs,
    group_numbers,
    mcnemar_exact,
    paired_interval,
    permutation_test,
)


def answers(n: int, accuracy: float, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes, n)
    wrong = random.random(n) >= accuracy
    return targets, np.where(wrong, (targets + 1) % classes, targets)


def evaluated(targets, predicted, groups):
    classes = int(targets.max()) + 1
    report = Report.from_probabilities(np.eye(classes)[predicted], targets, [str(i) for i in range(classes)])
    return report, bootstrap_intervals(report, targets, predicted, np.ones(len(targets), bool), groups)


def test_an_image_without_a_group_is_one_of_its_own():
    assert group_numbers(["a", None, "a", None, "b"]).tolist() == [0, 1, 0, 2, 3]


class TestResampled:
    def test_holds_the_figures_and_is_as_wide_as_theory_says(self):
        targets, predicted = answers(900, 0.8, 0)
        report, found = evaluated(targets, predicted, np.arange(900))
        for name in ("accuracy", "macro_f1", "balanced_accuracy"):
            low, high = found[name]
            assert low < getattr(report, name) < high
        low, high = found["accuracy"]
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 900), rel=0.2)

    def test_tracks_whose_frames_agree_count_for_one_each(self):
        targets, predicted = answers(60, 0.8, 1)
        _, alone = evaluated(targets, predicted, np.arange(60))
        frames = np.repeat(np.arange(60), 10)
        _, tracks = evaluated(targets[frames], predicted[frames], frames)
        _, naive = evaluated(targets[frames], predicted[frames], np.arange(600))
        width = [high - low for low, high in (alone["accuracy"], tracks["accuracy"], naive["accuracy"])]
        assert width[1] == pytest.approx(width[0], rel=0.15)
        assert width[2] < 0.5 * width[1]

    def test_claims_nothing_where_resamples_cannot_differ(self):
        targets, predicted = answers(50, 1.0, 0)
        _, found = evaluated(targets, predicted, np.arange(50))
        assert found["macro_f1"] is None and found["accuracy"] == wilson(50, 50)
        targets, predicted = answers(50, 0.5, 0)
        _, found = evaluated(targets, predicted, np.zeros(50, int))
        assert found["macro_f1"] is None
        low, high = found["accuracy"]
        assert high - low > 0.8

    def test_mean_of_values(self):
        values = np.random.default_rng(0).normal(3, 1, 400)
        low, high = bootstrap_mean(values, np.arange(400))
        assert low < values.mean() < high
        assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
        assert bootstrap_mean(values, np.zeros(400, int)) is None


class TestGroupedInterval:
    def test_single_images_have_wilson_s(self):
        right = np.arange(100) < 93
        assert grouped_interval(right, np.arange(100)) == wilson(93, 100)

    def test_all_groups_right_say_as_much_as_that_many_images(self):
        low, high = grouped_interval(np.ones(3_000, bool), np.arange(3_000) // 30)
        assert high == 1
        assert low == pytest.approx(wilson(100, 100)[0], abs=0.002)
        assert grouped_interval(np.zeros(3_000, bool), np.arange(3_000) // 30) == pytest.approx((0, 1 - low))

    def test_one_wrong_frame_does_not_make_it_narrower(self):
        groups, right = np.arange(3_000) // 30, np.ones(3_000, bool)
        all_right = grouped_interval(right, groups)
        right[7] = False
        one_wrong = grouped_interval(right, groups)
        assert one_wrong[0] <= all_right[0] + 0.001

    def test_groups_wrong_as_a_whole_count_for_one_each(self):
        whole = np.repeat(np.arange(100) < 90, 30)
        low, high = grouped_interval(whole, np.arange(3_000) // 30)
        assert (low, high) == pytest.approx(wilson(90, 100), abs=0.01)

    @pytest.mark.parametrize(("n_groups", "share_bad"), [(40, 0.05), (150, 0.04), (150, 0.01)])
    def test_covers_the_true_share_where_a_bootstrap_does_not(self, n_groups, share_bad):
        # A few objects fail, wholly or in part; frames of the others fail once in a thousand.
        random = np.random.default_rng(0)
        groups = np.repeat(np.arange(n_groups), 30)
        true, covered, by_bootstrap = (1 - share_bad) * 0.999 + share_bad / 2, 0, 0
        for _ in range(200):
            bad = random.random(n_groups) < share_bad
            right = random.random(len(groups)) < np.where(bad, random.beta(0.5, 0.5, n_groups), 0.999)[groups]
            low, high = grouped_interval(right, groups)
            covered += low <= true <= high
            sums = np.bincount(groups, right)
            means = sums[random.integers(0, n_groups, (200, n_groups))].sum(axis=1) / len(groups)
            low, high = np.quantile(means, (0.025, 0.975))
            by_bootstrap += low <= true <= high
        assert covered >= 0.92 * 200 > by_bootstrap

    def test_a_million_images_take_a_moment(self):
        n = 1_000_000
        right, groups = np.arange(n) % 100 > 0, np.arange(n) // 2
        tracemalloc.start()
        began = time.process_time()
        grouped_interval(right, groups)
        seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < 2
        assert peak < 60e6


class TestMcNemar:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 400), st.integers(0, 400))
    def test_is_the_exact_binomial_test(self, only_a, only_b):
        expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9, abs=1e-300)

    def test_takes_many_images(self):
        assert mcnemar_exact(50_000, 50_000) == pytest.approx(1, abs=1e-6)
        assert mcnemar_exact(40_000, 60_000) == 0


class TestPairs:
    def test_a_worked_example(self):
        right_a = np.array([1, 1, 1, 0, 0, 1], bool)
        right_b = np.array([1, 1, 0, 1, 1, 1], bool)
        found = compare_pairs(right_a, right_b, np.arange(6))
        assert (found.n_both, found.n_only_a, found.n_only_b, found.n_neither) == (3, 1, 2, 0)
        assert found.difference == pytest.approx(1 / 6)
        assert found.accuracy_b - found.accuracy_a == pytest.approx(found.difference)
        assert found.by_groups is None and found.p_value_by_groups is None
        assert found.p_value == 1.0

    def test_whole_groups_are_resampled(self):
        right_a, right_b = np.repeat([True, False, True, True], 5), np.repeat([True, True, False, True], 5)
        found = compare_pairs(right_a, right_b, np.repeat(np.arange(4), 5))
        low, high = found.by_groups
        assert low < 0 < high
        assert found.p_value_by_groups == 1

    @given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 200))
    def test_the_interval_is_about_the_difference_and_turns_with_the_sides(self, only_a, only_b, same):
        n = only_a + only_b + same
        if n == 0:
            return
        low, high = paired_interval(only_a, only_b, n)
        assert -1 <= low < high <= 1
        assert low <= (only_b - only_a) / n <= high
        assert paired_interval(only_b, only_a, n) == (pytest.approx(-high), pytest.approx(-low))

    def test_the_interval_holds_the_truth_as_often_as_it_says(self):
        random = np.random.default_rng(0)
        shares, n = (0.03, 0.06), 300
        held = 0
        for _ in range(1000):
            only_a, only_b, _ = random.multinomial(n, (*shares, 1 - sum(shares)))
            low, high = paired_interval(only_a, only_b, n)
            held += low <= shares[1] - shares[0] <= high
        assert 930 <= held <= 985


class TestPermutations:
    def test_a_worked_example(self):
        # Three groups gain 1, 2 and 3 images: of the eight choices of signs two are as far from 0 as 6 and -6 are.
        gained, groups = np.ones(6, int), np.array([0, 1, 1, 2, 2, 2])
        assert permutation_test(gained, groups) == pytest.approx(2 / 8, abs=0.01)
        # 1 + 2 - 3: all are.
        assert permutation_test(np.where(groups == 2, -1, 1), groups) == 1

    def test_a_track_counts_once_however_many_frames_it_has(self):
        lost = np.repeat([-1, *[0] * 9], 30)
        assert mcnemar_exact(30, 0) < 1e-8
        assert permutation_test(lost, np.repeat(np.arange(10), 30)) == 1
        assert permutation_test(lost, np.arange(300)) < 1e-4

    def test_images_alone_have_mcnemar_s(self):
        gained = np.array([1] * 14 + [-1] * 5 + [0] * 50)
        assert permutation_test(gained, np.arange(69)) == pytest.approx(mcnemar_exact(5, 14), abs=0.005)

    def test_equal_models_are_rarely_told_apart(self):
        random, found = np.random.default_rng(0), []
        groups = np.repeat(np.arange(40), 5)
        for _ in range(100):
            gained = np.where(random.random(40) < 0.2, random.choice([-1, 1], 40), 0)[groups]
            found.append(permutation_test(gained, groups))
        assert 0 <= sum(p < 0.05 for p in found) <= 10
