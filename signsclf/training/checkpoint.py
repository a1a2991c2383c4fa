"""Checkpoints of a training: tensors and plain values, written whole and read without running code."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastcore.foundation import L

from signsclf.errors import ModelError
from signsclf.model.folder import CHECKPOINT

CHECKPOINT_VERSION = 1
_KEYS = {"position", "model", "average", "optimizer", "best", "history", "samples", "loss", "seconds", "lr"}


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write ``folder``/checkpoint.pt under another name first, so that the last good one outlives a full disk.

    Raises:
        ModelError: it could not be written.
    """
    target, new = folder / CHECKPOINT, folder / (CHECKPOINT + ".new")
    try:
        with new.open("wb") as file:
            torch.save({"version": CHECKPOINT_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
    # torch wraps a full disk in a RuntimeError of its zip writer.
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        kept = "the last one is kept" if target.exists() else "there is none yet"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise ModelError(
            f"{target}: the checkpoint cannot be written ({reason}); {kept}; free some space, then use --resume"
        ) from error


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the checkpoint of a run with ``weights_only``: tensors and plain values, no code.

    Raises:
        ModelError: there is none, it is damaged, or of another version.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise ModelError(f"{folder}: no checkpoint.pt in it; nothing to resume, start the training anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Damaged zip, refused pickle: torch raises many kinds.
    except Exception as error:
        raise ModelError(f"{path}: damaged, or not a checkpoint of signsclf; start the training anew") from error
    if isinstance(state, dict) and "draws" in state:
        # The name in earlier checkpoints.
        state["samples"] = state.pop("draws")
    if not isinstance(state, dict) or state.get("version") != CHECKPOINT_VERSION or not state.keys() >= _KEYS:
        raise ModelError(f"{path}: not a checkpoint of version {CHECKPOINT_VERSION}; start the training anew")
    return state


def plain_optimizer(optimizer: Any) -> dict[str, Any]:
    """Give fastai's optimizer state with lists and Python numbers for fastcore's L and NumPy's scalars."""
    state = optimizer.state_dict()
    plain = [{k: float(v) if isinstance(v, np.floating) else v for k, v in h.items()} for h in state["hypers"]]
    return {"state": [dict(s) for s in state["state"]], "hypers": plain}


def restore_optimizer(optimizer: Any, state: dict[str, Any], device: torch.device) -> None:
    """Load an optimizer's state from a checkpoint onto the device that the fit will move the network to."""
    moved = [
        {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in entry.items()} for entry in state["state"]
    ]
    optimizer.load_state_dict({"state": moved, "hypers": L(state["hypers"])})
