"""The console script, and ``python -m signsclf``."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys


def main() -> None:
    """Runs the command line."""
    # Imports make many objects and no garbage: looking for it as often as usual takes a tenth of a prediction's time.
    gc.set_threshold(100_000)
    codes: list[int] = []
    # The first to be registered is the last to be called.
    atexit.register(_leave, codes)
    from signsclf.cli import main as run

    try:
        run()
    except SystemExit as end:
        codes.append(end.code)
        raise


def _leave(codes: list[int]) -> None:
    """Ends the process as it is: Python would take apart every module and tensor first, which takes torch seconds."""
    if codes:
        # The command line has flushed, and told of it where that failed.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(codes[0])


if __name__ == "__main__":
    main()
