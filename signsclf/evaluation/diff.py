"""Two exported models on the same images: which is better, by how much, and where they differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from signsclf.errors import SourceError
from signsclf.evaluation.evaluate import Evaluation, evaluate
from signsclf.files import csv_bytes, write_atomic
from signsclf.metrics.intervals import Paired, compare_pairs, group_numbers
from signsclf.report.files import cell


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An image to which two models give different labels.

    Attributes:
        path: relative to the source.
        label: the true one.
        predicted_a, predicted_b: what each calls it.
        probability_a, probability_b: the probability that each gives it, 0 to 1.
        better: "A" or "B" where that one is right, "neither" where both are wrong.
    """

    path: str
    label: str
    predicted_a: str
    probability_a: float
    predicted_b: str
    probability_b: float
    better: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two models compared.

    Attributes:
        paired: the figures.
        split: which images; "train", "valid", "test" or "all", and both where the models take different ones.
        n_left_out: images evaluated by one of them only, or that one of them was trained on.
        has_records: whether both model folders tell what they were trained on.
        disagreements: the images with different labels: those that A has right first, then B's, then
            neither's, the most probable answers first.
    """

    paired: Paired
    split: str
    n_left_out: int
    has_records: bool
    disagreements: tuple[Disagreement, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        return {
            "split": self.split,
            **asdict(self.paired),
            "n_left_out": self.n_left_out,
            "has_records": self.has_records,
            "disagreements": [asdict(row) for row in self.disagreements],
        }


def diff(
    a: str | Path,
    b: str | Path,
    source: str | Path,
    **options: Any,
) -> Difference:
    """Evaluate both models and compare them on the images that both were evaluated on and neither was trained on.

    Models that held out different images of one source are compared on what both held out.

    Args:
        a, b: model folders.
        source, options: as for `signsclf.evaluation.evaluate.evaluate`.

    Raises:
        SourceError: no image is left to compare them on; else as `signsclf.evaluation.evaluate.evaluate`.
    """
    one, two = (evaluate(model, source, **options) for model in (a, b))
    seen = {*one.seen_in_training, *two.seen_in_training}
    places = {name: i for i, name in enumerate(two.names)}
    pairs = [(i, places[name]) for i, name in enumerate(one.names) if name in places and name not in seen]
    if not pairs:
        raise SourceError(
            f"{source}: no image on which both were evaluated and neither was trained; give one with test images"
        )
    rows_a, rows_b = np.array(pairs).T
    labels_a, probability_a = _answers(one, rows_a)
    labels_b, probability_b = _answers(two, rows_b)
    truth = np.array(one.classifier.labels, dtype=object)[one.targets[rows_a]]
    right_a, right_b = labels_a == truth, labels_b == truth
    differ = np.flatnonzero(labels_a != labels_b)
    order = sorted(
        differ.tolist(), key=lambda i: (not right_a[i], not right_b[i], -max(probability_a[i], probability_b[i]))
    )
    return Difference(
        paired=compare_pairs(right_a, right_b, group_numbers([one.groups[i] for i in rows_a])),
        split=one.split if one.split == two.split else f"{one.split} and {two.split}",
        n_left_out=len({*one.names, *two.names}) - len(pairs),
        has_records=one.has_record and two.has_record,
        disagreements=tuple(
            Disagreement(
                path=one.names[rows_a[i]],
                label=truth[i],
                predicted_a=labels_a[i],
                probability_a=float(probability_a[i]),
                predicted_b=labels_b[i],
                probability_b=float(probability_b[i]),
                better="A" if right_a[i] else "B" if right_b[i] else "neither",
            )
            for i in order
        ),
    )


def write_disagreements(difference: Difference, path: Path) -> None:
    """Write the images on which two models differ as a CSV file.

    Raises:
        SignsclfError: it cannot be written.
    """
    heads = ("path", "label", "predicted_a", "probability_a", "predicted_b", "probability_b", "better")
    rows = (
        (r.path, r.label, r.predicted_a, cell(r.probability_a), r.predicted_b, cell(r.probability_b), r.better)
        for r in difference.disagreements
    )
    write_atomic(path, csv_bytes([heads, *rows]))


def _answers(evaluation: Evaluation, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the label that the model gives to each of the rows, and its probability."""
    chosen = evaluation.probabilities[rows]
    return np.array(evaluation.classifier.labels, dtype=object)[chosen.argmax(axis=1)], chosen.max(axis=1)
