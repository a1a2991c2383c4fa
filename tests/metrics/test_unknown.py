from __future__ import annotations

import json

import numpy as np
import pytest

from signsclf.metrics.unknown import evaluate_unknown


def test_counts_what_reaches_the_threshold():
    found = evaluate_unknown(np.array([0.9, 0.95, 0.5, 0.99]), np.array([0.3, 0.9, 0.2]), 0.9)
    assert (found.n, found.accepted) == (3, 1)
    assert found.known_accepted == 0.75
    # Of twelve pairs one is a tie and one goes the other way.
    assert found.auroc == pytest.approx(10.5 / 12)
    assert found.median == pytest.approx(0.3)
    assert json.loads(json.dumps(found.to_dict()))["accepted_share"] == pytest.approx(1 / 3)


def test_without_a_threshold_nothing_is_accepted_or_refused():
    found = evaluate_unknown(np.array([0.9]), np.array([0.3]), None)
    assert (found.accepted, found.known_accepted, found.auroc) == (None, None, 1.0)
    assert "accepted_share" not in found.to_dict()
