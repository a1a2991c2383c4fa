from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signsclf.metrics.breakdown import Proportion, by_class, by_group, by_rarity, by_size, by_track, worst_groups
from signsclf.metrics.classification import Confusion, Report, confusion, wilson


def counted(matrix: np.ndarray) -> Confusion:
    targets, predicted = (np.repeat(axis, matrix.ravel()) for axis in np.indices(matrix.shape).reshape(2, -1))
    return confusion(targets, predicted, len(matrix))


MATRIX = np.array([[8, 2, 0, 0], [0, 5, 0, 0], [1, 0, 3, 6], [0, 0, 0, 0]])


def test_classes_come_weakest_first_and_absent_ones_not_at_all():
    targets, predicted = (np.repeat(axis, MATRIX.ravel()) for axis in np.indices(MATRIX.shape).reshape(2, -1))
    report = Report.from_probabilities(np.eye(4)[predicted], targets, list("abcd"))
    found = by_class(report, counted(MATRIX))
    assert [i for i, _ in found] == [2, 1, 0]
    assert found[0][1] == Proportion(label="c", n=10, right=3)
    assert found[0][1].interval == wilson(3, 10)


def test_rarity_takes_thirds_of_the_evaluated_classes_by_their_training_images():
    common, middle, rare = by_rarity(counted(MATRIX), [10, 300, 40, 5000])
    assert (common.label, common.n, common.right) == ("common third", 5, 5)
    assert (middle.n, middle.right) == (10, 3)
    assert (rare.n, rare.right) == (10, 8)
    assert "10 training images" in rare.note
    assert by_rarity(counted(MATRIX[:2, :2]), [1, 2]) == []
    assert by_rarity(counted(MATRIX), [30, 30, 30, 30]) == []


def test_groups_count_what_stays_inside_them():
    found = by_group(counted(MATRIX), {"ab": [0, 1], "cd": [2, 3], "none": [3]})
    assert [(share.label, share.n, share.right) for share in found] == [("cd", 10, 3), ("ab", 15, 13)]
    assert found[0].note == "7 wrong, 1 of them for another group's sign"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 80), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_sizes_part_all_images_in_order(n, most, seed):
    random = np.random.default_rng(seed)
    short_sides, right = random.integers(1, most + 1, n), random.random(n) < 0.5
    found = by_size(right, short_sides)
    assert 1 <= len(found) <= 5
    assert sum(share.n for share in found) == n
    assert sum(share.right for share in found) == right.sum()
    lowest = [int(share.label.split()[0]) for share in found]
    assert lowest == sorted(lowest)


def test_images_of_one_size_are_one_row():
    assert by_size(np.array([True, False]), np.array([32, 32])) == [Proportion(label="32 px", n=2, right=1)]


def test_a_track_is_right_when_the_majority_of_its_frames_are():
    right = np.array([1, 1, 0, 1, 0, 0, 0, 1, 1, 0], bool)
    found = by_track(right, np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 2]))
    # Two of three; one of two is no majority; none; both.
    assert (found.n, found.majority, found.all_right, found.all_wrong) == (4, 2, 1, 1)


def test_a_share_says_nothing_of_nothing_and_refuses_the_impossible():
    assert Proportion(label="", n=0, right=0).value is None
    with pytest.raises(ValueError, match="4 right of 3"):
        Proportion(label="x", n=3, right=4)


def test_the_worst_groups_are_named_and_those_without_a_mistake_are_not():
    right = np.array([True, False, False, False, True, True, False, True])
    groups = ["a", "a", "b", "b", "c", "c", None, None]
    found = worst_groups(right, groups)
    assert [(group.label, group.right, group.n) for group in found] == [("b", 0, 2), ("a", 1, 2)]
    assert len(worst_groups(np.zeros(40, bool), [str(i // 2) for i in range(40)])) == 12
