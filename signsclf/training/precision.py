"""How a training step computes: which layers in which precision, and what the CPU and the C library are told."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator

import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from torch import nn

from signsclf.recipe import Precision, Recipe

# mallopt's names in malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@contextlib.contextmanager
def precision_callbacks(recipe: Recipe) -> Iterator[list[Callback]]:
    """Make the callbacks of a recipe's mixed precision; autocast is exited with the context, even if a fit raises."""
    if recipe.precision is Precision.FP16:
        # It adds the loss scaling that fp16 needs, on CUDA only, which the recipe makes sure of.
        yield [MixedPrecision()]
        return
    autocast = Autocast(recipe.device.value, recipe.precision)
    with autocast.active:
        yield [autocast]


class Autocast(Callback):
    """Runs the network in bf16 or fp16 on any device; the loss is computed in fp32."""

    order = 10

    def __init__(self, device: str, precision: Precision) -> None:
        self.device = device
        self.dtype = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(precision)
        self.active = contextlib.ExitStack()

    @contextlib.contextmanager
    def context(self, model: nn.Module) -> Iterator[None]:
        """Apply the precision of a training step to ``model``'s forward passes within."""
        if self.dtype is None:
            yield
            return
        with torch.autocast(self.device, self.dtype), _fp32_depthwise(model if self.device == "cpu" else None):
            yield

    def before_batch(self) -> None:
        self.active.enter_context(self.context(self.model))

    def after_pred(self) -> None:
        self.active.close()
        self.learn.pred = self.pred.float()


@contextlib.contextmanager
def _fp32_depthwise(model: nn.Module | None) -> Iterator[None]:
    """Compute depthwise convolutions in fp32 within, if gradients are needed; their output has autocast's type.

    On CPUs their backward pass in bf16 is so slow that an EfficientNet trains on small images at less than half its
    speed in fp32; convolutions of wider groups are faster in bf16.
    """
    modules = model.modules() if model is not None else ()
    depthwise = [m for m in modules if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
    for conv in depthwise:
        conv.forward = functools.partial(_forward_in_fp32, conv)
    try:
        yield
    finally:
        for conv in depthwise:
            del conv.forward


def _forward_in_fp32(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    forward = type(conv).forward
    if not (torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)):
        return forward(conv, x)
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        return forward(conv, x.float()).to(dtype)


def keep_memory() -> None:
    """Keep the memory that a training step frees in the process, for the next step (glibc only).

    Otherwise every activation above the C library's threshold is mapped anew each time, and the system clears its
    pages: a third of the step of a small network at 32 px. It cannot be undone: glibc stops adapting its thresholds
    once they are set. So a program calls this for a process of its own, as the command line does; training from
    Python leaves the caller's process as it is.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is not None and hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)  # the highest value allowed
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat denormals, which take a CPU a hundred times longer, as zero within; the setting is restored afterwards."""
    before = _flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes_denormals() -> bool:
    # torch can set this, but not report it.
    return not (torch.full((1,), 2e-38) / 4).item()
