"""What streaming costs beside the mapped cache, and what it needs: speed of an epoch, equal weights, a bounded memory.

    python scripts/bench_stream.py [--images 8000] [--size 64] [--arch resnet34] [--rounds 3]
        [--large 120000] [--large-size 224] [--limit MIB] [--side 64] [--precision fp32] [--out FILE.json]

Renders its own images, JPEG files of ``--side`` pixels or a few more. First it trains an epoch on ``--images`` of them
again and again, from the cache and streamed in turn. Then it trains a small network on ``--large`` of them, whose
decoded pixels are ten times the memory that the process is allowed by a control group (version 1 or 2, as root; else by
``ulimit -d``): streamed, and from the cache without that limit. Prints seconds, peak memory, and whether the weights
are equal.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

GROUPS = Path("/sys/fs/cgroup")
MIB = 1024 * 1024
EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"images": 8_000, "size": 64, "rounds": 3, "large": 120_000, "large-size": 224, "side": 64, "limit": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--arch", default="resnet34")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if asked.images:
            figures["speed"] = bench_speed(folder, asked)
        if asked.large:
            figures["memory"] = bench_memory(folder, asked)
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")


def bench_speed(folder: Path, asked: argparse.Namespace) -> dict[str, object]:
    source = render(folder / "few", asked.images, asked.side)
    options = ["--arch", asked.arch, "--size", asked.size, "--epochs", EPOCHS, "--precision", asked.precision]
    seconds: dict[str, list[float]] = {"cached": [], "streamed": []}
    weights = {}
    for _ in range(asked.rounds):
        for kind in seconds:
            found = train(folder, source, kind, options)
            seconds[kind] += found["epochs"][1:]
            weights[kind] = found["weights"]
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    for kind, values in seconds.items():
        speeds = sorted(asked.images / value for value in values)
        print(f"{kind:9} {asked.images / medians[kind]:7,.0f} images/s ({speeds[0]:,.0f} to {speeds[-1]:,.0f})")
    ratio, equal = medians["cached"] / medians["streamed"], weights["cached"] == weights["streamed"]
    print(f"streamed: {ratio:.3f} of the cached speed; weights {'equal' if equal else 'NOT EQUAL'}", flush=True)
    return {"seconds": seconds, "ratio": ratio, "equal": equal}


def bench_memory(folder: Path, asked: argparse.Namespace) -> dict[str, object]:
    source = render(folder / "many", asked.large, asked.side)
    pixels = asked.large * asked.large_size**2 * 3
    limit = asked.limit * MIB or pixels // 10
    print(f"{pixels / MIB:,.0f} MiB of pixels, {limit / MIB:,.0f} MiB of memory allowed", flush=True)
    # An epoch of few images, drawn from all: what is measured is memory.
    options = [
        "--arch",
        "mobilenetv3_small_050",
        "--size",
        asked.large_size,
        "--epochs",
        2,
        "--epoch-images",
        256,
        "--batch-size",
        8,
    ]
    options += ["--precision", asked.precision, "--split-by", "known"]
    streamed = train(folder, source, "streamed", options, limit)
    print(f"streamed: {streamed['seconds']:,.0f} s, peak {streamed['peak'] / MIB:,.0f} MiB", flush=True)
    cached = train(folder, source, "cached", options)
    print(f"cached, without a limit: {cached['seconds']:,.0f} s, peak {cached['peak'] / MIB:,.0f} MiB")
    equal = cached["weights"] == streamed["weights"]
    print(f"weights {'equal' if equal else 'NOT EQUAL'}", flush=True)
    return {"pixels": pixels, "limit": limit, "streamed": streamed, "cached": cached, "equal": equal}


def render(folder: Path, n: int, side: int) -> Path:
    """Write n images in two class folders: each class has colours of its own, so that there is something to learn."""
    generator = np.random.default_rng(0)
    for number in range(n):
        inside = folder / ("warm", "cold")[number % 2]
        inside.mkdir(parents=True, exist_ok=True)
        width, height = side + generator.integers(0, side // 4, 2)
        coarse = generator.integers(0, 200, (9, 9, 3), dtype=np.uint8)
        coarse[..., 2 * (number % 2)] += 55
        Image.fromarray(coarse).resize((width, height)).save(inside / f"{number:07}.jpg", quality=90)
    return folder


def train(folder: Path, source: Path, kind: str, options: list[object], limit: int | None = None) -> dict[str, object]:
    """Train in a process of its own; gives seconds in all and by epoch, peak bytes, and the digest of the weights."""
    out = folder / "m"
    line = [sys.executable, "-m", "signsclf", "train", source, "--out", out, "--overwrite", "--weights", "none"]
    line += ["--valid-fraction", 0, "--add-synthetic", 0, "--device", "cpu", "--no-rehearsal", *options]
    line += ["--cache", "stream" if kind == "streamed" else folder / "cache"]
    variables = {**os.environ, "XDG_CACHE_HOME": str(folder / "users"), "OMP_NUM_THREADS": str(os.cpu_count())}
    began = time.monotonic()
    with allowed(limit) as (enter, peak):
        ran = subprocess.Popen(
            list(map(str, line)),
            env=variables,
            preexec_fn=enter,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, errors = ran.communicate()
        if ran.returncode:
            raise SystemExit(f"{kind} failed ({ran.returncode}):\n{errors}")
        most = peak() or resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    with (out / "run" / "history.csv").open(encoding="utf-8") as file:
        epochs = [float(row["seconds"]) for row in csv.DictReader(file)]
    weights = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    return {"seconds": time.monotonic() - began, "epochs": epochs, "peak": most, "weights": weights}


@contextlib.contextmanager
def allowed(limit: int | None) -> Iterator[tuple[object, object]]:
    """Give what a child calls to be held to so many bytes, its share of the file cache included, and their peak."""
    if limit is None:
        yield None, lambda: 0
        return
    version_1 = (GROUPS / "memory").is_dir()
    group = (GROUPS / "memory" if version_1 else GROUPS) / f"bench-stream-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(limit))
    except OSError as error:
        print(f"no control group ({error}): ulimit -d in its place")
        shutil.rmtree(group, ignore_errors=True)
        yield lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)), lambda: 0
        return
    try:
        peak = group / ("memory.max_usage_in_bytes" if version_1 else "memory.peak")
        yield (
            lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
            lambda: int(peak.read_text()) if peak.is_file() else 0,
        )
    finally:
        group.rmdir()


if __name__ == "__main__":
    main()
