"""How fast and how lean prediction is, beside ONNX Runtime alone and fastai, in one run on one machine.

    python scripts/bench_predict.py [--rounds 5] [--images 5000] [--many 20000]

Makes its own images and its own networks of random weights; prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

BARE_COLD = """
import os, sys
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
import numpy, PIL.Image, onnxruntime
onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", providers=["CPUExecutionProvider"])
"""
FASTAI_COLD = """
import sys, warnings
warnings.simplefilter("ignore")
import fastai.callback.progress
from fastai.learner import load_learner
learner = load_learner(sys.argv[1] + "/learner.pkl")
with learner.no_bar():
    learner.predict(sys.argv[2])
"""
FASTAI_LOOP = """
import sys, time, warnings, pathlib
warnings.simplefilter("ignore")
import fastai.callback.progress
from fastai.learner import load_learner
learner = load_learner(sys.argv[1] + "/learner.pkl")
files = sorted(pathlib.Path(sys.argv[2]).iterdir())[:60]
with learner.no_bar():
    learner.predict(files[0])
    began = time.perf_counter()
    for file in files:
        learner.predict(file)
print(len(files) / (time.perf_counter() - began))
"""
BARE_LOOP = """
import os, sys, time
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
import numpy, onnxruntime
size, batch, n = map(int, sys.argv[2:5])
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", providers=["CPUExecutionProvider"])
pixels = numpy.random.default_rng(0).integers(0, 256, (batch, size, size, 3), numpy.uint8)
session.run(["logits"], {"image": pixels})
began = time.perf_counter()
for start in range(0, n, batch):
    session.run(["logits"], {"image": pixels[: min(batch, n - start)]})
print(n / (time.perf_counter() - began))
"""
OURS_LOOP = """
import sys, time, pathlib, signsclf
from signsclf.inference.classifier import stream
classifier = signsclf.load(sys.argv[1])
files = sorted(map(str, pathlib.Path(sys.argv[2]).iterdir()))
list(stream(classifier, files[:64]))
began = time.perf_counter()
n = sum(1 for _ in stream(classifier, files))
print(n / (time.perf_counter() - began))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--many", type=int, default=20_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = bench(Path(scratch), asked.rounds, asked.images, asked.many)
    for name, value in result.items():
        print(f"{name:36} {value if isinstance(value, str | int) else round(value, 3)}")
    print(json.dumps(result))


def bench(scratch: Path, rounds: int, n_images: int, n_many: int) -> dict[str, float]:
    """All figures; times are medians over interleaved rounds."""
    # Compiled once, as an installed package is; the first round, which does it, does not count.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")
    resnet = make_model(scratch / "resnet34", "resnet34", 64)
    small = make_model(scratch / "signnet", "signnet", 32)
    smallest = make_model(scratch / "signnet-fast", "signnet-fast", 32)
    folder, few, many = scratch / "images", scratch / "few", scratch / "many"
    make_images(folder, n_images)
    link_images(folder, few, 1_000)
    link_images(folder, many, n_many)
    image = str(next(folder.iterdir()))
    predict = [sys.executable, "-m", "signsclf", "predict"]
    cold: dict[str, list[float]] = {"signsclf": [], "bare": [], "fastai": []}
    for _ in range(rounds + 1):
        cold["signsclf"].append(seconds([*predict, image, "--model", str(small)]))
        cold["bare"].append(seconds([sys.executable, "-c", BARE_COLD, str(small)]))
        cold["fastai"].append(seconds([sys.executable, "-c", FASTAI_COLD, str(small), image]))
    ours, bare, fastai = (statistics.median(values[1:]) for values in cold.values())
    result: dict[str, float] = {
        "cold_seconds": ours,
        "cold_bare_seconds": bare,
        "cold_fastai_seconds": fastai,
        "cold_vs_bare": ours / bare,
        "fastai_vs_cold": fastai / ours,
    }
    batch = 64
    for name, model, size in (
        ("resnet34_64px", resnet, 64),
        ("signnet_32px", small, 32),
        ("signnet_fast_32px", smallest, 32),
    ):
        rates: dict[str, list[float]] = {"signsclf": [], "bare": [], "fastai": []}
        for _ in range(rounds):
            rates["signsclf"].append(rate(OURS_LOOP, str(model), str(folder)))
            rates["bare"].append(rate(BARE_LOOP, str(model), str(size), str(batch), str(n_images)))
            rates["fastai"].append(rate(FASTAI_LOOP, str(model), str(folder)))
        ours, bare, loop = map(statistics.median, rates.values())
        paired = statistics.median(a / b for a, b in zip(rates["signsclf"], rates["bare"], strict=True))
        result |= {
            f"{name}_images_per_second": ours,
            f"{name}_bare_images_per_second": bare,
            f"{name}_fastai_loop_images_per_second": loop,
            f"{name}_vs_bare": paired,
            f"{name}_vs_fastai_loop": ours / loop,
        }
    out = str(scratch / "out.csv")
    peaks = [peak_mb([*predict, str(f), "--model", str(small), "--format", "csv", "--out", out]) for f in (few, many)]
    return result | {
        "files": f"{len(list(few.iterdir()))} and {len(list(many.iterdir()))}",
        "peak_mb_few": peaks[0],
        "peak_mb_many": peaks[1],
        "peak_many_vs_few": peaks[1] / peaks[0],
    }


def make_model(folder: Path, name: str, size: int) -> Path:
    """A model folder of random weights with 43 classes."""
    import torch

    from signsclf.export.golden import noise_images, store_golden
    from signsclf.export.onnx import write_network
    from signsclf.inference.classifier import Classifier
    from signsclf.model import folder as modelfolder
    from signsclf.training import architectures

    folder.mkdir()
    (folder / modelfolder.RUN).mkdir()
    torch.manual_seed(0)
    arch = architectures.find_architecture(name)
    classes = tuple(f"class {i}" for i in range(43))
    model = architectures.create(arch, len(classes)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    parity, classifier = write_network(folder, model, arch, classes, size, pixels, learner=True)
    config = modelfolder.Config(
        architecture=arch.name,
        classes=classes,
        input_size=(size, size),
        mean=arch.mean,
        std=arch.std,
        recipe={},
        parity=parity.to_dict(),
        classifier=classifier,
    )
    golden = noise_images(4, (size, size))
    store_golden(folder, golden, Classifier(folder, config=config).probabilities(golden))
    modelfolder.write_config(folder, config)
    modelfolder.write_sums(folder)
    return folder


def make_images(folder: Path, n: int) -> None:
    """PNG files of 32 to 64 px, as traffic signs are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        side = int(rng.integers(32, 65))
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:05}.png")


def link_images(source: Path, folder: Path, n: int) -> None:
    """``n`` files over the images there are, by hard links."""
    folder.mkdir()
    files = sorted(source.iterdir())
    for i in range(n):
        os.link(files[i % len(files)], folder / f"{i:06}.png")


def seconds(command: list[str]) -> float:
    """Wall seconds of a whole process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def rate(code: str, *arguments: str) -> float:
    """Images a second, as the program prints it."""
    command = [sys.executable, "-c", code, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def peak_mb(command: list[str]) -> float:
    """Largest resident set of a whole process in MB, in a parent of its own."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(peak / (1e6 if sys.platform == 'darwin' else 1e3))"
    )
    return rate(code, *command)


if __name__ == "__main__":
    main()
