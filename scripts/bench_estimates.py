"""How true the estimated time of a training is: signnet at 32 px, ResNet-34 at 64 px, EfficientNet-Lite0 at 224 px.

    python scripts/bench_estimates.py [--busy N] [--seconds 40]

Trains each on images of $SIGNSCLF_TEST_DATA for about so many seconds, alone and, with --busy, beside N busy processes
(this script's own). Prints the seconds that the plan estimated, those that the training took, and their ratio, as a
table. Exit code 1 where a ratio is beyond 1.5 on a quiet machine, or beyond 2.5 on a busy one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_processes import neighbours

RUNS = {
    "signnet, 32 px": ("gtsrb-32px", ["--arch", "signnet", "--size", "32"]),
    "resnet34, 64 px": ("gtsrb-32px", ["--arch", "resnet34", "--weights", "none", "--size", "64"]),
    "tf_efficientnet_lite0, 224 px": ("animals", ["--arch", "tf_efficientnet_lite0", "--size", "224"]),
}
DURATION = re.compile(r"estimated time: (?:(\d+) h )?(?:(\d+) min ?)?(?:(\d+) s)?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=0, help="busy processes beside the training")
    parser.add_argument("--seconds", type=float, default=40.0, help="about how long each training is to take")
    asked = parser.parse_args()
    data = os.environ.get("SIGNSCLF_TEST_DATA")
    if not data:
        raise SystemExit("bench_estimates: $SIGNSCLF_TEST_DATA names no folder of real images")
    limit = 2.5 if asked.busy else 1.5
    failed = False
    print("| network | busy processes | estimated, s | took, s | ratio |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        for name, (folder, flags) in RUNS.items():
            estimated, took = run(Path(data) / folder, flags, Path(scratch), asked.busy, asked.seconds)
            ratio = max(estimated / took, took / estimated)
            failed |= ratio > limit
            print(f"| {name} | {asked.busy} | {estimated:.0f} | {took:.0f} | {ratio:.2f} |", flush=True)
    raise SystemExit(int(failed))


def run(source: Path, flags: list[str], scratch: Path, busy: int, seconds: float) -> tuple[float, float]:
    """Estimated and true seconds of a training of about so many seconds."""
    archive = next(source.glob("*.zip"))
    common = [str(archive), *flags, "--add-synthetic", "0", "--cache", str(scratch / "cache"), "--overwrite"]
    # A first look at the speed, which also fills the cache of decoded images.
    samples = 512
    estimated, _ = train([*common, "--samples", str(samples)], scratch, 0)
    samples = max(samples, int(samples * seconds / max(estimated, 0.5)))
    return train([*common, "--samples", str(samples)], scratch, busy)


def train(arguments: list[str], scratch: Path, busy: int) -> tuple[float, float]:
    """What the plan estimates, and the seconds from there to the last epoch."""
    command = [sys.executable, "-m", "signsclf", "train", *arguments, "--out", str(scratch / "model")]
    with (
        neighbours(busy),
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process,
    ):
        estimated, began, ended = None, 0.0, 0.0
        for line in process.stderr:
            if found := DURATION.search(line):
                hours, minutes, left = (int(part or 0) for part in found.groups())
                estimated, began = 3600 * hours + 60 * minutes + left, time.monotonic()
            elif line.startswith("epoch "):
                ended = time.monotonic()
    if process.returncode or estimated is None or not ended:
        raise SystemExit(f"{' '.join(command)}: failed, or told no time")
    return max(estimated, 0.5), ended - began


if __name__ == "__main__":
    main()
