"""A large table: seconds and memory of listing, splitting, fingerprints, figures with intervals, reports and checking.

    python scripts/bench_rows.py                   # 1,000,000 rows of a CSV, 1,000,000 images in a zip archive
    python scripts/bench_rows.py --rows 100000
    python scripts/bench_rows.py --check           # also decode and compare all images, as `data check` does

Each stage prints its seconds, the memory that the process holds after it, and the peak so far, in MB. Digests and
probabilities are made up. Linux only: memory is read from /proc. All files are made in a temporary folder (TMPDIR names
another place) and deleted.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from signsclf.data.cache import fingerprint
from signsclf.data.check import TINY, check
from signsclf.data.rows import with_columns
from signsclf.data.split import hold_out
from signsclf.data.table import describe, read_source
from signsclf.metrics.classification import Report
from signsclf.metrics.intervals import group_numbers
from signsclf.recipe import SplitBy
from signsclf.report.files import write_report

CLASSES, FRAMES, SIDE = 50, 10, TINY


def make(folder: Path, n: int) -> Path:
    """Write a zip archive of noise in class folders, and a table of its images with a group for every `FRAMES` rows."""
    generator = np.random.default_rng(0)
    table = folder / "images.csv"
    with zipfile.ZipFile(folder / "images.zip", "w") as archive, table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "group"])
        for row in range(n):
            label = f"class {row // FRAMES % CLASSES:02}"
            name = f"{label}/{row:08}.bmp"
            buffer = io.BytesIO()
            Image.frombytes("RGB", (SIDE, SIDE), generator.bytes(3 * SIDE**2)).save(buffer, "BMP")
            archive.writestr(name, buffer.getvalue())
            writer.writerow([f"images.zip/{name}", label, f"object {row // FRAMES}"])
    return table


def memory() -> tuple[int, int]:
    """MB that the process holds, and the most that it has held."""
    status = Path("/proc/self/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+)", status)[1]) // 1024 for name in ("VmRSS", "VmHWM"))


def measured(name: str, work: Callable[[], Any]) -> Any:
    """Do the work and print what it took."""
    began = time.monotonic()
    result = work()
    held, peak = memory()
    print(f"{name:12} {time.monotonic() - began:8.1f} s  {held:6,} MB held  {peak:6,} MB peak", flush=True)
    return result


def own_bytes(table: np.ndarray) -> int:
    """Bytes of a table and of all that its cells refer to."""
    cells = {id(cell): sys.getsizeof(cell) for name in table.dtype.names for cell in table[name]}
    return table.nbytes + sum(cells.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    rows = asked.rows
    with tempfile.TemporaryDirectory(prefix="signsclf-rows-") as tmp:
        # In a process of its own, whose memory is not counted.
        with ProcessPoolExecutor(1) as maker:
            table_file = maker.submit(make, Path(tmp), rows).result()
        measured("imports", lambda: None)
        source = measured("list", lambda: read_source(table_file))
        if len(source.table) != rows:
            raise SystemExit(f"{len(source.table):,} rows were read of {rows:,}")
        print(f"the table alone: {own_bytes(source.table) // 10**6:,} MB", flush=True)
        measured("describe", lambda: describe(source))
        split = measured("split", lambda: hold_out(source.table, SplitBy.GROUP, 0.2, 0))
        table, names = split.table, measured("names", lambda: [source.relative(path) for path in source.table["path"]])
        digests = [f"{row:032x}" for row in range(rows)]
        measured("fingerprint", lambda: fingerprint(names, table["label"].tolist(), digests))
        targets = np.array([source.classes.index(label) for label in table["label"]])
        probabilities = np.random.default_rng(0).dirichlet(np.ones(CLASSES), rows)
        groups = group_numbers(table["group"])
        report = measured("figures", lambda: Report.from_probabilities(probabilities, targets, source.classes, groups))
        folder = Path(tmp) / "report"
        measured("report", lambda: write_report(folder, report, probabilities, targets, source.classes, names, None))
        if asked.check:
            # Without their groups, so that all are compared with each other.
            alone = replace(source, table=with_columns(source.table, group=[None] * rows))
            del source, split, table, names, digests, probabilities
            if measured("check", lambda: check(alone)).unreadable:
                raise SystemExit("images cannot be read")


if __name__ == "__main__":
    main()
