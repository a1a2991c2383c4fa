"""How fast `signsclf batch` is: beside plain `predict`, with several workers, on Ray, and for a million rows.

    python scripts/bench_scale.py [--images 200000] [--rows 1000000] [--workers 1 2 4] [--ray] [--out FILE.json]

Makes the images (34 pixels a side, PNG) and a signnet of random weights. Prints images/s and the peak memory of all
processes together; then the seconds and the memory that a plan of so many rows and its verification take, whose images
are never read: the parts of that plan are made by the script itself. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench_predict import make_model
from PIL import Image

MIB = 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--ray", action="store_true", help="also on Ray, with two workers")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    asked = parser.parse_args()
    figures: dict[str, object] = {"images": asked.images, "rows": asked.rows}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = make_model(folder / "model", "signnet", 32)
        if asked.images:
            figures["jobs"] = bench_jobs(folder, model, asked.images, asked.workers, asked.ray)
        if asked.rows:
            figures["table"] = bench_rows(folder, model, asked.rows)
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")


def make_images(folder: Path, n: int) -> None:
    """Write n images in folders of a thousand."""
    generator = np.random.default_rng(0)
    for number in range(n):
        inside = folder / f"{number // 1000:04}"
        inside.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(generator.integers(0, 256, (34, 34, 3), dtype=np.uint8))
        image.save(inside / f"{number:08}.png", compress_level=1)


class Memory:
    """The peak of the resident memory of a process and all below it, in MiB; memory that they share counts for each."""

    def __init__(self, process: int) -> None:
        self.peak = 0.0
        self._root = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.peak = max(self.peak, sum(map(_resident, _family(self._root))) / MIB)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def _family(process: int) -> Iterator[int]:
    yield process
    try:
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            yield from _family(int(child))
    except OSError:
        return


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def timed(*arguments: object) -> tuple[float, float]:
    """Run the command line; gives seconds and peak MiB."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "signsclf", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with Memory(process.pid) as memory:
        _, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"{arguments[:2]} failed:\n{error.decode()}")
    return time.perf_counter() - began, memory.peak


def bench_jobs(folder: Path, model: Path, n: int, workers: list[int], on_ray: bool) -> list[dict[str, object]]:
    make_images(folder / "images", n)
    found = []

    def measured(name: str, seconds: float, peak: float) -> None:
        found.append({"job": name, "seconds": seconds, "images_per_s": n / seconds, "peak_mib": peak})
        print(f"{name:28} {n / seconds:7,.0f} images/s   {seconds:7.1f} s   {peak:6,.0f} MiB", flush=True)

    out = folder / "out"
    measured("plan", *timed("batch", "plan", folder / "images", out, "-r", "--model", model))
    predict = ("predict", "-r", folder / "images", "--model", model, "--out", folder / "p.parquet", "--overwrite")
    measured("predict", *timed(*predict))
    for number in workers:
        _empty(out)
        measured(f"batch run --workers {number}", *timed("batch", "run", out, "--workers", number))
    if on_ray:
        _empty(out)
        measured("batch run --engine ray (2)", *timed("batch", "run", out, "--engine", "ray", "--workers", 2))
    measured("predict again", *timed(*predict))
    measured("verify", *timed("batch", "verify", out))
    return found


def _empty(out: Path) -> None:
    for part in out.glob("part-*"):
        part.unlink()


def bench_rows(folder: Path, model: Path, n: int) -> dict[str, float]:
    """Plan and verify n rows of a table, without predicting them."""
    from signsclf.scale.manifest import read_rows
    from signsclf.scale.plan import MANIFEST, open_plan
    from signsclf.scale.shards import part_bytes, write_part

    table, out = folder / "rows.csv", folder / "rows"
    with table.open("w") as file:
        file.write("path\n")
        file.writelines(f"photos/{number // 1000:06}/{number:012}.jpg\n" for number in range(n))
    seconds, peak = timed("batch", "plan", table, out, "--model", model)
    print(f"plan of {n:,} rows: {seconds:.1f} s, {peak:,.0f} MiB", flush=True)
    plan = open_plan(out)
    answer = {"label": "0", "index": 0, "probability": 1.0, "accepted": None, "error": None}
    for shard in range(plan.shards):
        rows = read_rows(out / MANIFEST, shard)
        records = [{"path": path, **answer, "top_k": [{"label": "0", "probability": 1.0}]} for path in rows.paths]
        write_part(plan, shard, part_bytes(plan, shard, rows.first, records))
    figures = {"plan_seconds": seconds, "plan_mib": peak}
    for command in ("status", "verify", "report"):
        seconds, peak = timed("batch", command, out)
        figures |= {f"{command}_seconds": seconds, f"{command}_mib": peak}
        print(f"{command} of {n:,} rows: {seconds:.1f} s, {peak:,.0f} MiB", flush=True)
    return figures


if __name__ == "__main__":
    main()
