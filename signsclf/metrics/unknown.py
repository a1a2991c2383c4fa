"""How well a classifier rejects out-of-distribution images: images that show none of its classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from signsclf.metrics.classification import auroc, wilson


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A classifier's confidence on out-of-distribution ("unknown") images.

    Attributes:
        n: unknown images.
        accepted: how many of them reach the reject threshold; None where the model has none.
        known_accepted: share of the known images that reach it, 0 to 1; None where the model has no threshold.
        threshold: the model's reject threshold.
        auroc: probability that a known image has a higher confidence than an unknown one, 0 to 1.
        median: median confidence on the unknown images.
    """

    n: int
    accepted: int | None
    known_accepted: float | None
    threshold: float | None
    auroc: float
    median: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values, with the share accepted and its 95 % Wilson interval."""
        if self.accepted is None:
            return asdict(self)
        low, high = wilson(self.accepted, self.n)
        return {**asdict(self), "accepted_share": self.accepted / self.n, "low": low, "high": high}


def evaluate_unknown(known: np.ndarray, unknown: np.ndarray, threshold: float | None) -> Unknown:
    """Compare the confidences (highest probabilities) on known images (N,) and on unknown ones (M,); N, M ≥ 1.

    Hendrycks and Gimpel 2017, arXiv:1610.02136.
    """
    is_known = np.arange(len(known) + len(unknown)) < len(known)
    return Unknown(
        n=len(unknown),
        accepted=None if threshold is None else int((unknown >= threshold).sum()),
        known_accepted=None if threshold is None else float((known >= threshold).mean()),
        threshold=threshold,
        auroc=auroc(np.concatenate([known, unknown]), is_known),
        median=float(np.median(unknown)),
    )
