"""The sections on how far a classifier can be trusted: confidence, bad images, unknown pictures, suspect labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from signsclf.metrics.breakdown import Proportion
from signsclf.metrics.classification import ECE_BINS
from signsclf.metrics.findings import Findings
from signsclf.metrics.robustness import STRENGTHS, corrupt
from signsclf.report.html import svg
from signsclf.report.html.elements import (
    card,
    cards,
    interval,
    paragraph,
    percent,
    picture,
    strip,
    table,
    text,
)
from signsclf.report.html.subject import ReportContext
from signsclf.text import count

ISSUES_SHOWN = 24
_CURVE_POINTS = 240


def confidence(found: Findings) -> Iterator[str]:
    sure = found.confidence
    tempered = sure.temperature != 1
    how = (
        "These images fitted the exported temperature, so each half of their "
        f"{'groups' if found.grouped else 'images'} is judged with a temperature that the other half fitted."
        if sure.cross_fitted
        else "None of these images fitted the temperature."
    )
    if tempered:
        yield paragraph(
            f"The exported model has a temperature of {sure.temperature:.3g} folded into its weights. {how}"
        )
    else:
        yield paragraph("The exported model has no temperature: nothing was held out to fit one.")
    middles = [(m + 0.5) / ECE_BINS for m in range(ECE_BINS)]
    series = [svg.Line("", (0, 1), (0, 1), "var(--soft)", dashed=True, marked=False)]
    bins = [("before temperature", sure.bins_before, "var(--orange)")] if tempered else []
    for label, (_, mean, accuracy), colour in [
        *bins,
        ("after" if tempered else "as exported", sure.bins_after, "var(--blue)"),
    ]:
        xs = [x if np.isfinite(x) else middle for x, middle in zip(mean.tolist(), middles, strict=True)]
        series.append(svg.Line(label, xs, accuracy.tolist(), colour))
    yield '<div class="cols"><div><h3>Is it right as often as it says?</h3><figure>'
    yield svg.lines(series, (0, 1), (0, 1), "confidence", "accuracy", description="Reliability diagram")
    counts = sure.bins_after[0]
    yield svg.columns(counts.tolist(), "images at each confidence", description="Images at each confidence")
    yield "<figcaption>On the dashed line confidence is accuracy; below it the model is too sure.</figcaption></figure>"
    rows = [
        [
            text(label),
            percent(getattr(sure.before, name)) if name == "ece" else f"{getattr(sure.before, name):.4f}",
            percent(getattr(sure.after, name)) if name == "ece" else f"{getattr(sure.after, name):.4f}",
        ]
        for name, label in (("ece", "Calibration error (ECE)"), ("brier", "Brier score"), ("nll", "Log loss (NLL)"))
    ]
    heads = ("", "Before temperature", "After")
    if not tempered:
        heads, rows = ("", "Value"), [row[:2] for row in rows]
    yield table(heads, rows, (1, 2))
    yield "</div><div><h3>What if unsure answers are refused?</h3><figure>"
    accepted, error = _thinned(sure.curve)
    top = max(0.01, float(error.max()) * 1.08)
    curve = [svg.Line("", accepted, error, marked=False)]
    if sure.threshold is not None and sure.accepted:
        share = sure.accepted / found.report.n
        wrong = 1 - sure.accepted_right / sure.accepted
        curve.append(svg.Line("at the exported threshold", (share,), (min(wrong, top),), "var(--orange)"))
    yield svg.lines(
        curve,
        (0, 1),
        (0, top),
        "share accepted",
        "wrong among the accepted",
        legend_left=True,
        description="Error against share accepted",
    )
    yield "<figcaption>From the strictest threshold at the left to none at the right.</figcaption></figure>"
    if sure.threshold is not None:
        wrong = sure.accepted - sure.accepted_right
        fitted = " It was chosen on these very images." if sure.cross_fitted else ""
        yield paragraph(
            f"The exported threshold, {percent(sure.threshold, 1)}, accepts {percent(sure.accepted / found.report.n)} "
            f"of the images; {percent(wrong / sure.accepted if sure.accepted else None)} of those ({wrong:,}) are "
            f"wrong.{fitted}"
        )
    if sure.aims:
        rows = [[percent(a.accept_error, 1), percent(a.accepted, 1), percent(a.accepted_error)] for a in sure.aims]
        caption = "Thresholds chosen on one half and judged on the other"
        yield table(("Error aimed at", "Accepted", "Error found"), rows, (0, 1, 2), caption)
    yield "</div></div>"


def _thinned(curve: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """At most `_CURVE_POINTS` of its points, evenly by share accepted, with the last."""
    accepted, error = curve
    places = np.searchsorted(accepted, np.linspace(accepted[0], 1, _CURVE_POINTS)).clip(0, len(accepted) - 1)
    places = np.unique(places)
    return accepted[places], error[places]


def robustness(found: Findings, subject: ReportContext) -> Iterator[str]:
    measured = found.robustness
    if measured is None:
        return
    within = "" if measured.interval is None else f" ({interval(*measured.interval)}, 95 %)"
    yield (
        f'<div class="hero"><b>{percent(measured.mean, 1)}</b><span>mean corrupted accuracy{text(within)}<br>'
        f"{text(percent(measured.clean, 1))} on the same {count(measured.n, 'image')} as they are</span></div>"
    )
    height, width = subject.pixels.shape[1:3]
    sampled = " drawn at random" if measured.n < found.report.n else ""
    yield paragraph(
        f"{len(measured.accuracy)} corruptions at {STRENGTHS} strengths, made on {count(measured.n, 'image')}{sampled} "
        f"at the {width}×{height} pixels that the network sees: so a strength means the same for small and large "
        "photographs, and nothing is averaged away by shrinking. Lengths are shares of the side; noise and JPEG blocks "
        "are in pixels, so compare models of different sizes with care."
    )
    example = _example(subject)
    yield '<div class="small">'
    for name, values in sorted(measured.accuracy.items(), key=lambda item: np.mean(item[1])):
        points = (measured.clean, *values)
        chart = svg.lines(
            [svg.Line("", range(STRENGTHS + 1), points)],
            (0, STRENGTHS),
            (0, 1),
            "strength",
            "",
            size=(240, 150),
            percents=(False, True),
            description=f"Accuracy under {name}",
        )
        shown = [example, *(corrupt(example[None], name, k, measured.seed)[0] for k in range(1, STRENGTHS + 1))]
        told = f"<b>{text(name)}</b>, mean {percent(float(np.mean(values)), 1)}"
        yield f"<figure><figcaption>{told}</figcaption>{strip(shown, f'an image under {name}')}{chart}</figure>"
    yield "</div>"


def _example(subject: ReportContext) -> np.ndarray:
    """A right image of strong contrast: one on which it is seen what a corruption does."""
    right = np.flatnonzero(subject.predicted == subject.targets)
    places = right if len(right) else np.arange(len(subject.targets))
    places = places[np.argsort(-subject.probabilities.max(axis=1)[places], kind="stable")[:200]]
    height, width = subject.pixels.shape[1:3]
    top, left = height // 4, width // 4
    middle = subject.pixels[places, top : height - top, left : width - left].astype(np.float32)
    # Neither dark nor blazing, so that darkness, over-exposure and fog all show.
    light = np.abs(middle.mean(axis=(1, 2, 3)) - 128)
    return subject.pixels[places[int(np.argmax(middle.std(axis=(1, 2)).mean(axis=1) - light))]]


def unknown(found: Findings, subject: ReportContext) -> Iterator[str]:
    unknown = found.unknown
    if unknown is None:
        return
    tiles = [(percent(unknown.auroc, 1), "AUROC of the confidence: 50 % tells nothing, 100 % tells all apart")]
    if unknown.accepted is not None:
        share = Proportion("", unknown.n, unknown.accepted)
        tiles = [
            (percent(share.value, 1), f"of {count(unknown.n, 'other picture')} accepted ({interval(*share.interval)})"),
            (percent(unknown.known_accepted, 1), "of the images of the classes accepted"),
            *tiles,
        ]
    tiles.append((percent(unknown.median, 1), "middle confidence on the other pictures"))
    yield paragraph(
        "Pictures that show none of the classes: a model should be unsure of them, so that its threshold refuses them."
    )
    yield (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{value}</b><span>{text(label)}</span></div>' for value, label in tiles)
        + "</div>"
    )
    if subject.unknown_accepted:
        yield "<h3>Taken most surely for one of the classes</h3>"
        yield cards(
            (
                card(
                    [(picture(pixels, "a picture of none of the classes"), "")],
                    [f'called <span class="wrong">{text(label)}</span>', f"{percent(confidence, 1)} sure"],
                )
                for label, confidence, pixels in subject.unknown_accepted
            ),
            narrow=True,
        )


def labels(found: Findings, subject: ReportContext) -> Iterator[str]:
    audit = found.audit
    if audit is None:
        return
    left_out = f" {count(audit.n_seen, 'image')} that it was trained on are left out." if audit.n_seen else ""
    yield paragraph(
        f"{count(audit.n, 'image')} that the model was not trained on, looked at by confident learning.{left_out} "
        "A suspect is a label that the model contradicts with confidence: the label may be wrong, or the model."
    )
    confidence = subject.probabilities.max(axis=1)
    if audit.issues:
        issues = {issue.position: issue for issue in audit.issues}
        ranks = np.zeros(len(subject.names))
        ranks[list(issues)] = np.arange(len(issues))
        shown = [issues[i] for i in subject.one_of_each_track(np.array(list(issues)), ranks)[:ISSUES_SHOWN].tolist()]
        of = f"{len(shown)} of {len(issues):,}" if len(shown) < len(issues) else f"{len(shown)}"
        each = ", one of each group" if found.grouped else ""
        yield f"<h3>Suspected label errors: {of}, the most suspect first{each}</h3>"
        yield cards(
            card(
                [(subject.show(issue.position), "")],
                [
                    _suspect("label", "true", subject.classes[subject.targets[issue.position]], issue.score),
                    _suspect("or", "wrong", subject.classes[issue.suggested], confidence[issue.position]),
                    f'<span class="sub">{text(subject.names[issue.position])}</span>',
                ],
            )
            for issue in shown
        )
    else:
        yield paragraph("No label is suspected.")
    if audit.duplicates:
        places = {name: i for i, name in enumerate(subject.names)}
        yield f"<h3>{count(len(audit.duplicates), 'image')} that the training holds too, pixel for pixel</h3>"
        rows = [
            [subject.show(places[d.name]), text(d.name), text(d.label), text(d.training_name), text(d.training_label)]
            for d in audit.duplicates[:ISSUES_SHOWN]
        ]
        yield table(("", "Judged here", "Label", "In training", "Label there"), rows)
    else:
        yield paragraph("None of the images judged equals a training image, pixel for pixel, at the network's size.")


def _suspect(word: str, kind: str, label: str, probability: float) -> str:
    return f'{word} <span class="{kind}">{text(label)}</span>, {percent(probability, 1)}'
