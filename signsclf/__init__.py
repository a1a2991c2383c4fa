"""signsclf: train, evaluate and export image classifiers."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Prediction", "__version__", "load", "load_learner"]

TYPE_CHECKING = False  # as in typing, whose import would be most of the cost of this one
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from signsclf.inference.classifier import Classifier, Prediction


def load(folder: str | Path, threads: int | None = None) -> Classifier:
    """Open a model folder, ready to predict; imports NumPy, Pillow and ONNX Runtime only.

    Args:
        folder: a model folder, as written by ``signsclf train`` or ``signsclf export``.
        threads: CPU threads to use at most; None uses the cores that this process may.

    Raises:
        ModelError: the folder is missing, damaged or of an unknown version.
    """
    from signsclf.inference.classifier import Classifier

    return Classifier(folder, threads)


def load_learner(folder: str | Path) -> Any:
    """Rebuild a fastai Learner from a model folder's weights, without a pickle, ready to train on.

    Raises:
        ModelError: the folder is missing, damaged or of an unknown version.
        MissingExtraError: torch and fastai are not installed.
    """
    from signsclf.errors import require_extra

    require_extra("train", "signsclf.load_learner")
    from signsclf.training.learner import load_learner

    return load_learner(folder)


def __getattr__(name: str) -> Any:
    if name == "Prediction":
        from signsclf.inference.classifier import Prediction

        return Prediction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
