"""The models of a server, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from signsclf.errors import ModelError
from signsclf.export.verify import verify_files
from signsclf.files import file_hash
from signsclf.inference.classifier import Classifier
from signsclf.inference.explain import check_explains
from signsclf.model.folder import SUMS
from signsclf.serve.answers import Refused


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """A verified model; never changed, so that work under way keeps the one that it began with.

    Attributes:
        name: in requests.
        classifier: opened with ``classifier.threads`` threads a run.
        digest: "sha256:" and the hash of the folder's SHA256SUMS, which covers every file.
        max_batch: images in a run.
    """

    name: str
    classifier: Classifier
    digest: str
    max_batch: int = 1

    @cached_property
    def explains(self) -> bool:
        """Whether it has class activation maps."""
        try:
            check_explains(self.classifier)
        except ModelError:
            return False
        return True

    @property
    def threshold(self) -> float | None:
        """The smallest probability that is accepted; None accepts or rejects nothing."""
        return self.classifier.config.reject_threshold


def load_model(folder: Path, name: str, *, threads: int = 1, max_batch: int = 1) -> ServedModel:
    """Open a model folder, verify its checksums and golden outputs, and run it once.

    Raises:
        ModelError: it is missing or damaged.
        ParityError: it gives other outputs than at its export.
    """
    classifier = Classifier(folder, threads)
    verify_files(classifier)
    classifier.logits(np.zeros((1, *classifier.size, 3), np.uint8))
    digest = f"sha256:{file_hash(classifier.folder / SUMS)}"
    return ServedModel(name=name, classifier=classifier, digest=digest, max_batch=min(max_batch, classifier.batch_size))


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
        return iter(list(self._by_name.values()))

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
        self._by_name[model.name] = model
