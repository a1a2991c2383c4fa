"""Which of several recipes is better: each is trained on the same folds and seeds, and compared with the first.

    python scripts/bench_recipes.py recipes.txt SOURCE --page PAGE.md [--folds 3] [--seeds 1] [--models bench]

A line of recipes.txt is ``NAME: options of signsclf train``; # begins a comment. ``{NAME}`` in the options is the
model folder that an earlier recipe made for the same fold and seed: ``small: --recipe fast --teacher {large}``.
``NAME: fastai ARCH SIZE EPOCHS`` is plain fastai, not for the first line: ``vision_learner`` and ``fine_tune`` on the
same files, with the same ImageNet weights; for one of the package's own networks ``fit_one_cycle`` from random weights,
at the rate that ``lr_find`` suggests. Every image is evaluated once a seed, from the exported file of the model
that held it out. Recipes are compared by image (McNemar's exact test) and by group, such as the frames of one track
(permutation test, interval of the difference).

Prints a table, and appends a line of JSON for each recipe to the log, failures too; PAGE.md is the page of docs/log
that tells of them. Models that exist already are not trained again.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "docs" / "log" / "experiments.jsonl"
ANSWERS = "answers.json"
"""What plain fastai made of the images that it did not train on, in place of a model folder."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the models of a recipe made of the images that they held out, over all folds and seeds.

    Attributes:
        names: seed and path of each image, in order; the same for every recipe.
        right: bool (N,).
        groups: physical object of each; an image without one is its own.
        seconds: of training, the mean of a model.
    """

    names: tuple[str, ...]
    right: np.ndarray
    groups: tuple[str, ...]
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path)
    parser.add_argument("source")
    parser.add_argument("--page", required=True, help="page of docs/log that tells of the experiments")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only-folds", type=int, help="evaluate only the first so many of them")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", type=Path, default=Path("bench"), help="where the model folders are kept")
    parser.add_argument("--machine", default=machine(), help="what the log says of this machine")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--fastai", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.fastai:
        fine_tune_fastai(asked.source, *asked.fastai)
        return
    recipes = read_recipes(asked.recipes.read_text(encoding="utf-8"))
    places = [(k, seed) for seed in range(asked.seeds) for k in range(1, (asked.only_folds or asked.folds) + 1)]
    found: dict[str, Answers | str] = {}
    folders: dict[tuple[int, int], dict[str, Path]] = {place: {} for place in places}
    for name, options in recipes.items():
        try:
            for k, seed in places:
                folders[k, seed][name] = train(name, options, asked, (k, seed), folders[k, seed])
            found[name] = answers(asked.source, {place: folders[place][name] for place in places})
        except Failed as failure:
            found[name] = str(failure)
        print(row(name, found), flush=True)
        append(asked.log, entry(name, recipes, found, asked))


class Failed(Exception):
    """A training that ended without a model; the last line that it printed."""


def read_recipes(text: str) -> dict[str, str]:
    """Read the options of each recipe by its name."""
    recipes: dict[str, str] = {}
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        name, colon, options = (part.strip() for part in line.partition(":"))
        if not line:
            continue
        if not colon or not re.fullmatch(r"[\w.+-]+", name) or name in recipes:
            raise SystemExit(f"{line!r}: not NAME: OPTIONS, each name once")
        recipes[name] = options
    if not recipes:
        raise SystemExit("no recipes")
    return recipes


def train(name: str, options: str, asked: argparse.Namespace, place: tuple[int, int], earlier: dict[str, Path]) -> Path:
    """Train one model, unless it exists, and give its folder.

    Args:
        place: number of the fold, and seed.
        earlier: folders of the recipes before, for this fold and seed.

    Raises:
        Failed: it ended without a model, or it needs one that failed.
    """
    k, seed = place
    try:
        filled = options.format_map({name: shlex.quote(str(folder)) for name, folder in earlier.items()})
    except KeyError as error:
        raise Failed(f"there is no model of {error}") from None
    digest = hashlib.sha256(f"{filled} {asked.source}".encode()).hexdigest()[:8]
    folder = asked.models.absolute() / f"{name}-{digest}-fold{k}of{asked.folds}-seed{seed}"
    if (folder / "config.json").is_file() or (folder / ANSWERS).is_file():
        return folder
    if filled.split()[:1] == ["fastai"]:
        return train_fastai(filled.split()[1:], folder, asked, next(iter(earlier.values()), None))
    command = [sys.executable, "-m", "signsclf", "train", asked.source, *shlex.split(filled)]
    command += ["--fold", f"{k}/{asked.folds}", "--seed", str(seed), "--out", str(folder), "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        # The log is read elsewhere.
        raise Failed(last.replace(str(asked.models.absolute()), asked.models.name))
    return folder


def train_fastai(words: list[str], folder: Path, asked: argparse.Namespace, first: Path | None) -> Path:
    """Fine-tune with plain fastai, in a process of its own, on the split of the first recipe's model."""
    if len(words) != 3 or first is None:
        raise Failed("fastai: not ARCH SIZE EPOCHS, or no recipe before it")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, asked.recipes, asked.source, "--page", asked.page, "--fastai", *words, first]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    (folder / ANSWERS).write_text(done.stdout.strip().splitlines()[-1])
    return folder


def fine_tune_fastai(source: str, arch: str, size: str, epochs: str, first: str) -> None:
    """Print seconds, and whether each held-out image is right by its name, as JSON."""
    import csv
    import time
    import warnings

    import torch
    from fastai.callback.progress import ProgressCallback  # noqa: F401 - gives no_bar()
    from fastai.callback.schedule import fine_tune  # noqa: F401 - gives fine_tune(), fit_one_cycle() and lr_find()
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import FuncSplitter, Normalize
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.vision.augment import Resize, ResizeMethod, aug_transforms
    from fastai.vision.core import PILImage
    from fastai.vision.data import ImageBlock
    from fastai.vision.learner import vision_learner

    from signsclf import images
    from signsclf.data.table import read_source
    from signsclf.training.architectures import find_architecture, imagenet_weights
    from signsclf.training.networks import OWN

    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    found, weights = read_source(source), find_architecture(arch)
    with (Path(first) / "run" / "split.csv").open(newline="", encoding="utf-8") as file:
        split = {row["path"]: row for row in csv.DictReader(file)}
    names = [found.relative(path) for path in found.table["path"]]
    path_of = {name: path for name, path in zip(names, found.table["path"], strict=True) if name in split}
    began = time.monotonic()
    loaders = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=lambda _: list(path_of),
        get_x=lambda name: PILImage.create(images.decode(images.read(path_of[name]), name)),
        get_y=lambda name: split[name]["label"],
        splitter=FuncSplitter(lambda name: split[name]["split"] == "valid"),
        item_tfms=Resize(int(size), method=ResizeMethod.Squish),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(weights.mean, weights.std)],
    ).dataloaders(source, bs=32, num_workers=0)
    if arch in OWN:
        learner = Learner(loaders, OWN[arch].build(len(loaders.vocab), int(size)), CrossEntropyLossFlat())
    else:
        learner = vision_learner(loaders, arch, pretrained=False)
        body = learner.model[0].model
        missing = body.load_state_dict(imagenet_weights(weights), strict=False).missing_keys
        if missing:
            raise SystemExit(f"{arch}: ImageNet's weights have no {missing[0]}")
    with learner.no_bar(), learner.no_logging():
        if arch in OWN:
            learner.fit_one_cycle(int(epochs), learner.lr_find(show_plot=False).valley)
        else:
            learner.fine_tune(int(epochs))
        predicted, targets = learner.get_preds()
    right = (predicted.argmax(1) == targets).tolist()
    held_out = list(loaders.valid.items)
    print(json.dumps({"seconds": time.monotonic() - began, "right": dict(zip(held_out, right, strict=True))}))


def answers(source: str, folders: dict[tuple[int, int], Path]) -> Answers:
    """Evaluate each model on the images that it held out.

    Args:
        folders: by number of the fold, and seed.
    """
    from signsclf.choices import SplitName
    from signsclf.evaluation.evaluate import evaluate
    from signsclf.model.folder import read_config

    names: list[str] = []
    groups: list[str] = []
    right, seconds = [], []
    for (_, seed), folder in folders.items():
        if (folder / ANSWERS).is_file():
            theirs = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
            names += [f"{seed} {name}" for name in theirs["right"]]
            right.append(np.array(list(theirs["right"].values())))
            seconds.append(theirs["seconds"])
            continue
        found = evaluate(folder, source, split=SplitName.VALID)
        names += [f"{seed} {name}" for name in found.names]
        groups += [group or f"image {name}" for group, name in zip(found.groups, found.names, strict=True)]
        right.append(found.probabilities.argmax(axis=1) == found.targets)
        seconds.append(read_config(folder).figures["training"]["seconds"])
    # Of one order, whoever answered: plain fastai tells no groups.
    order = sorted(range(len(names)), key=names.__getitem__)
    return Answers(
        names=tuple(names[i] for i in order),
        right=np.concatenate(right)[order],
        groups=tuple(groups[i] for i in order) if groups else (),
        seconds=float(np.mean(seconds)),
    )


def compare(base: Answers, other: Answers) -> dict[str, float]:
    """Compare a recipe with the first one, paired by image and by group: figures in per cent, p-values as they are."""
    from signsclf.metrics.intervals import compare_pairs, group_numbers

    if base.names != other.names:
        raise SystemExit("two recipes held out different images; give none that changes the split")
    pair = compare_pairs(base.right, other.right, group_numbers(base.groups))
    low, high = pair.by_groups or (pair.difference_low, pair.difference_high)
    figures = {"difference": 100 * pair.difference, "low": 100 * low, "high": 100 * high}
    figures = {name: round(value, 3) for name, value in figures.items()}
    figures |= {"p_mcnemar": float(f"{pair.p_value:.3g}")}
    if pair.p_value_by_groups is not None:
        figures |= {"p_groups": float(f"{pair.p_value_by_groups:.3g}")}
    return figures


def figures_of(name: str, found: dict[str, Answers | str]) -> dict[str, float]:
    """Give the figures of a recipe, against the first where it is another and both have answers."""
    own, base = found[name], next(iter(found.values()))
    if isinstance(own, str):
        return {}
    figures = {"accuracy": round(100 * float(own.right.mean()), 3), "seconds": round(own.seconds, 1)}
    return figures if own is base or isinstance(base, str) else figures | compare(base, own)


def row(name: str, found: dict[str, Answers | str]) -> str:
    """Set a recipe's line of the table."""
    own = found[name]
    if isinstance(own, str):
        return f"{name:24} failed: {own}"
    f = figures_of(name, found)
    line = f"{name:24} {f['accuracy']:7.3f} %  n = {len(own.names):,}"
    line += f" in {len(set(own.groups)):,} groups" if own.groups else ""
    if "difference" in f:
        line += f"  {f['difference']:+.3f} ({f['low']:+.3f} to {f['high']:+.3f}) points"
        line += f"  p = {f['p_groups']:.3g} by group," if "p_groups" in f else "  p ="
        line += f" {f['p_mcnemar']:.3g} by image"
    return f"{line}  {f['seconds']:,.0f} s"


def entry(
    name: str, recipes: dict[str, str], found: dict[str, Answers | str], asked: argparse.Namespace
) -> dict[str, Any]:
    """Make the log's line of a recipe; ``not taken`` becomes ``taken`` by hand, where it is."""
    own, first = found[name], next(iter(recipes))
    is_first, failed = name == first, isinstance(own, str)
    command = f"python scripts/bench_recipes.py {asked.recipes.name} {Path(asked.source).name} --folds {asked.folds}"
    command += f" --only-folds {asked.only_folds}" if asked.only_folds else ""
    command += f" --seeds {asked.seeds}" if asked.seeds > 1 else ""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    note = f"{name}: {recipes[name]}" + ("" if is_first else f"; against {first}")
    return {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        "command": command,
        "commit": commit.stdout.strip()[:7],
        "machine": asked.machine,
        "n": None if failed else len(own.names),
        "figures": figures_of(name, found),
        "outcome": "failed" if failed else "holds" if is_first else "not taken",
        "note": f"{note}; {own}" if failed else note,
        "page": asked.page,
    }


def append(log: Path, line: dict[str, Any]) -> None:
    """Append a line of JSON."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def machine() -> str:
    """Name the CPU and its cores."""
    try:
        model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
