"""How fast training is, beside plain fastai and beside the bare optimiser step, in one run on one machine.

    python scripts/bench_train.py [--rounds 5]

Draws its own images and trains networks of random weights on them; prints tables, then one line of JSON. Rates are
medians over interleaved rounds, images/s; a ratio is the median of the rounds' own ratios.
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
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from bench_processes import Worker, answer

GROWTH = (1, 8, 64)
FEWEST = 516


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, metavar=("CONTENDER", "NETWORK", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=3, metavar=("CONTENDER", "NETWORK", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    if asked.worker:
        work(*asked.worker)
        return
    if asked.one:
        print(json.dumps(run_alone(*asked.one)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        result: dict[str, float] = {}
        for network, prefix, n in (("residual9", "", 2_580), ("resnet34", "resnet34_", 645)):
            images = Path(scratch) / network
            draw(images, n)
            result |= {prefix + name: value for name, value in side_by_side(network, images, asked.rounds).items()}
        result |= growth(Path(scratch) / "residual9", Path(scratch))
    for name, value in result.items():
        print(f"{name:40} {value:,.3f}")
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


def draw(folder: Path, n: int) -> None:
    """At least ``n`` drawn signs as files of 40 px, in class folders."""
    from signsclf.data import synthetic
    from signsclf.data.gtsrb import CLASS_NAMES

    synthetic.write(folder, -(-n // len(CLASS_NAMES)), (40, 40), 0)


def residual9(n_classes: int):
    """Nine layers, 32 to 256 channels, 1.6 M parameters: half the width of D. Page's ResNet-9 of 2018."""
    from fastai.layers import ConvLayer, ResBlock
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            stem=ConvLayer(3, 32),
            conv1=ConvLayer(32, 64),
            pool1=nn.MaxPool2d(2),
            res1=ResBlock(1, 64, 64),
            conv2=ConvLayer(64, 128),
            pool2=nn.MaxPool2d(2),
            conv3=ConvLayer(128, 256),
            pool3=nn.MaxPool2d(2),
            res3=ResBlock(1, 256, 256),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(256, n_classes),
        )
    )


def build(network: str, n_classes: int):
    """The network, the images of a batch, and the side of an image in pixels."""
    from torchvision.models import resnet34

    if network == "residual9":
        return residual9(n_classes), 128, 32
    return resnet34(weights=None, num_classes=n_classes), 64, 64


def signsclf_epoch(network: str, folder: Path) -> Callable[[], float]:
    """Through this package: what ``--recipe fast`` does to a batch. Gives images/s of one epoch a call."""
    import numpy as np

    from signsclf.data.cache import Cache, decode_all
    from signsclf.data.gtsrb import class_names_mirror
    from signsclf.data.table import read_source
    from signsclf.recipe import fast
    from signsclf.runs.resolve import Facts, resolve
    from signsclf.training.architectures import find_architecture
    from signsclf.training.augment import STRENGTHS, BatchAugment
    from signsclf.training.fit import Fit
    from signsclf.training.learner import build_learner, choose_device, has_bf16
    from signsclf.training.loaders import LoaderConfig, SourceRows, dataloaders

    source = read_source(folder)
    model, batch_size, size = build(network, len(source.classes))
    device = choose_device(None)
    n = len(source.table)
    facts = Facts(
        n_train=n,
        n_classes=len(source.classes),
        is_gtsrb=True,
        is_synthetic=False,
        median_side=float(size),
        native_size=None,
        device=device,
        has_bf16=has_bf16(device),
    )
    recipe, _ = resolve(fast().replace(epochs=1, size=size, batch_size=batch_size), facts)
    cache = folder.with_name(f"{folder.name} cache")
    mirror = [source.classes.index(m) if (m := class_names_mirror().get(c)) else -1 for c in source.classes]
    arch = find_architecture("signnet" if network == "residual9" else network)
    rows = SourceRows(
        pixels=decode_all(source.table, size, Cache(folder=cache)).pixels,
        labels=source.table["label"].tolist(),
        classes=source.classes,
    )
    config = LoaderConfig(
        batch_size=batch_size,
        mean=arch.mean,
        std=arch.std,
        balance=recipe.balance,
        augment=BatchAugment(STRENGTHS[recipe.augment], recipe.flip, np.array(mirror), recipe.outliers),
        device=device.value,
    )
    loaders = dataloaders(rows, np.arange(n), np.arange(0), config)
    learner = build_learner(loaders, model, arch, recipe)

    def epoch() -> float:
        return n // batch_size * batch_size / Fit(learner, model, recipe).run().seconds

    return epoch


def fastai_epoch(network: str, folder: Path) -> Callable[[], float]:
    """The usual way: a DataBlock from files, aug_transforms, fp32. Gives images/s of one epoch a call."""
    from fastai.callback.core import Callback
    from fastai.callback.progress import ProgressCallback  # noqa: F401 - gives no_bar()
    from fastai.callback.schedule import ParamScheduler  # noqa: F401 - gives fit_one_cycle()
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import IndexSplitter, get_image_files, parent_label
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageBlock

    files = len(get_image_files(folder))
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        # fastai wants something to validate on; only the training is timed.
        splitter=IndexSplitter([0]),
        item_tfms=Resize(32 if network == "residual9" else 64),
        batch_tfms=aug_transforms(),
    )
    model, batch_size, _ = build(network, 43)

    class Timed(Callback):
        def before_train(self) -> None:
            self.learn.began = time.perf_counter()

        def after_train(self) -> None:
            self.learn.took = time.perf_counter() - self.learn.began

    learner = Learner(block.dataloaders(folder, bs=batch_size), model, CrossEntropyLossFlat(), cbs=Timed())

    def epoch() -> float:
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(1, 0.01)
        return (files - 1) // batch_size * batch_size / learner.took

    return epoch


def bare_epoch(network: str, folder: Path) -> Callable[[], float]:
    """The optimizer's step alone, in our arithmetic, on one batch that never changes. Gives images/s of ten steps."""
    import torch

    from signsclf.training.learner import choose_device, has_bf16
    from signsclf.training.precision import keep_memory

    model, batch_size, size = build(network, 43)
    device = choose_device(None)
    model = model.to(device.value, memory_format=torch.channels_last).train()
    x = torch.randn(batch_size, 3, size, size, device=device.value).to(memory_format=torch.channels_last)
    y = torch.randint(43, (batch_size,), device=device.value)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32

    # The allocator is kept from giving memory back here too, which makes this step a third faster at 32 px.
    keep_memory()

    def epoch() -> float:
        began = time.perf_counter()
        for _ in range(10):
            with torch.autocast(device.value, dtype, enabled=dtype is not torch.float32):
                loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()
        return 10 * batch_size / (time.perf_counter() - began)

    return epoch


CONTENDERS = {"signsclf": signsclf_epoch, "fastai": fastai_epoch, "bare": bare_epoch}


def side_by_side(network: str, folder: Path, rounds: int) -> dict[str, float]:
    """Rates and ratios of the three in turn, each in a process set up as its own program would be, and peak memory."""
    command = [sys.executable, __file__, "--worker"]
    workers = {name: Worker([*command, name, network, str(folder)]) for name in CONTENDERS}
    rates: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds + 1):
        for name, worker in workers.items():
            rate = worker.ask()
            print(f"{network} round {number}: {name} {rate:,.0f} images/s", file=sys.stderr)
            # The first round builds kernels and fills caches.
            if number:
                rates[name].append(rate)
    for worker in workers.values():
        worker.end()
    result = {f"{name}_images_per_second": statistics.median(values) for name, values in rates.items()}
    for other, name in (("fastai", "ours_vs_fastai"), ("bare", "ours_vs_bare_step")):
        pairs = zip(rates["signsclf"], rates[other], strict=True)
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        result |= {name: statistics.median(ratios), f"{name}_low": ratios[0], f"{name}_high": ratios[-1]}
    for name in workers:
        result[f"{name}_peak_mb"] = alone(name, network, folder)["peak_mb"]
    return result


def work(contender: str, network: str, folder: str) -> None:
    """Gives the images/s of an epoch whenever it is asked to."""
    answer(prepared(contender, network, folder))


def prepared(contender: str, network: str, folder: str) -> Callable[[], float]:
    """A contender's epoch, in a process that is set up as the contender's own program would set it up."""
    if contender == "signsclf":
        from signsclf.training.precision import keep_memory

        keep_memory()
    return CONTENDERS[contender](network, Path(folder))


def growth(folder: Path, scratch: Path) -> dict[str, float]:
    """Seconds an image and anonymous memory with more and more images, links to the same files."""
    files = sorted(folder.rglob("*.png"))[:FEWEST]
    result = {}
    for times in GROWTH:
        larger = scratch / f"times{times}"
        for copy in range(times):
            for file in files:
                target = larger / file.parent.name / f"{copy}-{file.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, target)
        found = alone("signsclf", "residual9", larger)
        result |= {
            f"times{times}_microseconds_an_image": 1e6 / found["rate"],
            f"times{times}_rss_anon_mb": found["rss_anon_mb"],
        }
    return result


def alone(contender: str, network: str, folder: Path) -> dict[str, float]:
    """`run_alone` in a process of its own."""
    command = [sys.executable, __file__, "--one", contender, network, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_alone(contender: str, network: str, folder: str) -> dict[str, float]:
    """The rate of a second epoch, and how much memory this process has come to (Linux; MB)."""
    epoch = prepared(contender, network, folder)
    epoch()
    rate = epoch()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rate": rate,
        # Not getrusage's, which begins with what the parent had.
        "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
        "rss_anon_mb": int(status["RssAnon"].split()[0]) / 1024,
    }


if __name__ == "__main__":
    main()
