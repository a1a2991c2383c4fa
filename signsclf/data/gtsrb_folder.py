"""Where GTSRB lies when a command is given no source, and its download to there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from signsclf.data import gtsrb
from signsclf.errors import SignsclfError, SourceError
from signsclf.files import user_path

DOWNLOAD_MB = 366


def gtsrb_folder(
    data_dir: Path | None = None,
    confirm: Callable[[Path], bool] = lambda _: False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> str:
    """Find the folder that holds GTSRB; download the benchmark to it where it is missing and ``confirm`` agrees.

    Args:
        data_dir: the folder; None takes ``$SIGNSCLF_DATA_DIR``, else ``gtsrb`` in the user's data folder.
        confirm: is asked once, with the folder, whether to download `DOWNLOAD_MB` megabytes to it.
        progress: is called with the bytes downloaded and the bytes in all.

    Raises:
        SourceError: it is not there and was not downloaded; the message names the alternatives.
    """
    from platformdirs import user_data_path

    environment = os.environ.get("SIGNSCLF_DATA_DIR")
    folder = data_dir or (user_path(environment) if environment else user_data_path("signsclf", False) / "gtsrb")
    # An interrupted download leaves its .part.
    if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob("*.zip.part")):
        return str(folder)
    alternatives = (
        f"GTSRB is not in {folder}: download it with `signsclf data download gtsrb {folder}`, give a SOURCE, "
        "or train on synthetic signs with `signsclf train synthetic`"
    )
    if not confirm(folder):
        raise SourceError(alternatives)
    from signsclf.data.download import download_gtsrb

    try:
        download_gtsrb(folder, gtsrb.BASE_URL, progress)
    except SignsclfError as error:
        raise SourceError(f"{error}; {alternatives}") from error
    return str(folder)
