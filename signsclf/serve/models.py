"""The models of a server, by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from signsclf.errors import ModelError
from signsclf.export.verify import verify_files
from signsclf.inference.classifier import Classifier
from signsclf.inference.explain import check_explains
from signsclf.model.folder import folder_digest
from signsclf.serve.answers import Refused

Fingerprint: TypeAlias = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """A verified model; never changed, so that work under way keeps the one that it began with.

    All of it is in memory: its folder may be replaced.

    Attributes:
        name: in requests.
        classifier: opened with ``classifier.threads`` threads a run.
        digest: "sha256:" and the hash of the folder's SHA256SUMS, which covers every file.
        card: the model card, Markdown.
        explains: whether it has class activation maps.
        fingerprint: see `fingerprint`, of the folder when it was read.
        max_batch: images in a run.
    """

    name: str
    classifier: Classifier
    digest: str
    card: str
    explains: bool
    fingerprint: Fingerprint | None
    max_batch: int

    @property
    def threshold(self) -> float | None:
        """The smallest probability that is accepted; None accepts or rejects nothing."""
        return self.classifier.config.reject_threshold


def load_model(folder: Path, name: str, *, threads: int = 1, max_batch: int = 1) -> ServedModel:
    """Open a model folder, verify its checksums and golden outputs, and run it on each size of batch.

    Args:
        threads: of a run.
        max_batch: images in a run, at most; a model of large images takes fewer.

    Raises:
        ModelError: it is missing or damaged.
        ParityError: it gives other outputs than at its export.
    """
    seen = fingerprint(folder)
    classifier = Classifier(folder, threads)
    digest = folder_digest(classifier.folder)
    verify_files(classifier)
    try:
        check_explains(classifier)
        explains = True
    except ModelError:
        explains = False
    model = ServedModel(
        name=name, classifier=classifier, digest=digest, card=classifier.card, explains=explains, fingerprint=seen,
        max_batch=min(max_batch, classifier.batch_size),
    )  # fmt: skip
    warm(model)
    if folder_digest(classifier.folder) != digest:
        raise ModelError(f"{folder}: replaced while it was read; try again")
    return model


def warm(model: ServedModel) -> None:
    """Run each size of batch once: ONNX Runtime takes its memory now, and the first requests wait for nothing."""
    for size in batch_sizes(model.max_batch):
        model.classifier.logits(np.zeros((size, *model.classifier.size, 3), np.uint8))


def batch_sizes(most: int) -> list[int]:
    """Return the sizes of batches that are run: powers of two, since ONNX Runtime keeps memory for each size."""
    return [1 << bit for bit in range(most.bit_length())]


def fingerprint(folder: Path) -> Fingerprint | None:
    """Describe the files at the top of a folder, to notice that one was replaced; None where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return None
    return tuple(sorted((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found))


class Models:
    """Served models by name; the first is the default.

    Raises:
        ModelError: two have the same name, or there is none.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        found = list(models)
        self._by_name = {model.name: model for model in found}
        if not found:
            raise ModelError("no model to serve: name a model folder")
        if len(self._by_name) < len(found):
            raise ModelError(f"two models have the same name: {', '.join(model.name for model in found)}")
        self.default = found[0].name

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())

    def get(self, name: str | None = None) -> ServedModel:
        """Return a model; None is the default.

        Raises:
            Refused: 404, none has this name.
        """
        found = self._by_name.get(self.default if name is None else name)
        if found is None:
            raise Refused(404, f"no model {name!r}; there are {', '.join(self._by_name)}")
        return found

    def swap(self, model: ServedModel) -> None:
        """Serve a model in place of the one with its name; work under way ends with the old one."""
        self._by_name = {**self._by_name, model.name: model}
