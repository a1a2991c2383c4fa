"""Errors that a user can mend. Each message is one line: what was wrong, what would be right, what to do."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path


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


class GateError(SignsclfError):
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


@contextlib.contextmanager
def traceback_kept(path: Path) -> Iterator[None]:
    """Write the traceback of an unexpected error to a file, in an existing folder, and let the error go on.

    `traceback_file` then finds the file. Errors that a user can mend say all that matters themselves: no file is
    written for a `SignsclfError`.
    """
    try:
        yield
    except SignsclfError:
        raise
    except Exception as error:
        # A full disk may be what went wrong, and must not hide it.
        with contextlib.suppress(OSError):
            path.write_text("".join(traceback.format_exception(error)), "utf-8", "backslashreplace")
            vars(error)["signsclf_traceback"] = path
        raise


def traceback_file(error: BaseException) -> Path | None:
    """Where `traceback_kept` wrote an error's traceback; None where it did not."""
    return vars(error).get("signsclf_traceback")


def first_line(error: BaseException) -> str:
    """Shorten another library's error to part of a line: its first line, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
