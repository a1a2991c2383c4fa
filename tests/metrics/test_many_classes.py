"""Thousands of classes: figures, intervals and report take seconds, and little memory beside the probabilities."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from signsclf.metrics.classification import Report, Scores
from signsclf.metrics.findings import Findings, FoldedCalibration, analyze
from signsclf.metrics.intervals import bootstrap_intervals
from signsclf.report.files import write_report
from signsclf.report.html import ReportContext, render


def answers(n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes, four fifths of them equal."""
    random = np.random.default_rng(0)
    targets = random.integers(0, n_classes, n)
    return targets, np.where(random.random(n) < 0.8, targets, random.integers(0, n_classes, n))


def test_the_intervals_of_a_hundred_thousand_classes():
    n, n_classes = 1_000, 100_000
    targets, predicted = answers(n, n_classes)
    right = predicted == targets
    confidence = np.full(n, 0.8)
    scores = Scores(
        predicted=predicted,
        confidence=confidence,
        true=np.where(right, confidence, 0.0),
        squares=confidence**2,
        in_top_k=right,
    )
    report = Report.from_scores(scores, targets, [str(i) for i in range(n_classes)])
    tracemalloc.start()
    began = time.process_time()
    found = bootstrap_intervals(report, targets, predicted, right, np.arange(n) // 3)
    seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["accuracy"][0] < right.mean() < found["accuracy"][1]
    assert seconds < 20
    assert peak < 50e6


def evaluated(n: int, n_classes: int, folder) -> Findings:
    """All that a report needs, from probabilities to files."""
    targets, predicted = answers(n, n_classes)
    probabilities = np.full((n, n_classes), 0.2 / (n_classes - 1), np.float32)
    probabilities[np.arange(n), predicted] = 0.8
    classes = [f"class {i}" for i in range(n_classes)]
    names = [f"{i}.png" for i in range(n)]
    tracemalloc.start()
    report = Report.from_probabilities(probabilities, targets, classes)
    found = analyze(
        report,
        probabilities,
        targets,
        groups=np.arange(n) // 2,
        short_sides=np.full(n, 40),
        calibration=FoldedCalibration(temperature=1.5, fitted_here=True, threshold=0.5),
        train_counts=np.arange(n_classes) % 50,
    )
    picture = np.zeros((8, 8, 3), np.uint8)
    write_report(folder, report, probabilities, targets, classes, names, lambda name: picture)
    page = render(
        found,
        ReportContext(
            title="many",
            about="",
            cautions=(),
            references=(),
            references_note="",
            classes=classes,
            names=names,
            probabilities=probabilities,
            targets=targets,
            groups=np.arange(n) // 2,
            pixels=np.zeros((n, 1, 1, 3), np.uint8),
            image=lambda i: picture,
            heat=None,
            unknown_accepted=(),
            footer="",
        ),
    )
    assert "most confused of" in page
    assert len(page) < 3e6
    return found


@pytest.mark.slow
def test_a_report_of_ten_thousand_classes(tmp_path):
    began = time.process_time()
    found = evaluated(5_000, 10_000, tmp_path)
    seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.intervals["macro_f1"] is not None
    assert seconds < 60
    assert peak < 600e6
