"""Verify a model folder: its checksums, its format and its golden outputs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from signsclf import images
from signsclf.errors import ModelError, ParityError
from signsclf.export.golden import REPLAY, check_golden
from signsclf.files import user_path
from signsclf.inference.classifier import Classifier
from signsclf.model import folder as modelfolder
from signsclf.report.mpl import import_matplotlib

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Verified:
    """A model folder that passed verification.

    Attributes:
        config: what config.json says.
        card: the model card, Markdown.
        difference: largest difference of any probability between now and the export, over the stored images.
        bytes: of all its files.
        milliseconds: of one prediction on an image already decoded, median, on this machine.
        images_per_second: in batches, decoded already, on this machine.
    """

    config: modelfolder.Config
    card: str
    difference: float
    bytes: int
    milliseconds: float
    images_per_second: float


def verify(folder: str | Path) -> Verified:
    """Verify every checksum and the golden outputs, and measure the speed on this machine.

    Raises:
        ModelError: a file is changed, missing or unknown.
        ParityError: the model no longer gives the probabilities that were stored at its export.
    """
    folder = user_path(folder, ModelError)
    classifier = Classifier(folder)
    difference = verify_files(classifier)
    one = np.zeros((1, *classifier.size, 3), np.uint8)
    many = np.zeros((classifier.batch_size, *classifier.size, 3), np.uint8)
    single, batch = seconds_a_run(classifier, one), seconds_a_run(classifier, many)
    return Verified(
        config=classifier.config,
        card=classifier.card,
        difference=difference,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        milliseconds=1000 * single,
        images_per_second=len(many) / batch,
    )


def verify_files(classifier: Classifier) -> float:
    """Verify every checksum of an opened model's folder and its golden outputs.

    Returns:
        The largest difference of any probability from those stored at the export.

    Raises:
        ModelError: a file is changed, missing or unknown.
        ParityError: the model no longer gives the probabilities that were stored at its export.
    """
    modelfolder.verify_sums(classifier.folder)
    difference = check_golden(classifier, classifier.folder)
    if not difference <= TOLERANCE:
        raise ParityError(
            f"{classifier.folder}: probabilities differ by {difference:.2g} from those at its export "
            f"(allowed: {TOLERANCE:g}); export it again with this machine's versions"
        )
    return difference


def verify_learner(folder: str | Path) -> float:
    """Unpickle learner.pkl, which can run code, and verify the golden outputs with it.

    Returns:
        The largest difference of any probability from those stored at the export.

    Raises:
        ModelError: there is no learner.pkl, or it is not the one that was exported.
    """
    import_matplotlib()
    import fastai.callback.progress  # noqa: F401  (gives learners their no_bar)
    from fastai.learner import load_learner

    folder = user_path(folder, ModelError)
    classifier = Classifier(folder)
    if not (folder / modelfolder.LEARNER).is_file():
        raise ModelError(f"{folder}: it ships without {modelfolder.LEARNER}; signsclf.load_learner rebuilds one safely")
    modelfolder.verify_sums(folder, [modelfolder.LEARNER])
    learner = load_learner(folder / modelfolder.LEARNER)
    files = sorted((folder / modelfolder.RUN / REPLAY).glob("*.png"))
    if not files:
        raise ModelError(f"{folder}: no golden outputs; export the model again")
    loader = learner.dls.test_dl(files, bs=len(files), num_workers=0)
    with learner.no_bar(), learner.no_logging():
        probabilities = learner.get_preds(dl=loader)[0].numpy()
    pixels = np.stack([images.load(file, classifier.size) for file in files])
    return float(np.abs(probabilities - classifier.probabilities(pixels)).max())


def seconds_a_run(classifier: Classifier, batch: np.ndarray) -> float:
    """Measure the median seconds per run, over half a second or three runs."""
    classifier.logits(batch)
    spent: list[float] = []
    while len(spent) < 3 or sum(spent) < 0.5:
        began = time.perf_counter()
        classifier.logits(batch)
        spent.append(time.perf_counter() - began)
    return float(np.median(spent))
