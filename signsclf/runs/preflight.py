"""Checks before the first epoch what comes after the last: export, parity, int8, output folder, disk space."""

from __future__ import annotations

import copy
import re
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from signsclf.choices import Int8Policy, Layout
from signsclf.data.cache import Cache
from signsclf.errors import ModelError
from signsclf.export.golden import noise_images
from signsclf.export.int8 import write_int8
from signsclf.export.onnx import fold_temperature, torch_logits, write_network
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.recipe import Optimizer, Solver
from signsclf.runs.prepare import Plan
from signsclf.runs.writer import ModelFolderWriter, new_config
from signsclf.text import size_text
from signsclf.training.architectures import Architecture, body_and_head
from signsclf.training.settings import own_settings

SAFETY = 1.3
"""Free space is to be so many times what was counted."""
_IMAGES = 8
_FIXED_BYTES = 20_000_000  # plots, learner.pkl's own code, the graph without its weights
_BYTES_A_ROW = 500  # split.csv and predictions.csv
_passed: set[tuple[str, int, int, bool]] = set()
"""Architecture, classes, size and int8 that an earlier training of this process has shown to be exportable."""


@own_settings()
def preflight(
    planned: Plan, model: nn.Module, out: Path, int8: Int8Policy, cache: Cache | None, observer: Observer
) -> int:
    """Export a copy of the untrained network as the trained one will be, next to its output folder.

    Whoever calls it holds the lock on ``out``, see `signsclf.runs.folder.claimed`. Nothing is left behind.

    Args:
        model: the network, which is left as it is.
        out: the model folder to be.
        cache: how images will be kept; None where they are decoded already.

    Returns:
        Bytes that a new entry of the cache must leave free for the run; 0 where they share no disk.

    Raises:
        ModelError: the network cannot be exported, the folder cannot be written, or the disk has too little space.
        ParityError: ONNX Runtime does not answer as the network does.
    """
    began = time.monotonic()
    arch, size, classes = planned.arch, planned.recipe.size, planned.source.classes
    kept = None if cache is None or cache.streams else cache.folder
    leave = _check_disk(planned, model, out, kept, observer)
    key = (arch.name, len(classes), size, int8 is not Int8Policy.NONE)
    prefix = f".{out.name}.check-"
    try:
        for left in out.parent.iterdir():
            # Of a process that was killed: the lock on the output folder is ours.
            if re.fullmatch(re.escape(prefix) + "[^.]+(?:[.]done)?", left.name):
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent, ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch) / "model"
            (folder / modelfolder.RUN).mkdir(parents=True)
            (folder / modelfolder.RUN / "written").write_bytes(bytes(1 << 16))
            if key not in _passed:
                _export(folder, planned, model, int8, observer)
            done = Path(scratch + ".done")
            try:
                modelfolder.publish(folder, done)
            finally:
                shutil.rmtree(done, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"{out.parent}: cannot be written ({error.strerror or error}); give --out a folder that can be"
        ) from error
    export = "export" if key not in _passed else "export (as before)"
    _passed.add(key)
    observer.say(f"checked: {export}, disk, output folder ({time.monotonic() - began:.1f} s)")
    return leave


def _export(folder: Path, planned: Plan, model: nn.Module, int8: Int8Policy, observer: Observer) -> None:
    arch, classes, recipe = planned.arch, planned.source.classes, planned.recipe
    pixels = noise_images(_IMAGES, (recipe.size, recipe.size))
    twin = _tamed(model, arch, len(classes), pixels)
    parity, classifier_weight = write_network(folder, twin, arch, classes, recipe.size, pixels)
    config = new_config(planned, twin, parity, classifier_weight, pixels)
    ModelFolderWriter(folder, config).write_golden(pixels)
    if int8 is not Int8Policy.NONE:
        found = write_int8(folder, config, pixels, pixels, np.zeros(len(pixels), np.int64), force=True)
        if found.result != "written":
            observer.say(f"warning: {found}; training continues, and will end without {modelfolder.ONNX_INT8}")


def _tamed(model: nn.Module, arch: Architecture, n_classes: int, pixels: np.ndarray) -> nn.Module:
    """Copy the network with logits of a trained one's size.

    A deep network of random weights gives logits of any size, in which the rounding of two runtimes differs visibly.
    """
    twin = copy.deepcopy(model).cpu().float().train()
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.reset_running_stats()
            module.momentum = None
    body, head = body_and_head(twin, arch)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (arch.mean, arch.std))
    with torch.no_grad():
        head(body((x - mean) / std))
    twin.eval()
    spread = float(torch_logits(twin, arch, pixels).std(dtype=np.float64))
    return fold_temperature(twin, n_classes, spread) if np.isfinite(spread) and spread > 1 else twin


def _check_disk(planned: Plan, model: nn.Module, out: Path, cache: Path | None, observer: Observer) -> int:
    recipe, n_rows = planned.recipe, len(planned.source.table)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    checkpoints = _checkpoint_copies(planned) * weights
    files = 4 * weights + _FIXED_BYTES + _BYTES_A_ROW * n_rows
    needed = round(SAFETY * (checkpoints + files))
    decoded = 0 if cache is None or planned.source.layout is Layout.SYNTHETIC else n_rows * 3 * recipe.size**2
    try:
        free = shutil.disk_usage(out.parent).free
    except OSError:
        return 0
    if free < needed:
        raise ModelError(
            f"{out.parent}: the run needs up to {size_text(needed)} of disk space and {size_text(free)} are free; free "
            "some, or give --out a folder on another disk"
        )
    counted = f"{SAFETY} times {size_text(checkpoints)} of checkpoints and {size_text(files)} of model files"
    cached = f"; the cache takes up to {size_text(decoded)}" if decoded else ""
    observer.say(f"disk: the run needs up to {size_text(needed)} ({counted}), {size_text(free)} are free{cached}")
    return needed if decoded and _same_disk(out.parent, cache) else 0


def _checkpoint_copies(planned: Plan) -> int:
    """Count the copies of the weights in the last checkpoint and in the one being written.

    They are the current weights, those of the kept epoch, the moving average, and the state of the optimizer.
    """
    recipe = planned.recipe
    if planned.solver is not Solver.GRADIENT:
        return 0
    return 2 * (2 + bool(recipe.ema_decay) + (1 if recipe.optimizer is Optimizer.SGD else 2))


def _same_disk(one: Path, other: Path) -> bool:
    try:
        found = next(folder for folder in (other, *other.parents) if folder.exists())
        return one.stat().st_dev == found.stat().st_dev
    except OSError:
        return False
