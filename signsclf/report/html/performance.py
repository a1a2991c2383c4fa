"""The sections on how often a classifier is right: headline, classes, confusion, mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from signsclf.metrics.breakdown import Proportion
from signsclf.metrics.findings import Findings
from signsclf.report.html import svg
from signsclf.report.html.elements import card, cards, interval, named, paragraph, percent, picture, table, text
from signsclf.report.html.subject import ReportContext
from signsclf.report.plots import MAX_MATRIX_CLASSES, SHOWN_MATRIX_CLASSES, most_confused
from signsclf.text import count

MISTAKES_SHOWN = 24
UNSURE_SHOWN = 12
PAIRS_SHOWN = 12
CLASSES_SHOWN = 100


def headline(found: Findings, subject: ReportContext) -> Iterator[str]:
    report = found.report
    wrong = report.n - round(report.accuracy * report.n)
    told = f"{interval(report.accuracy_low, report.accuracy_high, 2)} (95 %), n = {report.n:,}"
    yield f'<div class="hero"><b>{percent(report.accuracy)}</b><span>accuracy<br>{text(told)}</span></div>'
    tiles = [
        (percent(report.top5), "true class among the five most probable"),
        (percent(report.macro_f1), f"macro-F1, {report.n_classes_present} classes"),
        (percent(report.balanced_accuracy), "balanced accuracy"),
        (f"{wrong:,}", f"mistakes in {count(report.n, 'image')}"),
    ]
    yield '<div class="tiles">' + "".join(f"<div class=tile><b>{a}</b><span>{text(b)}</span></div>" for a, b in tiles)
    yield "</div>"

    unit = "groups" if found.grouped else "images"
    rows = []
    for name, label in (
        ("accuracy", "Accuracy"),
        ("top5", "Top-5"),
        ("macro_f1", "Macro-F1"),
        ("balanced_accuracy", "Balanced accuracy"),
    ):
        drawn = found.intervals[name]
        drawn_text = "–" if drawn is None else interval(*drawn, 2)
        rows.append([label, percent(getattr(report, name)), drawn_text])
    caption = f"Intervals of 95 % by resampling {count(found.n_units, unit[:-1])} {'whole' if found.grouped else ''}"
    yield '<div class="cols"><div>'
    yield table(("Figure", "Value", "95 % interval"), rows, (1, 2), " ".join(caption.split()))
    if found.grouped:
        yield paragraph(
            "Images of one group, one object or copies of one photo, resemble each other. Counted one by one, the "
            f"interval of accuracy would be {interval(report.accuracy_low, report.accuracy_high, 2)}.",
            "soft",
        )
    yield "</div><div>"
    own = [(named("This model"), report.accuracy, report.accuracy_low, report.accuracy_high)]
    if (kept := found.without_known) is not None:
        own.append((named("… without known frames", kept.note), kept.value, *kept.interval))
    own += [(named(other.label), other.value, other.value, other.value) for other in subject.references]
    start = svg.scale([low for _, _, low, _ in own])
    rows = [[name, percent(value), svg.whisker(low, value, high, start)] for name, value, low, high in own]
    rows.append([named("Majority guess", "always the commonest class"), percent(report.majority_accuracy), ""])
    yield table(("Accuracy", "Value", f"{100 * start:g} to 100 %"), rows, (1,), drawn=2)
    if subject.references:
        yield paragraph(subject.references_note, "soft")
    yield "</div></div>"


def classes(found: Findings) -> Iterator[str]:
    report = found.report
    counts = found.train_counts
    shown = found.classes[:CLASSES_SHOWN]
    start = svg.scale([share.interval[0] for _, share in shown])
    heads = ["Class", "n", "F1", "Recall", f"{100 * start:g} to 100 %", "95 % of recall", "Precision"]
    rows = []
    for i, share in shown:
        figures = report.per_class[i]
        row = [
            text(figures.label),
            f"{figures.n:,}",
            percent(figures.f1, 1),
            percent(figures.recall, 1),
            svg.whisker(share.interval[0], share.value, share.interval[1], start),
            interval(*share.interval),
            percent(figures.precision, 1),
        ]
        rows.append([*row[:1], f"{counts[i]:,}", *row[1:]] if counts else row)
    if counts:
        heads.insert(1, "Trained on")
    left_out = len(found.classes) - len(rows)
    yield from _rows_of("Rare beside common classes", found.rarity)
    yield from _rows_of("Groups of signs", found.groups)
    if len(found.sizes) > 1:
        yield from _rows_of("By the shorter side of the image", found.sizes)
    if found.tracks is not None:
        tracks = found.tracks
        right = Proportion("groups right by majority of their images", tracks.n, tracks.majority)
        wholly = Proportion("groups with every image right", tracks.n, tracks.all_right)
        never = f"; {count(tracks.all_wrong, 'group')} with no image right" if tracks.all_wrong else ""
        yield from _rows_of(f"By group{never}", (right, wholly))
    numbers = [i for i, head in enumerate(heads) if head != "Class" and not head.endswith("to 100 %")]
    yield "<h3>Each class, the weakest first</h3>"
    yield paragraph("Recall: how many of the class's images are right. Precision: how many of those called so.", "soft")
    yield table(heads, rows, numbers, drawn=heads.index("Recall") + 1)
    if left_out:
        yield paragraph(f"{left_out:,} stronger classes are left out here; per_class.csv has them all.", "soft")


def _rows_of(title: str, shares: Sequence[Proportion]) -> Iterator[str]:
    if not shares:
        return
    start = svg.scale([share.interval[0] for share in shares])
    rows = [
        [
            named(share.label, share.note),
            f"{share.n:,}",
            percent(share.value, 1),
            svg.whisker(share.interval[0], share.value, share.interval[1], start),
            interval(*share.interval),
        ]
        for share in shares
    ]
    yield f"<h3>{text(title)}</h3>"
    yield table(("", "n", "Right", f"{100 * start:g} to 100 %", "95 % interval"), rows, (1, 2, 4), drawn=3)


def confusion(found: Findings, subject: ReportContext) -> Iterator[str]:
    confused, classes = found.confused, list(subject.classes)
    shown = np.arange(len(classes))
    if len(classes) > MAX_MATRIX_CLASSES:
        shown = most_confused(confused, SHOWN_MATRIX_CLASSES)
        yield paragraph(f"The {len(shown)} most confused of {len(classes):,} classes.")
    yield paragraph(
        "Rows are the true classes, columns what the model called them. Right answers are blue, and the stronger the "
        "more of the row; wrong ones are orange and carry their number."
    )
    yield f'<div class="wide">{svg.matrix(confused.among(shown), [classes[i] for i in shown])}</div>'
    pairs = confused.mistakes()[:PAIRS_SHOWN]
    if not pairs:
        return
    yield "<h3>Most often confused</h3>"
    confidence = subject.probabilities.max(axis=1)
    predicted, targets = subject.predicted, subject.targets
    entries = []
    n_true = confused.n_true
    for true, called, times in pairs:
        pictures = []
        for word, chosen in (
            ("true class", (targets == true) & (predicted == true)),
            ("called", (targets == called) & (predicted == called)),
            ("a mistake", (targets == true) & (predicted == called)),
        ):
            places = np.flatnonzero(chosen)
            if len(places):
                pictures.append((subject.show(int(places[confidence[places].argmax()])), word))
        entries.append(
            card(
                pictures,
                [
                    f'<span class="true">{text(classes[true])}</span>',
                    f'called <span class="wrong">{text(classes[called])}</span>',
                    f"{times:,} of {count(int(n_true[true]), 'image')}",
                ],
            )
        )
    yield cards(entries)


def mistakes(found: Findings, subject: ReportContext) -> Iterator[str]:
    """The surest mistakes, with heat maps, and the least sure right answers: of each track the first only."""
    confidence = subject.probabilities.max(axis=1)
    right = subject.predicted == subject.targets
    worst = subject.one_of_each_track(np.flatnonzero(~right), -confidence)[:MISTAKES_SHOWN]
    if len(worst):
        of = f"The {len(worst)} surest" if len(worst) < (~right).sum() else "All, the surest first,"
        each = ", one of each group" if found.grouped else ""
        heat = " Bright in the second picture is what speaks for the wrong answer." if subject.heat else ""
        yield paragraph(f"{of} of {count(int((~right).sum()), 'mistake')}{each}.{heat}")
        entries = []
        for i in worst.tolist():
            pictures = [(subject.show(i), "image")]
            if subject.heat is not None:
                label = f"heat map for {subject.classes[subject.predicted[i]]}"
                pictures.append((picture(subject.heat(i), label), "why"))
            entries.append(card(pictures, _answer(subject, i, confidence[i])))
        yield cards(entries)
    else:
        yield paragraph("No mistakes: every image got its true label.")
    unsure = subject.one_of_each_track(np.flatnonzero(right), confidence)[:UNSURE_SHOWN]
    if len(unsure):
        yield "<h3>Right, but least sure</h3>"
        yield cards(
            (
                card(
                    [(subject.show(i), "")],
                    [
                        f'<span class="true">{text(subject.classes[subject.targets[i]])}</span>',
                        f"{percent(confidence[i], 1)} sure",
                    ],
                )
                for i in unsure.tolist()
            ),
            narrow=True,
        )


def _answer(subject: ReportContext, i: int, confidence: float) -> list[str]:
    return [
        f'true <span class="true">{text(subject.classes[subject.targets[i]])}</span>',
        f'called <span class="wrong">{text(subject.classes[subject.predicted[i]])}</span>',
        f"{percent(confidence, 1)} sure",
        f'<span class="sub">{text(subject.names[i])}</span>',
    ]
