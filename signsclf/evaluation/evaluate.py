"""Evaluates an exported model on a source of labelled images."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from signsclf.choices import Layout, Reading, SplitName
from signsclf.data import nearduplicates
from signsclf.data.cache import AUTO, Cache, Decoded, choose_cache, decode_all, decode_some
from signsclf.data.copies import group_named_copies, group_repeats
from signsclf.data.gtsrb import CLASS_NAMES, class_id
from signsclf.data.labels import spelling_key
from signsclf.data.pixels import Pixels
from signsclf.data.rows import is_missing
from signsclf.data.table import Source, apply_crop, by_class_id, describe, read_source
from signsclf.errors import BadImageError, ModelError, SourceError
from signsclf.files import user_path
from signsclf.inference.classifier import Classifier
from signsclf.metrics.classification import Report
from signsclf.metrics.intervals import group_numbers
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.recipe import Crop
from signsclf.text import file_text

_MOST_DOUBLES = 2**26


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An exported model's figures on labelled images.

    Attributes:
        classifier: the model that was evaluated.
        report: the figures.
        source_name: last part of the source's path.
        split: "train", "valid", "test", or "all" for a source without splits that the model was not trained on.
        seen_in_training: relative paths of the evaluated images that the network was trained on, recognised by their
            pixels at the model's size.
        has_record: whether the model folder tells which images it was trained on.
        probabilities: (N, C) of the images evaluated.
        targets: int (N,).
        names: relative path of each.
        paths: full path of each.
        rois: box of each that the network sees, or None where it sees the whole.
        groups: physical object of each, or the photo that it is a copy of; None where neither is known.
        sizes: (width, height) in pixels of each as photographed, or None where the source's csv does not say it.
        pixels: uint8 (N, H, W, 3), each as the network sees it, or their stream.
        twins: training's path and label of each image in ``seen_in_training``, by the image's name.
        train_counts: images of each class that training had, in class order; empty where not known.
        n_calibrated: how many of the images fitted temperature and reject threshold, and with early stopping chose the
            epoch.
        unreadable: relative paths and reasons of images that were left out.
        n_distinct: images of which none is, pixel for pixel, another one of these.
        ungrouped: whether the source tells no group of each.
        training: the table of the images that the network was trained on, where the source has them and they are not
            those evaluated; else empty.
        cache: how decoded images are kept.
    """

    classifier: Classifier
    report: Report
    source_name: str
    split: str
    seen_in_training: tuple[str, ...]
    has_record: bool
    probabilities: np.ndarray
    targets: np.ndarray
    names: tuple[str, ...]
    paths: tuple[str, ...]
    rois: tuple[tuple[int, int, int, int] | None, ...]
    groups: tuple[str | None, ...]
    sizes: tuple[tuple[int, int] | None, ...]
    pixels: Pixels
    twins: dict[str, tuple[str, str]]
    train_counts: tuple[int, ...]
    n_calibrated: int
    unreadable: tuple[tuple[str, str], ...]
    n_distinct: int
    ungrouped: np.ndarray
    training: np.ndarray
    cache: Cache | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures as one JSON object."""
        return {
            "split": self.split,
            **self.report.to_dict(),
            "n_distinct": self.n_distinct,
            "n_seen_in_training": len(self.seen_in_training) if self.has_record else None,
            "seen_in_training": list(self.seen_in_training),
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
        }


def evaluate(
    model: str | Path,
    source: str | Path,
    *,
    split: SplitName | None = None,
    layout: Layout | Reading | None = None,
    skip_bad: bool = False,
    device: str = "cpu",
    cache: str | Path = AUTO,
    observer: Observer | None = None,
) -> Evaluation:
    """Run the exported ONNX file on the source's images.

    Args:
        split: which images; None takes test where the source has it, else what was held out in training, else the
            source's own validation images, else all of it.
        skip_bad: leaves unreadable images out and lists them, instead of stopping.
        device: "cpu" or "cuda".
        cache: where decoded images are kept, see `signsclf.runs.train.train`; what training decoded is used again.

    Raises:
        ModelError: the model folder is damaged, or has no record of what was held out.
        SourceError: the source cannot be used, lacks boxes that the model needs, is not the one trained on where
            ``split`` needs that, or has a class that the model does not know.
        BadImageError: an image cannot be read and ``skip_bad`` is off.
    """
    observer = observer or Observer()
    classifier = Classifier(model, device=device)
    found = read_source(source, layout)
    observer.source_read(partial(describe, found))
    if found.missing and not skip_bad:
        raise BadImageError(f"{found.missing}; correct the table, or give --skip-bad to leave them out")
    found = _matched(found, classifier.labels, observer)
    declared = dict(zip(found.table["path"], found.roi_image_wh, strict=True))
    found = apply_crop(found, classifier.config.crop == Crop.ROI.value)
    record, where = training_record(user_path(model, ModelError)), choose_cache(cache, observer)
    chosen, chosen_split, decoded = _choose(found, split, record, classifier.size[0], where, observer)
    index = {label: i for i, label in enumerate(classifier.labels)}
    if unknown := sorted(set(chosen["label"]) - set(index)):
        known = ", ".join(classifier.labels[:5])
        ids = all(class_id(label) is not None for label in unknown) and set(classifier.labels) <= set(CLASS_NAMES)
        way = ", or be given as GTSRB's ClassIds by --layout gtsrb" if ids else ""
        if near := [label for label in classifier.labels if spelling_key(label) == spelling_key(unknown[0])]:
            way = f": {near[0]!r} differs by case or spaces alone, so call it that"
        raise SourceError(
            f"{found.root}: class {unknown[0]!r} is none that the model knows ({known}, …); labels must match{way}"
        )
    if decoded is None:
        decoded = decode_all(chosen, classifier.size[0], where, observer)
    names = [found.relative(path) for path in chosen["path"]]
    unreadable = tuple(
        (names[i], reason.removeprefix(f"{chosen['path'][i]}: ")) for i, reason in decoded.unreadable.items()
    )
    if unreadable and not skip_bad:
        first = ": ".join(unreadable[0])
        raise BadImageError(
            f"{found.root}: {len(unreadable):,} of {len(chosen):,} images cannot be read ({first}); mend them, or "
            "give --skip-bad"
        )
    kept = np.setdiff1d(np.arange(len(chosen)), list(decoded.unreadable))
    if not len(kept):
        raise SourceError(f"{found.root}: no image of it can be read; nothing to evaluate")
    if unreadable:
        chosen, names, decoded = chosen[kept], [names[i] for i in kept], decoded.take(kept.tolist())
    ungrouped = is_missing(chosen["group"])
    # Copies tell no more than one image does: they are resampled together.
    chosen = group_repeats(group_named_copies(chosen, names)[0], decoded.inputs)
    probabilities = infer(classifier, decoded.pixels, observer)
    targets = np.array([index[label] for label in chosen["label"]], np.int64)
    trained_on, calibrated_on = (inputs_of(record, name) for name in ("train", "valid"))
    twins = {name: trained_on[seen] for name, seen in zip(names, decoded.inputs, strict=True) if seen in trained_on}
    return Evaluation(
        classifier=classifier,
        report=Report.from_probabilities(probabilities, targets, classifier.labels, group_numbers(chosen["group"])),
        source_name=file_text(Path(found.origin).name),
        split=chosen_split,
        seen_in_training=tuple(twins),
        has_record=record is not None,
        probabilities=probabilities,
        targets=targets,
        names=tuple(names),
        paths=tuple(chosen["path"]),
        rois=tuple(roi or None for roi in chosen["roi"]),
        groups=tuple(chosen["group"]),
        sizes=tuple(declared[path] for path in chosen["path"]),
        pixels=decoded.pixels,
        twins=twins,
        train_counts=() if record is None else _train_counts(record, classifier.labels),
        n_calibrated=sum(seen in calibrated_on for seen in decoded.inputs),
        unreadable=unreadable,
        n_distinct=len(set(decoded.digests)),
        ungrouped=ungrouped,
        training=_training(found, record or [], chosen_split),
        cache=where,
    )


def near_training(evaluation: Evaluation, observer: Observer | None = None) -> np.ndarray | None:
    """Tell which of the evaluated images have a near-duplicate among the training images: bool (N,).

    Only images of which the source tells no group are compared, see `signsclf.data.nearduplicates`; images that are, at
    the model's size, training images count too. The training images are decoded once more, as small ones.

    Returns:
        None where the source does not have the training images, or they are those evaluated.

    Raises:
        SignsclfError: see `signsclf.data.cache.decode_all`.
    """
    training = evaluation.training
    if not len(training):
        return None
    found = np.array([name in evaluation.twins for name in evaluation.names])
    rows = np.flatnonzero(evaluation.ungrouped)
    if len(rows):
        small = decode_all(training, nearduplicates.SIDE, evaluation.cache, observer)
        labels = [evaluation.classifier.labels[evaluation.targets[row]] for row in rows]
        found[rows] |= nearduplicates.have_near_duplicates(
            nearduplicates.describe_all(evaluation.pixels, rows),
            labels,
            nearduplicates.describe_all(small.pixels),
            training["label"].tolist(),
        )
    return found


def _training(source: Source, record: list[dict[str, str]], split: str) -> np.ndarray:
    """The rows of the source that trained, by path and label; none where one is missing, or they are evaluated."""
    then = {row["path"]: row["label"] for row in record if row["split"] == "train"}
    table = source.table
    names = [source.relative(path) for path in table["path"]]
    trained = [then.get(name) == label for name, label in zip(names, table["label"], strict=True)]
    complete = split != "train" and sum(trained) == len(then)
    return table[trained] if complete else table[:0]


def _matched(source: Source, labels: tuple[str, ...], observer: Observer) -> Source:
    """The source with GTSRB's names where it has ClassIds for labels, and the model knows signs of GTSRB alone."""
    if set(source.classes) & set(labels) or not set(labels) <= set(CLASS_NAMES):
        return source
    named = by_class_id(source)
    if named is None:
        return source
    first = next(iter(source.table["label"]))
    observer.say(f"labels are matched as GTSRB's ClassIds: {first!r} is {CLASS_NAMES[int(first)]!r}")
    return named


def infer(classifier: Classifier, pixels: Pixels, observer: Observer | None = None) -> np.ndarray:
    """Probabilities (N, C) of uint8 images (N, H, W, 3) at the model's size, batch by batch.

    They are float64, and float32 where that would take more than half a gigabyte.
    """
    observer = observer or Observer()
    shape = len(pixels), len(classifier.labels)
    found = np.empty(shape, np.float64 if np.prod(shape) <= _MOST_DOUBLES else np.float32)
    for start in range(0, len(pixels), 256):
        found[start : start + 256] = classifier.probabilities(np.ascontiguousarray(pixels[start : start + 256]))
        observer.progress("predicting", min(start + 256, len(pixels)), len(pixels))
    return found


def training_record(folder: Path) -> list[dict[str, str]] | None:
    """Read the rows of a model folder's run/split.csv; None where it ships without.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / modelfolder.RUN / "split.csv"
    if not path.is_file():
        return None
    modelfolder.verify_sums(folder, [f"{modelfolder.RUN}/split.csv"])
    try:
        reader = csv.DictReader(io.StringIO(path.read_text("utf-8")))
        if not {"path", "label", "group", "split", "input"} <= set(reader.fieldnames or ()):
            raise ValueError("columns are missing")
        return list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise ModelError(f"{path}: cannot be read ({error}); export the model again") from error


def inputs_of(record: list[dict[str, str]] | None, split: str) -> dict[str, tuple[str, str]]:
    """Map the digest of each image of a split, as the network saw it, to its path and label in training."""
    return {row["input"]: (row["path"], row["label"]) for row in record or () if row["split"] == split}


def _train_counts(record: list[dict[str, str]], classes: tuple[str, ...]) -> tuple[int, ...]:
    counts = Counter(row["label"] for row in record if row["split"] == "train")
    return tuple(counts[label] for label in classes)


def _choose(
    source: Source,
    split: SplitName | None,
    record: list[dict[str, str]] | None,
    size: int,
    cache: Cache | None,
    observer: Observer,
) -> tuple[np.ndarray, str, Decoded | None]:
    """Choose the rows to evaluate: their table, the name of the split, and their pixels if it took these to choose."""
    table, given = source.table, source.table["split"]
    if split is SplitName.TEST or (split is None and (given == "test").any()):
        rows, name = table[given == "test"], "test"
        if not len(rows):
            raise SourceError(f"{source.root}: it has no test images; leave --split out, or give valid or train")
    else:
        wanted = split or SplitName.VALID
        if record is not None and (found := _from_record(source, record, wanted, size, cache, observer)):
            return found[0], wanted.value, found[1]
        if split is not None:
            why = "its images are not those trained on"
            if record is None:
                why = "the model folder has no run/split.csv"
            elif not any(row["split"] == split.value for row in record):
                why = f"training had no {split.value} images"
            raise SourceError(f"{source.root}: --split {split.value} needs the training's own source, but {why}")
        rows, name = table[given == "valid"], "valid"
        if not len(rows):
            rows, name = table, "all"
    return rows, name, None


def _from_record(
    source: Source, record: list[dict[str, str]], wanted: SplitName, size: int, cache: Cache | None, observer: Observer
) -> tuple[np.ndarray, Decoded] | None:
    """Give training's rows of a split and their pixels; None where there are none, or the source is another one.

    It is the one trained on where it has all paths of the record under the same labels, and each image of the split
    gives the network what it gave then.
    """
    then = {row["path"]: row for row in record}
    table = source.table[source.table["split"] != "test"]
    names = [source.relative(path) for path in table["path"]]
    # Without the images that training left out: the rows that its cache has.
    table, names = table[[name in then for name in names]], [name for name in names if name in then]
    if len(names) != len(then) or [then[name]["label"] for name in names] != table["label"].tolist():
        return None
    rows = [i for i, name in enumerate(names) if then[name]["split"] == wanted.value]
    if not rows:
        return None
    decoded = decode_some(table, rows, size, cache, observer)
    if decoded.inputs != [then[names[i]]["input"] for i in rows]:
        return None
    return table[rows], decoded
