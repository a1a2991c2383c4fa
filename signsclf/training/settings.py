"""Torch's and NumPy's defaults while this package computes, whatever the calling program has set."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Compute with torch's and NumPy's defaults, then restore the caller's settings and global random generators.

    The settings are torch's default dtype, device and threads, gradient mode and autocast, and NumPy's handling of
    floating-point errors. Also a decorator.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the caller's
    seed, devices = torch.initial_seed(), _device_generators()
    with contextlib.ExitStack() as stack:
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # As a context it costs a little at every call of torch.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            random.setstate(generators[0])
            np.random.set_state(generators[1])  # noqa: NPY002
            torch.set_rng_state(generators[2])
            _restore_devices(devices, seed)


def _device_generators() -> tuple[list[torch.Tensor] | None, torch.Tensor | None]:
    """The generators' states of all CUDA devices and of Apple's; None where the caller has not used these yet."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return cuda, torch.mps.get_rng_state() if torch.backends.mps.is_available() else None


def _restore_devices(states: tuple[list[torch.Tensor] | None, torch.Tensor | None], seed: int) -> None:
    cuda, mps = states
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    elif torch.cuda.is_available():
        # The caller's seed, which torch.manual_seed would have given these too.
        torch.cuda.manual_seed_all(seed)
    if mps is not None:
        torch.mps.set_rng_state(mps)
