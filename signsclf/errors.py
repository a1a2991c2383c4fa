"""Errors that a user can fix. Each message is one line: what was wrong, what would be right, what to do."""

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
    "track": ("tensorboard", "mlflow"),
    "serve": ("starlette", "uvicorn"),
    "scale": ("ray",),
}
"""The extras of this package, and the modules that each of them brings."""


class SignsclfError(Exception):
    """Base of every error that signsclf raises on purpose.

    Attributes:
        exit_code: the command line's exit code: 1 where something failed, 2 where it was used wrongly.
    """

    exit_code = 2


class SourceError(SignsclfError):
    """The source of images cannot be used: missing, empty, of no known layout, or inconsistent."""


class BadImageError(SignsclfError):
    """An image cannot be read: truncated, not an image, too large, or in an unsupported format."""

    exit_code = 1


class ModelError(SignsclfError):
    """A model folder, checkpoint or weights file is missing, damaged, of unknown format, or does not match."""


class DeviceError(SignsclfError):
    """The requested device cannot be used here."""


class ParityError(SignsclfError):
    """A parity check failed, so nothing was written."""

    exit_code = 1


class DivergedError(SignsclfError):
    """The training diverged: its loss is NaN, infinite or far too large."""

    exit_code = 1


class RunError(SignsclfError):
    """An unexpected error ended a training; the traceback is in the run's folder."""

    exit_code = 1


class LostContactError(SignsclfError):
    """Another process of the same training has ended, or does not answer."""

    exit_code = 1


class DownloadError(SignsclfError):
    """A download failed, or the file received is not the expected one."""

    exit_code = 1


class MissingExtraError(SignsclfError):
    """Something was asked for that needs packages which only an extra of this package installs."""


def install_command(extra: str) -> str:
    """Name the command that installs an extra; its quotation marks suit every shell, cmd.exe and PowerShell too."""
    return f'pip install "signsclf[{extra}]"'


def has_extra(extra: str) -> bool:
    """Tell whether the modules of an extra are installed; none of them is imported."""
    return not _missing_modules(extra)


def require_extra(extra: str, purpose: str, module: str | None = None) -> None:
    """Refuse to go on without an extra. Call it before anything of the extra is imported.

    Args:
        extra: one of `EXTRAS`.
        purpose: what needs it; the message begins with it.
        module: the only one of the extra's modules that is needed; None needs all.

    Raises:
        MissingExtraError: a module of the extra is not installed; the message has the command that installs it.
    """
    missing = [name for name in _missing_modules(extra) if module in (None, name)]
    if missing:
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
    """Tell whether an error means that main or GPU memory ran out, whichever library raised it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # torch.OutOfMemoryError, without importing torch.
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def first_line(error: BaseException) -> str:
    """Shorten another library's error for use within a message: its first line, or its type if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
