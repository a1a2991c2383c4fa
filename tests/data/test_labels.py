"""Labels as people and programs write them become one line of text each, or are refused."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from signsclf.data.labels import SeveralLabelsError, merge_spellings, refuse_labels, spelled_alike, tidy
from signsclf.errors import SourceError


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["cat ", "\u3000cat", "\xa0cat\t", "\u200bcat\ufeff", "cat\r\n"], ["cat"] * 5),
        (["a\u0308"], ["ä"]),
        (["0.0", "1.0", "2"], ["0", "1", "2"]),
        (["007.0", "1.00"], ["007", "1"]),
        (["1.5", "2.0"], ["1.5", "2.0"]),
        (["1.0", "a"], ["1.0", "a"]),
        (["007", "12"], ["007", "12"]),
        (["['cat']", '["dog"]', "('owl',)", "{'fox'}"], ["cat", "dog", "owl", "fox"]),
        (["['traffic light, red']"], ["traffic light, red"]),
        (["['cat']", "dog"], ["cat", "dog"]),
        (["[3]", "[4]"], ["3", "4"]),
        (["[1.0]", "[2.0]"], ["1", "2"]),
        (["[3]", "dog"], ["[3]", "dog"]),
        (["(a)", "b"], ["(a)", "b"]),
    ],
)
def test_one_label_in_other_dress(given, wanted):
    assert tidy(given)[0] == wanted


def test_labels_like_missing_values_are_kept_and_told():
    labels, (said,) = tidy(["nan", "cat", "N/A", "nan", "NA"])
    assert labels == ["nan", "cat", "N/A", "nan", "NA"]
    assert said == "labels that look like missing values are classes: 'N/A', 'nan'"


def test_what_was_done_is_told():
    assert tidy(["cat", "cat "])[1] == []
    assert "'0.0' is '0'" in tidy(["0.0"])[1][0]
    assert "['cat'] is 'cat'" in tidy(["['cat']", "['dog']"])[1][0]
    assert tidy(["a|b", "a", "b"])[1] == ["labels that look like several in one (1) are classes of their own: 'a|b'"]
    assert tidy(["red, white", "red"])[1] == []


@pytest.mark.parametrize(
    ("given", "label", "n"),
    [
        (["cat dog", "['cat', 'dog']"], "['cat', 'dog']", 2),
        (["[]", "[1]"], "[]", 0),
        (["[1, 2, 3]", "[1]"], "[1, 2, 3]", 3),
        (["[1 0 0]", "[0 1 0]"], "[1 0 0]", 3),
    ],
)
def test_lists_of_several_are_none(given, label, n):
    with pytest.raises(SeveralLabelsError) as caught:
        tidy(given)
    assert (caught.value.label, caught.value.n) == (label, n)


def test_hostile_labels_take_no_time():
    started = time.perf_counter()
    tidy(["[" + "a" * 5_000 + "!"] * 2 + ["['" + "\\'" * 3_000, "[" + "a " * 4_000, "((((" * 2_000])
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("label", ["a\nb", "a\tb", "a\x00b", "a\x1b[31m", "x" * 1_001, "\ud800"])
def test_labels_that_no_model_can_hold(label):
    with pytest.raises(SourceError) as caught:
        refuse_labels(["fine", label], lambda text: "line 3", "fix it")
    said = str(caught.value)
    assert said.startswith("line 3: the label ")
    assert said.isprintable()
    assert said.endswith("fix it")


def test_spellings_of_one_name():
    counts = Counter({"cat": 5, "Cat": 7, "no entry": 2, "No  Entry": 1, "dog": 1, "CAT": 5})
    assert spelled_alike(counts) == [["Cat", "CAT", "cat"], ["no entry", "No  Entry"]]
    given = ["cat", "Cat", "Cat", "dog"]
    kept, (said,) = merge_spellings(given, False)
    assert kept == given
    assert "'Cat' 2, 'cat' 1; --merge-case" in said
    merged, (said,) = merge_spellings(given, True)
    assert merged == ["Cat", "Cat", "Cat", "dog"]
    assert "'Cat' 2, 'cat' 1" in said
    assert merge_spellings(["a", "b"], True) == (["a", "b"], [])
