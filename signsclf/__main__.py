"""The console script, and ``python -m signsclf``."""

from __future__ import annotations

import gc


def main() -> None:
    """Runs the command line."""
    # Imports make many objects and no garbage: looking for it as often as usual takes a tenth of a prediction's time.
    gc.set_threshold(100_000)
    from signsclf.cli import main as run

    run()


if __name__ == "__main__":
    main()
