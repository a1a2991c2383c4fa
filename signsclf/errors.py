"""Errors that a user can mend. Each message is one line: what was wrong, what would be right, what to do."""

from __future__ import annotations

import errno
import importlib.util

EXTRAS = {
    "train": (
        "torch",
        "torchvision",
        "fastai",
        "timm",
        "onnx",
        "onnxscript",
        "safetensors",
        "cloudpickle",
        "matplotlib",
    ),
    "plots": ("matplotlib",),
    "parquet": ("pyarrow",),
    "audit": ("cleanlab",),
}
"""The extras of this package, and the modules that each of them brings."""


class SignsclfError(Exception):
    """Base of every error that signsclf raises on purpose.

    Attributes:
        exit_code: what the command line exits with: 1 for trouble found, 2 for wrong use.
    """

    exit_code = 2


class SourceError(SignsclfError):
    """The source of images cannot be used: not there, empty, of no known layout, or inconsistent."""


class BadImageError(SignsclfError):
    """An image cannot be read: truncated, not an image, too large, or of a kind that is refused."""

    exit_code = 1


class ModelError(SignsclfError):
    """A model folder, checkpoint or weights file is missing, damaged, unknown or does not fit."""


class DeviceError(SignsclfError):
    """The device that was asked for cannot be used here."""


class ParityError(SignsclfError):
    """A check that guards a result was not passed, so nothing was written."""

    exit_code = 1


class DivergedError(SignsclfError):
    """The loss left all bounds, so that going on with the training is no use."""

    exit_code = 1


class RunError(SignsclfError):
    """Something unexpected ended a training; its traceback is in the run's folder."""

    exit_code = 1


class DownloadError(SignsclfError):
    """A download failed, or what came is not what was asked for."""

    exit_code = 1


class MissingExtraError(SignsclfError):
    """Something was asked for that needs packages which only an extra of this package installs."""


def install_command(extra: str) -> str:
    """Name the command that installs an extra; its quotation marks suit every shell, cmd.exe and PowerShell too."""
    return f'pip install "signsclf[{extra}]"'


def has_extra(extra: str) -> bool:
    """Tell whether the modules of an extra are installed; none of them is imported."""
    return not _missing_modules(extra)


def require_extra(extra: str, purpose: str) -> None:
    """Refuse to go on without an extra. Call it before anything of the extra is imported.

    Args:
        extra: one of `EXTRAS`.
        purpose: what needs it; the message begins with it.

    Raises:
        MissingExtraError: a module of the extra is not installed; the message has the command that installs it.
    """
    if missing := _missing_modules(extra):
        raise MissingExtraError(
            f"{purpose} needs {missing[0]}, which is not installed; install it with: {install_command(extra)}"
        )


def _missing_modules(extra: str) -> list[str]:
    missing = []
    for name in EXTRAS[extra]:
        try:
            found = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            missing.append(name)
    return missing


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether main or GPU memory ran out, by any name that Python, torch and its allocators have for it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # torch.OutOfMemoryError, without importing torch.
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(each in str(error).lower() for each in words)


def first_line(error: BaseException) -> str:
    """Shorten another library's error to part of a line: its first line, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
