"""The table that every source becomes: a NumPy array with one record per image.

Its columns, all of Python objects, are

- ``path``: str, an absolute file path with forward slashes, ``ARCHIVE.zip/member``, the address of an
  object in a store, or ``synthetic:...``;
- ``label``: str, Unicode NFC;
- ``split``: "train", "valid", "test" or None. Where a source has training and no validation, some of training
  is still to be held out;
- ``group``: str or None, the same for all images of one physical object;
- ``roi``: (x1, y1, x2, y2) in pixels, inclusive, or None.

``table["label"]`` is a column, ``table[rows]`` a smaller table, and ``pandas.DataFrame(table)`` a data frame: pandas
itself is too large to be needed for an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

COLUMNS = ("path", "label", "split", "group", "roi")
_RECORD = np.dtype([(name, object) for name in COLUMNS])


def make_table(rows: Sequence[tuple[Any, ...]]) -> np.ndarray:
    """Make a table of rows that hold a value for each of `COLUMNS`, in their order.

    Equal labels, splits and groups are one object each: read from a file, every row's text is a new one, and that of a
    million groups takes 60 MB.
    """
    table = np.array(rows, dtype=_RECORD)
    for name in ("label", "split", "group"):
        first: dict[Any, Any] = {}
        table[name] = [first.setdefault(value, value) for value in table[name]]
    return table


def with_columns(table: np.ndarray, **columns: Iterable[Any]) -> np.ndarray:
    """Copy a table with other values in these columns, one for each row."""
    copy = table.copy()
    for name, values in columns.items():
        # Not through np.array, which would make boxes a second axis.
        copy[name] = np.fromiter(values, dtype=object, count=len(table))
    return copy


def is_missing(column: np.ndarray) -> np.ndarray:
    """Tell for each value of a column whether it is None: bool (N,)."""
    return np.equal(column, None).astype(bool)
