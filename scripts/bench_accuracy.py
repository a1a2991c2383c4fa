"""How many seconds it takes to come to an accuracy, beside plain fastai with the same network on the same split.

    python scripts/bench_accuracy.py SOURCE [--accuracy 98.5 99.0] [--fold 1/3] [--epochs 7] [--rate 0.01]

SOURCE is the official GTSRB training archive, or what it unpacks to. All start as processes of their own, one after the
other, with nothing decoded beforehand: `signsclf train SOURCE --recipe fast` as it is, in fp32, and from scratch in
both precisions; then a DataBlock from the same files with aug_transforms and fit_one_cycle in fp32. The clock runs from
a process's start to the line that tells of the first epoch with that accuracy on the held-out tracks; this package is
evaluated every few thousand images, which costs it time, fastai after each epoch. Prints a line an epoch, then one line
of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

_EPOCH = re.compile(r"^epoch .* accuracy ([\d.]+) %")


_OURS = {
    "fast": (),
    "fast_fp32": ("--precision", "fp32"),
    "scratch": ("--weights", "none"),
    "scratch_fp32": ("--weights", "none", "--precision", "fp32"),
}
"""What is trained with this package, and how it differs from the recipe."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--accuracy", type=float, nargs="+", default=[98.5, 99.0], help="per cent")
    parser.add_argument("--fold", default="1/3", help="the tracks held out")
    parser.add_argument("--epoch-images", type=int, default=6_000, help="after which this package is evaluated")
    parser.add_argument("--epochs", type=int, default=7, help="of fastai; this package's are the recipe's")
    parser.add_argument("--rate", type=float, default=0.01, help="highest learning rate of fastai")
    parser.add_argument("--split", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.split:
        train_fastai(asked.source, asked.split, asked.epochs, asked.rate)
        return
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        source, models = asked.source, Path(scratch) / "models"
        if source.is_file():
            source = Path(scratch) / "images"
            with zipfile.ZipFile(asked.source) as archive:
                archive.extractall(source)
        elif archives := sorted(source.glob("*.zip")):
            raise SystemExit(f"{source}: fastai reads no images from archives; give {archives[0]} itself")
        train = [sys.executable, "-m", "signsclf", "train", str(source), "--recipe", "fast", "--fold", asked.fold]
        train += ["--epoch-images", str(asked.epoch_images), "--cache", "off"]
        for name, changes in _OURS.items():
            results[name] = timed([*train, *changes, "--out", str(models / name)], asked.accuracy)
        split = str(models / name / "run" / "split.csv")
        again = ["--split", split, "--epochs", str(asked.epochs), "--rate", str(asked.rate)]
        results["fastai"] = timed([sys.executable, __file__, str(source), *again], asked.accuracy)
    print(json.dumps(results))


def timed(command: list[str], accuracies: list[float]) -> dict[str, float | None]:
    """Seconds to the first epoch of each accuracy, None without one, and to the end; and the last accuracy."""
    began, last, line = time.monotonic(), None, ""
    reached: dict[str, float | None] = {f"seconds_to_{accuracy}": None for accuracy in accuracies}
    print(" ".join(command), file=sys.stderr)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if found := _EPOCH.match(line):
                last, now = float(found[1]), time.monotonic() - began
                print(f"{now:7.1f} s  {line.rstrip()}", file=sys.stderr)
                for accuracy in accuracies:
                    if last >= accuracy and reached[f"seconds_to_{accuracy}"] is None:
                        reached[f"seconds_to_{accuracy}"] = round(now, 1)
    if process.returncode or last is None:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}: {line.strip()}")
    return {**reached, "all_seconds": round(time.monotonic() - began, 1), "last_accuracy": last}


def train_fastai(source: Path, split: Path, epochs: int, rate: float) -> None:
    """The usual way, judged after each epoch on the same images."""
    from fastai.callback.core import Callback
    from fastai.callback.progress import ProgressCallback  # noqa: F401 - gives no_bar()
    from fastai.callback.schedule import ParamScheduler  # noqa: F401 - gives fit_one_cycle()
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import FuncSplitter
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.metrics import accuracy
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageBlock

    from signsclf.data.table import read_source
    from signsclf.training.networks import signnet_fast

    warnings.filterwarnings("ignore")
    found = read_source(source)
    with split.open(newline="", encoding="utf-8") as file:
        held_out = {row["path"] for row in csv.DictReader(file) if row["split"] == "valid"}
    labels = dict(zip(found.table["path"], found.table["label"], strict=True))
    loaders = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=lambda _: list(labels),
        get_y=labels.get,
        splitter=FuncSplitter(lambda path: found.relative(path) in held_out),
        item_tfms=Resize(32),
        # Mirrored, some signs would be others.
        batch_tfms=aug_transforms(do_flip=False),
    ).dataloaders(source, bs=128)

    class Told(Callback):
        # After the Recorder, which has order 50.
        order = 60

        def after_epoch(self) -> None:
            share = float(self.learn.recorder.values[-1][-1])
            print(f"epoch {self.epoch + 1}/{epochs} accuracy {100 * share:.2f} %", flush=True)

    learner = Learner(loaders, signnet_fast(len(found.classes)), CrossEntropyLossFlat(), metrics=accuracy, cbs=Told())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, rate)


if __name__ == "__main__":
    main()
