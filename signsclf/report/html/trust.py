"""The values of the sections on how far to trust a classifier: confidence, robustness, other images, labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from signsclf.metrics.breakdown import Proportion
from signsclf.metrics.classification import ECE_BINS, Report
from signsclf.metrics.findings import Findings
from signsclf.metrics.robustness import STRENGTHS, corrupt
from signsclf.report.html import svg
from signsclf.report.html.context import ReportContext
from signsclf.report.html.page import interval, percent, picture, strip
from signsclf.text import count

ISSUES_SHOWN = 24
_CURVE_POINTS = 240


def confidence(found: Findings, context: ReportContext) -> dict[str, Any]:
    """Give the values of confidence.html."""
    measured = found.confidence
    tempered = measured.temperature != 1
    rows = [
        (label, _figure(measured.before, name), _figure(measured.after, name))
        for name, label in (("ece", "Calibration error (ECE)"), ("brier", "Brier score"), ("nll", "Log loss (NLL)"))
    ]
    return {
        "confidence": measured,
        "tempered": tempered,
        "grouped": found.grouped,
        "n": found.report.n,
        "n_accepted_wrong": measured.accepted - measured.accepted_right,
        "reliability": _reliability(found),
        "histogram": svg.columns(
            measured.bins_after[0].tolist(), "images at each confidence", description="Images at each confidence"
        ),
        "risk": _risk(found),
        "calibration": rows if tempered else [row[:2] for row in rows],
        "aims": [
            (percent(aim.max_accepted_error, 1), percent(aim.accepted, 1), percent(aim.accepted_error))
            for aim in measured.aims
        ],
    }


def _figure(report: Report, name: str) -> str:
    value = getattr(report, name)
    return percent(value) if name == "ece" else f"{value:.4f}"


def _reliability(found: Findings) -> svg.Markup:
    measured = found.confidence
    curves = [("as exported", measured.bins_after, "var(--blue)")]
    if measured.temperature != 1:
        curves = [
            ("before temperature", measured.bins_before, "var(--orange)"),
            ("after", measured.bins_after, "var(--blue)"),
        ]
    middles = [(m + 0.5) / ECE_BINS for m in range(ECE_BINS)]
    series = [svg.Line("", (0, 1), (0, 1), "var(--soft)", dashed=True, marked=False)]
    for label, (_, mean, accuracy), colour in curves:
        xs = [x if np.isfinite(x) else middle for x, middle in zip(mean.tolist(), middles, strict=True)]
        series.append(svg.Line(label, xs, accuracy.tolist(), colour))
    return svg.lines(series, (0, 1), (0, 1), "confidence", "accuracy", description="Reliability diagram")


def _risk(found: Findings) -> svg.Markup:
    measured = found.confidence
    accepted, error = _thinned(measured.curve)
    top = max(0.01, float(error.max()) * 1.08)
    curve = [svg.Line("", accepted, error, marked=False)]
    if measured.threshold is not None and measured.accepted:
        share = measured.accepted / found.report.n
        wrong = 1 - measured.accepted_right / measured.accepted
        curve.append(svg.Line("at the exported threshold", (share,), (min(wrong, top),), "var(--orange)"))
    return svg.lines(
        curve,
        (0, 1),
        (0, top),
        "share accepted",
        "wrong among the accepted",
        legend_left=True,
        description="Error against share accepted",
    )


def _thinned(curve: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Take at most `_CURVE_POINTS` of its points, evenly by share accepted, with the last."""
    accepted, error = curve
    points = np.searchsorted(accepted, np.linspace(accepted[0], 1, _CURVE_POINTS)).clip(0, len(accepted) - 1)
    points = np.unique(points)
    return accepted[points], error[points]


def robustness(found: Findings, context: ReportContext) -> dict[str, Any] | None:
    """Give the values of robustness.html; None where it was not measured."""
    measured = found.robustness
    if measured is None:
        return None
    height, width = context.pixels.shape[1:3]
    example = _example(context)
    charts = []
    for name, values in sorted(measured.accuracy.items(), key=lambda item: np.mean(item[1])):
        shown = [example, *(corrupt(example[None], name, k, measured.seed)[0] for k in range(1, STRENGTHS + 1))]
        lines = svg.lines(
            [svg.Line("", range(STRENGTHS + 1), (measured.clean, *values))],
            (0, STRENGTHS),
            (0, 1),
            "strength",
            "",
            size=(240, 150),
            percents=(False, True),
            description=f"Accuracy under {name}",
        )
        pictures = strip(shown, f"an image under {name}")
        charts.append({"name": name, "mean": float(np.mean(values)), "strip": pictures, "lines": lines})
    return {
        "robustness": measured,
        "n_strengths": STRENGTHS,
        "n": found.report.n,
        "width": width,
        "height": height,
        "charts": charts,
    }


def _example(context: ReportContext) -> np.ndarray:
    """Choose an image of strong contrast that is predicted right: one on which the effect of a corruption shows."""
    right = np.flatnonzero(context.predicted == context.targets)
    rows = right if len(right) else np.arange(len(context.targets))
    rows = rows[np.argsort(-context.probabilities.max(axis=1)[rows], kind="stable")[:200]]
    height, width = context.pixels.shape[1:3]
    top, left = height // 4, width // 4
    middle = context.pixels[rows][:, top : height - top, left : width - left].astype(np.float32)
    # Neither dark nor blazing, so that darkness, over-exposure and fog all show.
    light = np.abs(middle.mean(axis=(1, 2, 3)) - 128)
    return context.pixels[rows[int(np.argmax(middle.std(axis=(1, 2)).mean(axis=1) - light))]]


def unknown(found: Findings, context: ReportContext) -> dict[str, Any] | None:
    """Give the values of unknown.html; None where no out-of-distribution images were predicted."""
    measured = found.unknown
    if measured is None:
        return None
    figures = [(percent(measured.auroc, 1), "AUROC of the confidence: 50 % tells nothing, 100 % tells all apart")]
    if measured.accepted is not None:
        share = Proportion(label="", n=measured.n, right=measured.accepted)
        accepted = f"of {count(measured.n, 'such image')} accepted ({interval(*share.interval)})"
        figures = [
            (percent(share.value, 1), accepted),
            (percent(measured.known_accepted, 1), "of the images of the classes accepted"),
            *figures,
        ]
    figures.append((percent(measured.median, 1), "median confidence in them"))
    accepted = [
        {
            "pictures": [(picture(pixels, "an image of none of the classes"), "")],
            "label": label,
            "confidence": confidence,
        }
        for label, confidence, pixels in context.unknown_accepted
    ]
    return {"figures": figures, "accepted": accepted}


def labels(found: Findings, context: ReportContext) -> dict[str, Any] | None:
    """Give the values of labels.html; None where the labels were not audited."""
    audit = found.audit
    if audit is None:
        return None
    confidence = context.probabilities.max(axis=1)
    issues = {issue.position: issue for issue in audit.issues}
    ranks = np.zeros(len(context.names))
    ranks[list(issues)] = np.arange(len(issues))
    rows = {name: i for i, name in enumerate(context.names)}
    return {
        "audit": audit,
        "grouped": found.grouped,
        "issues": [
            {
                "pictures": [(context.show(i), "")],
                "label": context.classes[context.targets[i]],
                "score": issues[i].score,
                "suggested": context.classes[issues[i].suggested],
                "confidence": confidence[i],
                "name": context.names[i],
            }
            for i in context.one_per_group(np.array(list(issues), int), ranks)[:ISSUES_SHOWN]
        ],
        "duplicates": [
            (context.show(rows[d.name]), d.name, d.label, d.training_name, d.training_label)
            for d in audit.duplicates[:ISSUES_SHOWN]
        ],
    }
