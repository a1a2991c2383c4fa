"""Imports matplotlib where $MPLBACKEND names a backend that this environment lacks, as a notebook's does elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys


def import_matplotlib() -> None:
    """Import matplotlib, which refuses to be imported where $MPLBACKEND is not known to it.

    Pictures here are drawn to files by a canvas of their own. What comes later finds the backend that the variable
    names, where it is a valid one, and the environment as it was. Call it before anything that imports matplotlib,
    such as fastai.
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
