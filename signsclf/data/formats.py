"""Formats of labelled images that are not read: their names, and commands that convert them."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence

_SAVE = (
    "[(Path('photos', str(k)).mkdir(parents=True, exist_ok=True), Image.fromarray(a).save(f'photos/{k}/{i}.png')) "
    "for i, (a, k) in enumerate(zip(x, y))]"
)
_IMPORTS = "import numpy as np; from pathlib import Path; from PIL import Image; "
_AS_FILES = "write its images as files, in a folder for each class, and give that"
_SPREADSHEET = "a spreadsheet: save the sheet of paths and labels as CSV UTF-8, and give that"
_ARRAYS = "NumPy arrays: save the images as files, and give the folder photos"
_ARROW = "an Arrow file, as Hugging Face's datasets saves them: turn it into Parquet, and give that"
_KINDS = {
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".ods", ".numbers"), _SPREADSHEET),
    **dict.fromkeys((".npy", ".npz"), _ARRAYS),
    **dict.fromkeys((".arrow", ".feather"), _ARROW),
    **dict.fromkeys((".h5", ".hdf5"), f"an HDF5 file: {_AS_FILES}"),
    **dict.fromkeys((".tfrecord", ".tfrecords"), f"a TensorFlow record: {_AS_FILES}"),
    **dict.fromkeys((".rec", ".lst"), f"an MXNet record: {_AS_FILES}"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), f"a pickle, which is never opened: {_AS_FILES}"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".mdb"), f"a database: {_AS_FILES}"),
    ".mat": f"a MATLAB file: {_AS_FILES}",
    ".xml": "an annotation in XML: write a csv with the columns path and label, and give that",
}
_PIXEL = re.compile(r"pixel_?[0-9]+|[0-9]+x[0-9]+", re.IGNORECASE)
_FEWEST_PIXELS = 49


def how_to_convert(path: str) -> str | None:
    """Describe a file in a format that is not read and how to convert it; None for unknown formats."""
    suffix, name = posixpath.splitext(path)[1].lower(), _plain(path)
    kind = _KINDS.get(suffix)
    if kind is _ARRAYS:
        load = f"d = np.load('{name}'); x, y = d['x'], d['y']; " if suffix == ".npz" else ""
        load = load or f"x, y = np.load('{name}'), np.load('LABELS.npy'); "
        return f"{kind}: {_python(_IMPORTS + load + _SAVE)}"
    if kind is _ARROW:
        turn = f"import datasets; datasets.Dataset.from_file('{name}').to_parquet('{name}.parquet')"
        return f"{kind}: {_python(turn)}"
    return kind


def how_to_convert_folder(names: Iterable[str]) -> str | None:
    """Do the same for a folder without images, by the commonest format of its files."""
    counts = Counter(posixpath.splitext(name)[1].lower() for name in names)
    known = [(n, suffix) for suffix, n in counts.items() if suffix in _KINDS]
    if not known:
        return None
    suffix = max(known)[1]
    first = min(name for name in names if name.lower().endswith(suffix))
    return f"no images, but {posixpath.basename(first)} is {how_to_convert(first)}"


def how_to_convert_pixels(path: str, columns: Sequence[str]) -> str | None:
    """Describe a table of pixels, in columns or in one cell, and how to convert it to images; None for other tables."""
    name = _plain(path)
    labels = [column for column in columns if column.lower() in ("label", "class", "emotion", "target")]
    if not labels:
        return None
    load = f"import pandas as pd; t = pd.read_csv('{name}'); y = t.pop('{labels[0]}'); "
    if sum(bool(_PIXEL.fullmatch(column)) for column in columns) >= _FEWEST_PIXELS:
        x = "x = t.values.astype('uint8'); s = int(x.shape[1] ** 0.5); x = x.reshape(-1, s, s); "
    elif any(column.lower() == "pixels" for column in columns):
        cell = next(column for column in columns if column.lower() == "pixels")
        x = (
            f"x = [np.array(p.split(), 'uint8') for p in t['{cell}']]; "
            "x = [a.reshape(int(len(a) ** 0.5), -1) for a in x]; "
        )
    else:
        return None
    command = _python(_IMPORTS + load + x + _SAVE)
    return f"a table of pixels: save the images as files, and give the folder photos: {command}"


def _plain(path: str) -> str:
    """Return a file's name if it is safe in a command that a user may copy; otherwise a placeholder."""
    name = posixpath.basename(path)
    return name if re.fullmatch(r"[\w.\-][\w.\- ]*", name, re.ASCII) else "FILE" + posixpath.splitext(path)[1]


def _python(code: str) -> str:
    # Double quotes also work in Windows's shell; the code has nothing that a shell would expand.
    return f'python -c "{code}"'
