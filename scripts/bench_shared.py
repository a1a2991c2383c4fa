"""How fast one training is on one process and on several, in one run on one machine; and whether the weights are equal.

    python scripts/bench_shared.py [--rounds 3] [--processes 2] [--shards 8] [--arch NAME] [--size 32] [--images 8000]

Renders its own images; prints the median seconds of an epoch, images/s, and the ratio to one process with all threads.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rounds", 3), ("processes", 2), ("shards", 8), ("size", 32), ("images", 8_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--arch", default="signnet")
    asked = parser.parse_args()
    shards, processes = ["--shards", str(asked.shards)], ["--processes", str(asked.processes)]
    contenders = {
        "one process, all threads": [],
        f"{asked.processes} processes": processes,
        f"one process, {asked.shards} shards": shards,
        f"{asked.processes} processes, {asked.shards} shards": [*shards, *processes],
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        render(folder / "images", asked.images)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        weights: dict[str, str] = {}
        for _ in range(asked.rounds):
            for name, options in contenders.items():
                # Options last: the same epochs of the same network and images for all.
                train(folder, [*options, "--arch", asked.arch, "--size", str(asked.size)])
                with (folder / "m" / "run" / "history.csv").open(encoding="utf-8") as file:
                    seconds[name] += [float(row["seconds"]) for row in csv.DictReader(file)][1:]
                weights[name] = hashlib.sha256((folder / "m" / "model.safetensors").read_bytes()).hexdigest()
    alone = statistics.median(seconds["one process, all threads"])
    result = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        result[name] = {"seconds": median, "images_per_second": asked.images / median, "speed": alone / median}
        print(f"{name:32} {median:8.2f} s an epoch {asked.images / median:8,.0f} images/s {alone / median:6.2f} times")
    one, several = list(weights.values())[2:]
    same = "the same" if one == several else "NOT THE SAME"
    print(f"weights of {asked.shards} shards on one process and on {asked.processes}: {same}")
    print(json.dumps({**result, "equal": one == several}))


def render(folder: Path, n: int) -> None:
    """Write ``n`` synthetic signs of 40 px or a few more as files, in class folders."""
    from signsclf.data import synthetic
    from signsclf.data.gtsrb import CLASS_NAMES

    synthetic.write(folder, -(-n // len(CLASS_NAMES)), (40, 40), 0)


def train(folder: Path, options: list[str]) -> None:
    """Train without validation images, so that an epoch's seconds are those of its steps."""
    line = [
        sys.executable,
        "-m",
        "signsclf",
        "train",
        str(folder / "images"),
        "--out",
        str(folder / "m"),
        "--overwrite",
    ]
    line += ["--cache", str(folder / "cache"), "--epochs", str(EPOCHS), "--valid-fraction", "0", "--add-synthetic", "0"]
    line += ["--weights", "none", "--batch-size", "128", "--device", "cpu", *options]
    # Else a process alone would choose its threads by the load.
    threads = {} if "--processes" in options else {"OMP_NUM_THREADS": str(os.cpu_count())}
    subprocess.run(line, check=True, capture_output=True, env={**os.environ, **threads})


if __name__ == "__main__":
    main()
