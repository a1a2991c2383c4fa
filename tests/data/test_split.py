from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signsclf.data.rows import make_table
from signsclf.data.split import hold_out
from signsclf.errors import SourceError
from signsclf.recipe import SplitBy


def table(labels, groups=None, splits=None) -> np.ndarray:
    nothing = [None] * len(labels)
    columns = zip(labels, splits or nothing, groups or nothing, strict=True)
    return make_table([(f"{i}.png", label, split, group, None) for i, (label, split, group) in enumerate(columns)])


def tracks(sizes: dict[str, list[int]]) -> np.ndarray:
    labels, groups = [], []
    for label, counts in sizes.items():
        for track, count in enumerate(counts):
            labels += [label] * count
            groups += [f"{label}/{track}"] * count
    return table(labels, groups)


def sides(split) -> list[str]:
    return split.table["split"].tolist()


rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.sampled_from("uvwxyz"))), min_size=1, max_size=60
)


@settings(max_examples=150, deadline=None)
@given(rows=rows, fraction=st.floats(0, 0.9), seed=st.integers(0, 2**32 - 1))
def test_groups_stay_whole_and_every_class_keeps_training_images(rows, fraction, seed):
    labels, groups = [r[0] for r in rows], [r[1] for r in rows]
    split = hold_out(table(labels, groups), SplitBy.GROUP, fraction, seed)
    assert set(sides(split)) <= {"train", "valid"}
    assert split.groups_in_both_splits == 0
    for group in set(groups) - {None}:
        assert len({side for side, g in zip(sides(split), groups, strict=True) if g == group}) == 1
    trained = {label for side, label in zip(sides(split), labels, strict=True) if side == "train"}
    assert trained == set(labels)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 20), min_size=2, max_size=15),
    fraction=st.floats(0.05, 0.5),
    seed=st.integers(0, 9),
)
def test_each_class_is_within_half_a_group_of_the_fraction(counts, fraction, seed):
    split = hold_out(tracks({"a": counts, "b": [5] * 20}), SplitBy.GROUP, fraction, seed)
    for label, sizes in (("a", counts), ("b", [5] * 20)):
        of_class = split.table[split.table["label"] == label]
        held = int((of_class["split"] == "valid").sum())
        assert held > 0
        assert abs(held - fraction * sum(sizes)) <= max(sizes)


def test_equal_tracks_are_held_out_in_proportion():
    split = hold_out(tracks({"rare": [30] * 5, "common": [30] * 50}), SplitBy.GROUP, 0.2, 0)
    assert Counter(split.table["label"][split.rows("valid")]) == {"rare": 30, "common": 300}
    assert split.held_out_here
    assert split.not_evaluated == ()


def test_a_giant_group_is_not_held_out_where_a_small_one_is_nearer():
    for seed in range(10):
        split = hold_out(tracks({"a": [100, 10]}), SplitBy.GROUP, 0.2, seed)
        assert len(split.rows("valid")) == 10


def test_a_class_with_one_group_stays_in_training_and_is_listed():
    split = hold_out(tracks({"lonely": [30], "many": [30] * 10}), SplitBy.GROUP, 0.2, 0)
    assert split.not_evaluated == ("lonely",)
    assert set(split.table["split"][split.table["label"] == "lonely"]) == {"train"}


def test_one_image_of_a_class_stays_in_training():
    split = hold_out(table(["a"] + ["b"] * 10), SplitBy.GROUP, 0.5, 0)
    assert split.not_evaluated == ("a",)


def test_images_without_a_group_are_held_out_one_by_one():
    split = hold_out(table(["a"] * 100 + ["b"] * 50), SplitBy.GROUP, 0.2, 0)
    assert Counter(split.table["label"][split.rows("valid")]) == {"a": 20, "b": 10}


def test_a_group_across_classes_never_takes_the_last_training_image_of_one():
    # Identical pictures under two labels are one group; all of class "b" is in such groups.
    labels = ["a"] * 12 + ["b", "b"]
    groups = [f"g{i}" for i in range(12)] + ["g0", "g0"]
    for seed in range(30):
        split = hold_out(table(labels, groups), SplitBy.GROUP, 0.5, seed)
        assert "train" in set(split.table["split"][split.table["label"] == "b"])


def test_by_seed_the_same_and_by_another_seed_another():
    source = tracks({"a": [3] * 40, "b": [4] * 40})
    first = sides(hold_out(source, SplitBy.GROUP, 0.3, 7))
    assert sides(hold_out(source, SplitBy.GROUP, 0.3, 7)) == first
    assert sides(hold_out(source, SplitBy.GROUP, 0.3, 8)) != first


def test_the_choice_does_not_depend_on_the_order_of_classes_rows():
    source = tracks({"a": [3] * 10, "b": [4] * 10})
    backwards = source[::-1]
    held = set(source["group"][hold_out(source, SplitBy.GROUP, 0.3, 1).rows("valid")])
    again = set(backwards["group"][hold_out(backwards, SplitBy.GROUP, 0.3, 1).rows("valid")])
    assert held == again


def test_random_split_says_how_many_groups_stand_on_both_sides():
    split = hold_out(tracks({"a": [30] * 5, "b": [30] * 5}), SplitBy.RANDOM, 0.2, 0)
    assert split.groups_in_both_splits == 10
    assert len(split.rows("valid")) == 60


def test_given_splits_are_kept_and_nothing_more_is_held_out():
    given_splits = ["train", "train", "valid", None, "test", "train"]
    source = table(["a", "b", "a", "a", "b", "b"], splits=given_splits)
    split = hold_out(source, SplitBy.GROUP, 0.5, 0)
    assert sides(split) == ["train", "train", "valid", "train", "test", "train"]
    assert not split.held_out_here
    assert split.not_evaluated == ("b",)
    assert source["split"].tolist()[3] is None


def test_given_test_images_are_left_alone_when_validation_is_held_out():
    source = table(["a"] * 20 + ["a"] * 5, splits=["train"] * 20 + ["test"] * 5)
    split = hold_out(source, SplitBy.GROUP, 0.2, 0)
    assert sides(split)[20:] == ["test"] * 5
    assert len(split.rows("valid")) == 4
    assert len(split.rows("train")) == 16


def test_given_split_through_a_group_is_counted():
    source = table(["a"] * 4, groups=["g", "g", "h", "i"], splits=["train", "valid", "train", "valid"])
    assert hold_out(source, SplitBy.GROUP, 0.2, 0).groups_in_both_splits == 1


def test_fraction_zero_holds_nothing_out():
    split = hold_out(table(["a"] * 10), SplitBy.GROUP, 0, 0)
    assert set(sides(split)) == {"train"}
    assert not split.held_out_here
    assert split.not_evaluated == ()
    assert split.rows("valid").tolist() == []
    assert split.rows("train").tolist() == list(range(10))


@pytest.mark.parametrize(("side", "word"), [("valid", "validation"), ("test", "test")])
def test_a_class_that_training_lacks_is_an_error_with_its_name(side, word):
    source = table(["a", "a", "new"], splits=["train", side, side])
    with pytest.raises(SourceError, match=f"class 'new' is in {word} but not in training"):
        hold_out(source, SplitBy.GROUP, 0.2, 0)


def test_no_training_image_is_an_error():
    with pytest.raises(SourceError, match="no training images"):
        hold_out(table(["a", "b"], splits=["test", "valid"]), SplitBy.GROUP, 0.2, 0)


def test_rows_are_positions():
    split = hold_out(table(["a"] * 10), SplitBy.GROUP, 0.3, 0)
    assert np.array_equal(np.sort(np.r_[split.rows("train"), split.rows("valid")]), np.arange(10))


def in_folds(source: np.ndarray, n: int, seed: int = 0, by: SplitBy = SplitBy.GROUP) -> list[set[int]]:
    """Positions that each fold holds out; none for a fold that is refused as empty."""
    held = []
    for k in range(1, n + 1):
        try:
            held.append(set(hold_out(source, by, 0.2, seed, f"{k}/{n}").rows("valid").tolist()))
        except SourceError as error:
            assert "this fold is empty" in str(error)
            held.append(set())
    return held


class TestFolds:
    @settings(max_examples=100, deadline=None)
    @given(rows=rows, n=st.integers(2, 6), seed=st.integers(0, 2**32 - 1))
    def test_they_are_disjoint_of_whole_groups_and_leave_every_class_training_images(self, rows, n, seed):
        labels, groups = [r[0] for r in rows], [r[1] for r in rows]
        source = table(labels, groups)
        keys = [group or f"alone {i}" for i, group in enumerate(groups)]
        held = in_folds(source, n, seed)
        assert sum(map(len, held)) == len(set().union(*held))
        for part in held:
            assert not {keys[i] for i in part} & {keys[i] for i in range(len(keys)) if i not in part}
            assert {labels[i] for i in range(len(labels)) if i not in part} == set(labels)

    @settings(max_examples=60, deadline=None)
    @given(
        counts=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=12), min_size=1, max_size=4),
        n=st.integers(2, 6),
        seed=st.integers(0, 99),
    )
    def test_they_cover_all_but_classes_of_one_group_and_are_nearly_equal(self, counts, n, seed):
        source = tracks({f"class {i}": sizes for i, sizes in enumerate(counts)})
        held = in_folds(source, n, seed)
        lonely = sum(sizes[0] for sizes in counts if len(sizes) == 1)
        assert len(set().union(*held)) == len(source) - lonely
        for i, sizes in enumerate(counts):
            of_class = [sum(source["label"][row] == f"class {i}" for row in part) for part in held]
            assert max(of_class) - min(of_class) <= max(sizes)
        if any(held):
            first = next(k for k, part in enumerate(held, 1) if part)
            assert hold_out(source, SplitBy.GROUP, 0.2, seed, f"{first}/{n}").in_no_fold == lonely

    def test_classes_of_few_groups_are_spread_over_the_folds(self):
        held = in_folds(tracks({f"class {i}": [10, 10] for i in range(20)}), 4)
        assert [len(part) for part in held] == [100] * 4

    def test_classes_that_are_in_no_fold_do_not_unbalance_the_others(self):
        lonely = {"a": [100], "b": [100]}
        held = in_folds(tracks({**lonely, **{label: [10] * 4 for label in "cde"}}), 3)
        assert [len(part) for part in held] == [40] * 3

    def test_the_partition_is_the_same_for_every_fold_and_another_by_seed_and_number(self):
        source = tracks({"a": [3] * 40, "b": [4] * 40})
        assert in_folds(source, 4, 7) == in_folds(source, 4, 7)
        assert in_folds(source, 4, 7) != in_folds(source, 4, 8)
        backwards = source[::-1]
        groups = [set(source["group"][list(part)]) for part in in_folds(source, 4, 7)]
        assert [set(backwards["group"][list(part)]) for part in in_folds(backwards, 4, 7)] == groups

    def test_by_single_images_no_group_is_kept_whole(self):
        source = tracks({"a": [30] * 2, "b": [30] * 2})
        held = in_folds(source, 5, by=SplitBy.RANDOM)
        assert [len(part) for part in held] == [24] * 5
        assert hold_out(source, SplitBy.RANDOM, 0.2, 0, "1/5").groups_in_both_splits == 4

    def test_the_groups_that_a_class_stands_in_are_never_all_held_out_at_once(self):
        labels = ["a"] * 12 + ["b", "b"]
        groups = [f"g{i}" for i in range(12)] + ["g0", "g1"]
        for seed in range(30):
            for k in (1, 2):
                split = hold_out(table(labels, groups), SplitBy.GROUP, 0.2, seed, f"{k}/2")
                assert "train" in set(split.table["split"][split.table["label"] == "b"])

    def test_test_images_are_in_no_fold(self):
        source = table(["a"] * 25, splits=["train"] * 20 + ["test"] * 5)
        assert set().union(*in_folds(source, 5)) == set(range(20))

    def test_a_source_with_a_validation_split_of_its_own_is_refused(self):
        source = table(["a", "a", "b", "b"], splits=["train", "valid", "train", "train"])
        with pytest.raises(SourceError, match="validation images of its own; leave --fold out"):
            hold_out(source, SplitBy.GROUP, 0.2, 0, "1/2")

    def test_a_fold_that_no_class_has_groups_for_is_refused(self):
        with pytest.raises(SourceError, match=r"--fold 9/9.*give fewer folds"):
            hold_out(tracks({"a": [5] * 3, "b": [5] * 2}), SplitBy.GROUP, 0.2, 0, "9/9")
