from __future__ import annotations

import sys

import numpy as np
import pytest

from signsclf.errors import MissingExtraError
from signsclf.metrics.audit import label_issues


def predictions(n: int = 300, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A good classifier's answers, and the true labels; class 4 does not occur."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes - 1, n)
    logits = random.normal(0, 0.5, (n, classes))
    logits[np.arange(n), targets] += 4
    exps = np.exp(logits)
    return exps / exps.sum(axis=1, keepdims=True), targets


def test_labels_made_wrong_are_found_and_named():
    pytest.importorskip("cleanlab")
    probabilities, targets = predictions()
    spoilt = np.arange(5, 300, 25)
    labels = targets.copy()
    labels[spoilt] = (targets[spoilt] + 1) % 4
    found = label_issues(probabilities, labels)
    assert {issue.position for issue in found} <= set(spoilt.tolist())
    assert len(found) >= 9
    assert all(issue.suggested == targets[issue.position] for issue in found)
    assert [issue.score for issue in found] == sorted(issue.score for issue in found)


def test_sound_labels_are_left_alone():
    pytest.importorskip("cleanlab")
    assert label_issues(*predictions()) == []
    probabilities, targets = predictions()
    only = targets == 2
    assert label_issues(probabilities[only], targets[only]) == []


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(MissingExtraError, match=r'install it with: pip install "signsclf\[audit\]"$'):
        label_issues(*predictions())
