"""signsclf: train, evaluate and export image classifiers."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = [
    "Prediction",
    "Recipe",
    "__version__",
    "compare",
    "diff",
    "errors",
    "evaluate",
    "export_run",
    "finish",
    "learner",
    "load",
    "load_learner",
    "resume",
    "train",
]

_LAZY = {
    "Prediction": "signsclf.inference.classifier",
    "Recipe": "signsclf.recipe",
    "compare": "signsclf.runs.compare",
    "diff": "signsclf.evaluation.diff",
    "evaluate": "signsclf.evaluation.evaluate",
    "export_run": "signsclf.runs.export",
    "finish": "signsclf.runs.learner",
    "learner": "signsclf.runs.learner",
    "resume": "signsclf.runs.train",
    "train": "signsclf.runs.train",
}
"""Public names, and the module that each is imported from when it is first asked for."""

TYPE_CHECKING = False  # as in typing, whose import would be most of the cost of this one
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from signsclf import errors
    from signsclf.evaluation.diff import diff
    from signsclf.evaluation.evaluate import evaluate
    from signsclf.inference.classifier import Classifier, Prediction
    from signsclf.recipe import Recipe
    from signsclf.runs.compare import compare
    from signsclf.runs.export import export_run
    from signsclf.runs.learner import finish, learner
    from signsclf.runs.train import resume, train


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
    if name not in _LAZY and name != "errors":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name == "errors":
        return import_module("signsclf.errors")
    if _LAZY[name].startswith("signsclf.runs."):
        from signsclf.errors import require_extra

        require_extra("train", f"signsclf.{name}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
