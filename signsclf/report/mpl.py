"""Import matplotlib even where $MPLBACKEND names a backend that is not installed, as a notebook's often does."""

from __future__ import annotations

import contextlib
import os
import sys


def import_matplotlib() -> None:
    """Import matplotlib, which cannot be imported while $MPLBACKEND names an unknown backend.

    Pictures here are rendered to files without any backend. Afterwards the variable is set as before, and its backend
    is selected if it is a valid one. Call this before anything that imports matplotlib, such as fastai.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
