"""The images that a command trains on: its SOURCE, or GTSRB where it is given none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from signsclf.choices import Reading
from signsclf.cli.terminal import Bar
from signsclf.text import visible

if TYPE_CHECKING:
    from signsclf.data.table import Source


def read_source_or_gtsrb(source: str | None, reading: Reading, data_dir: Path | None, yes: bool) -> Source:
    """Read a source; without one, GTSRB, which is downloaded first if the user agrees or has said so with ``--yes``.

    Raises:
        SourceError: the source cannot be read, or GTSRB is missing and not downloaded.
    """
    from signsclf.data.table import read_source

    if source is None:
        from signsclf.data.gtsrb_folder import DOWNLOAD_MB, gtsrb_folder

        def confirm(folder: Path) -> bool:
            if yes:
                return True
            asks = sys.stdin.isatty() and sys.stderr.isatty()
            return asks and typer.confirm(f"Download GTSRB ({DOWNLOAD_MB} MB) to {visible(folder)}?", err=True)

        bar = Bar("bytes")
        source = gtsrb_folder(data_dir, confirm, lambda done, total: bar("downloading", done, total))
    return read_source(source, reading)
