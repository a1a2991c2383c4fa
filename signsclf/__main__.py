"""The console script, and ``python -m signsclf``."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import warnings

from signsclf.cli.terminal import no_garbage


def main() -> None:
    """Run the command line."""
    codes: list[int] = []
    # The first to be registered is the last to be called.
    atexit.register(_leave, codes)
    with no_garbage():
        from signsclf.cli.app import asks_for_tracebacks
        from signsclf.cli.app import main as run

    if not asks_for_tracebacks():
        # Other libraries' warnings are theirs to mend; a user can do nothing about them.
        warnings.filterwarnings("ignore")
    try:
        run()
    except SystemExit as end:
        codes.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def _leave(codes: list[int]) -> None:
    """End the process as it is: Python would take apart every module and tensor first, which takes torch seconds."""
    if codes:
        # The command line has flushed, and told of it where that failed.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(codes[0])


if __name__ == "__main__":
    main()
