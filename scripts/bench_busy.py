"""Training and prediction on a CPU that others use too: with 0, 1 and 2 busy processes beside them.

    python scripts/bench_busy.py [--rounds 3] [--seconds 2]

Each contender runs in a process of its own: as this package does when it starts in that moment (`signsclf`), with all
threads as torch and ONNX Runtime have them by themselves (`default`), and with a single thread (`one thread`). Prints
the median milliseconds of a training step, and of a prediction of 64 images, over interleaved rounds, as a table; then
a line of JSON. The busy processes are this script's own and end with it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench_processes import Worker, answer, neighbours

WORK = ("signnet", "resnet34", "predict")
SETTINGS = ("signsclf", "default", "one thread")
NEIGHBOURS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--worker", nargs=2, metavar=("WORK", "SETTING"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        serve(*asked.worker, asked.seconds)
        return
    times: dict[str, dict[str, dict[str, float]]] = {}
    for work in WORK:
        rows = {n: {setting: [] for setting in SETTINGS} for n in NEIGHBOURS}
        workers = {setting: worker(work, setting, asked.seconds) for setting in SETTINGS}
        for number in range(asked.rounds):
            for n in NEIGHBOURS:
                for setting in SETTINGS:
                    with neighbours(n):
                        seconds = workers[setting].ask()
                    print(f"{work}, {n} busy, round {number}: {setting} {1000 * seconds:.0f} ms", file=sys.stderr)
                    rows[n][setting].append(seconds)
        for process in workers.values():
            process.end()
        times[work] = {str(n): {s: statistics.median(v) for s, v in row.items()} for n, row in rows.items()}
    print("| work | busy processes | signsclf, ms | default, ms | one thread, ms | signsclf / one thread |")
    print("| --- | --- | --- | --- | --- | --- |")
    for work, rows in times.items():
        for n, row in rows.items():
            cells = " | ".join(f"{1000 * row[setting]:.0f}" for setting in SETTINGS)
            print(f"| {work} | {n} | {cells} | {row['signsclf'] / row['one thread']:.2f} |")
    print(json.dumps(times))


def worker(work: str, setting: str, seconds: float) -> Worker:
    """A process that measures steps."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    return Worker([sys.executable, __file__, "--worker", work, setting, "--seconds", str(seconds)], environment)


def serve(work: str, setting: str, seconds: float) -> None:
    """Gives the median seconds of a step whenever it is asked to."""
    step = predict(setting) if work == "predict" else train(work, setting)
    for _ in range(3):
        step()

    def measure() -> float:
        if setting == "signsclf" and work != "predict":
            start_anew(step)
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(times) < 5:
            began = time.monotonic()
            step()
            times.append(time.monotonic() - began)
        return statistics.median(times)

    answer(measure)


def start_anew(step: Callable[[], object]) -> None:
    """Chooses the threads as a training does that starts now."""
    import torch

    from signsclf.machine import usable_cores
    from signsclf.training.pace import choose_threads

    torch.set_num_threads(usable_cores())
    step()
    choose_threads(step)


def train(network: str, setting: str) -> Callable[[], object]:
    """A training step of a network on a batch that does not change: signnet at 32 px, ResNet-34 at 64."""
    import torch

    from signsclf.recipe import Device
    from signsclf.training.architectures import create, find_architecture
    from signsclf.training.learner import has_bf16
    from signsclf.training.precision import keep_memory

    if setting == "one thread":
        torch.set_num_threads(1)
    keep_memory()
    batch, size = (64, 32) if network == "signnet" else (32, 64)
    model = create(find_architecture(network), 43, size).to(memory_format=torch.channels_last).train()
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    y = torch.randint(43, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    bf16 = has_bf16(Device.CPU)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = torch.nn.functional.cross_entropy(model(x).float(), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def predict(setting: str) -> Callable[[], object]:
    """A prediction of 64 images by the ready-made model; `default` lets ONNX Runtime's threads spin."""
    import numpy as np

    from signsclf.inference.classifier import Classifier, ready_made
    from signsclf.inference.runtime import onnxruntime

    folder = ready_made()
    classifier = Classifier(folder, 1 if setting == "one thread" else None)
    batch = np.random.default_rng(0).integers(0, 256, (64, *classifier.size, 3), np.uint8)
    if setting != "default":
        return lambda: classifier.probabilities(batch)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = classifier.threads
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["logits"], {"image": batch})


if __name__ == "__main__":
    main()
