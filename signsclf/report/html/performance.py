"""The values of the sections on how often a classifier is right: headline, classes, confusion, mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from signsclf.metrics.breakdown import Proportion
from signsclf.metrics.classification import wilson
from signsclf.metrics.findings import Findings
from signsclf.report.html import svg
from signsclf.report.html.context import ReportContext
from signsclf.report.html.page import interval, named, percent, picture
from signsclf.report.plots import MAX_MATRIX_CLASSES, SHOWN_MATRIX_CLASSES, most_confused
from signsclf.text import count

MISTAKES_SHOWN = 24
UNSURE_SHOWN = 12
PAIRS_SHOWN = 12
CLASSES_SHOWN = 100

_FIGURES = (
    ("accuracy", "Accuracy"),
    ("top5", "Top-5"),
    ("macro_f1", "Macro-F1"),
    ("balanced_accuracy", "Balanced accuracy"),
)


def headline(found: Findings, context: ReportContext) -> dict[str, Any]:
    """Give the values of headline.html."""
    report = found.report
    figures = []
    for name, label in _FIGURES:
        ends = found.intervals[name]
        figures.append((label, percent(getattr(report, name)), "–" if ends is None else interval(*ends, 2)))
    over = count(found.n_groups, "whole group" if found.grouped else "image")
    own = [(named("This model"), report.accuracy, report.accuracy_low, report.accuracy_high)]
    if (kept := found.without_training_frames) is not None:
        own.append((named("… without known frames", kept.note), kept.value, *kept.interval))
    if (kept := found.without_near_training) is not None:
        own.append((named("… without near-duplicates", kept.note), kept.value, *kept.interval))
    own += [(named(other.label), other.value, other.value, other.value) for other in context.references]
    start = svg.scale([low for _, _, low, _ in own])
    comparisons = [(name, percent(value), svg.whisker(low, value, high, start)) for name, value, low, high in own]
    majority = named("Majority guess", "always the most frequent class")
    return {
        "report": report,
        "grouped": found.grouped,
        "n_groups": found.n_groups,
        "n_wrong": f"{report.n - round(report.accuracy * report.n):,}",
        "figures": figures,
        "caption": f"Intervals of 95 % over {over}",
        "one_by_one": wilson(round(report.accuracy * report.n), report.n),
        "comparisons": [*comparisons, (majority, percent(report.majority_accuracy), "")],
        "scale": _scale(start),
        "references_note": context.references_note if context.references else "",
    }


def classes(found: Findings, context: ReportContext) -> dict[str, Any]:
    """Give the values of classes.html."""
    counts = found.train_counts
    shown = found.classes[:CLASSES_SHOWN]
    start = svg.scale([share.interval[0] for _, share in shown])
    heads = ["Class", "n", "F1", "Recall", _scale(start), "95 % of recall", "Precision"]
    rows = []
    for i, share in shown:
        figures = found.report.per_class[i]
        rows.append(
            [
                figures.label,
                f"{figures.n:,}",
                percent(figures.f1, 1),
                percent(figures.recall, 1),
                svg.whisker(share.interval[0], share.value, share.interval[1], start),
                interval(*share.interval),
                percent(figures.precision, 1),
            ]
        )
        if counts:
            rows[-1].insert(1, f"{counts[i]:,}")
    if counts:
        heads.insert(1, "Trained on")
    chart = heads.index("Recall") + 1
    tables = [
        _breakdown("Rare beside frequent classes", found.rarity),
        _breakdown("Groups of signs", found.class_groups),
    ]
    if len(found.sizes) > 1:
        tables.append(_breakdown("By the shorter side of the image", found.sizes))
    if (tracks := found.tracks) is not None:
        never = f"; {count(tracks.all_wrong, 'group')} with no image right" if tracks.all_wrong else ""
        majority = Proportion(label="groups right by majority of their images", n=tracks.n, right=tracks.majority)
        wholly = Proportion(label="groups with every image right", n=tracks.n, right=tracks.all_right)
        tables.append(_breakdown(f"By group{never}", (majority, wholly)))
        tables.append(_breakdown("Groups with wrong images, the worst first", found.worst_groups))
    return {
        "breakdowns": [table for table in tables if table["rows"]],
        "heads": heads,
        "rows": rows,
        "numbers": [i for i in range(1, len(heads)) if i != chart],
        "chart": chart,
        "n_left_out": len(found.classes) - len(rows),
    }


def _breakdown(title: str, shares: Sequence[Proportion]) -> dict[str, Any]:
    start = svg.scale([share.interval[0] for share in shares]) if shares else 0
    rows = [
        (
            named(share.label, share.note),
            f"{share.n:,}",
            percent(share.value, 1),
            svg.whisker(share.interval[0], share.value, share.interval[1], start),
            interval(*share.interval),
        )
        for share in shares
    ]
    return {"title": title, "scale": _scale(start), "rows": rows}


def _scale(start: float) -> str:
    return f"{100 * start:g} to 100 %"


def confusion(found: Findings, context: ReportContext) -> dict[str, Any]:
    """Give the values of confusion.html."""
    confused, labels = found.confused, list(context.classes)
    shown = np.arange(len(labels))
    if len(labels) > MAX_MATRIX_CLASSES:
        shown = most_confused(confused, SHOWN_MATRIX_CLASSES)
    confidence = context.probabilities.max(axis=1)
    predicted, targets = context.predicted, context.targets
    pairs = []
    for true, called, times in confused.mistakes()[:PAIRS_SHOWN]:
        pictures = []
        for word, chosen in (
            ("true class", (targets == true) & (predicted == true)),
            ("predicted", (targets == called) & (predicted == called)),
            ("a mistake", (targets == true) & (predicted == called)),
        ):
            rows = np.flatnonzero(chosen)
            if len(rows):
                pictures.append((context.show(int(rows[confidence[rows].argmax()])), word))
        pairs.append(
            {
                "pictures": pictures,
                "true": labels[true],
                "predicted": labels[called],
                "times": times,
                "n_true": int(confused.n_true[true]),
            }
        )
    return {
        "n_shown": len(shown),
        "n_classes": len(labels),
        "matrix": svg.matrix(confused.among(shown), [labels[i] for i in shown]),
        "pairs": pairs,
    }


def mistakes(found: Findings, context: ReportContext) -> dict[str, Any]:
    """Give the values of mistakes.html: the most confident mistakes and the least confident right predictions.

    Of each group only the first is shown; mistakes with a heat map.
    """
    confidence = context.probabilities.max(axis=1)
    right = context.predicted == context.targets

    def entry(i: int, word: str) -> dict[str, Any]:
        return {
            "pictures": [(context.show(i), word)],
            "true": context.classes[context.targets[i]],
            "predicted": context.classes[context.predicted[i]],
            "confidence": confidence[i],
            "name": context.names[i],
        }

    worst = []
    for i in context.one_per_group(np.flatnonzero(~right), -confidence)[:MISTAKES_SHOWN]:
        worst.append(entry(i, "image"))
        if context.heat is not None:
            heat = picture(context.heat(i), f"heat map for {worst[-1]['predicted']}")
            worst[-1]["pictures"].append((heat, "why"))
    unsure = context.one_per_group(np.flatnonzero(right), confidence)[:UNSURE_SHOWN]
    return {
        "worst": worst,
        "n_wrong": int((~right).sum()),
        "grouped": found.grouped,
        "explained": context.heat is not None,
        "unsure": [entry(i, "") for i in unsure],
    }
