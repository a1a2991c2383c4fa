"""The table: what it holds, and how little of it."""

from __future__ import annotations

import numpy as np

from signsclf.data.rows import COLUMNS, make_table


def test_equal_labels_splits_and_groups_are_held_once():
    rows = [(f"{i}.png", f"stop {i % 2}", "".join(["tr", "ain"]), f"object {i % 2}", (0, 0, i, i)) for i in range(6)]
    table = make_table(rows)
    assert table.tolist() == rows and table.dtype.names == COLUMNS
    for name, n in (("label", 2), ("split", 1), ("group", 2)):
        assert len({id(value) for value in table[name]}) == n, name


def test_missing_values_and_no_rows_are_kept():
    rows = [("a.png", "stop", None, None, None)]
    assert make_table(rows).tolist() == rows
    empty = make_table([])
    assert isinstance(empty, np.ndarray) and len(empty) == 0
