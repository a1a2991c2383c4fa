"""Near-duplicates without track numbers: precision and recall of pairs within tracks, seconds and memory.

    python scripts/bench_copies.py gtsrb-original                      # what the thresholds of the package give
    python scripts/bench_copies.py gtsrb-original --curve              # and other thresholds, each on its own
    python scripts/bench_copies.py gtsrb-32px --without gtsrb-original # on tracks that the other source does not have
    python scripts/bench_copies.py gtsrb-32px --without gtsrb-original --fit appearance.npz --curve

`--fit` fits the projection on every second track and measures on the others, so that thresholds are chosen on tracks
that neither the projection nor the test source has. The tracks are read from GTSRB's file names, and are used for
fitting and for counting alone.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

from signsclf.data import nearduplicates
from signsclf.data.cache import decode_all
from signsclf.data.table import apply_crop, read_source

DIMENSIONS, COMPONENTS, RIDGE = 40, 400, 0.1


def read(place: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thumbnails, labels, and the track of each image: its class and the first number of its file's name."""
    table = apply_crop(read_source(place), False).table
    decoded = decode_all(table, nearduplicates.SIDE)
    kept = [i for i in range(len(table)) if i not in decoded.unreadable]
    names = [Path(table["path"][i]) for i in kept]
    labels = table["label"][kept]
    tracks = np.array([f"{label}/{name.stem.split('_')[0]}" for label, name in zip(labels, names, strict=True)])
    return decoded.pixels[kept], labels, tracks


def fit(thumbnails: np.ndarray, labels: np.ndarray, tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and projection (d, DIMENSIONS): between tracks of one class against within tracks."""
    features = nearduplicates.raw_features(thumbnails)[0]
    mean = features.mean(axis=0)
    components = np.linalg.svd((features - mean)[::3], full_matrices=False)[2][:COMPONENTS].T
    x = ((features - mean) @ components).astype(np.float64)
    track = np.unique(tracks, return_inverse=True)[1]
    first = np.unique(track, return_index=True)[1]
    centres = _means(x, track)
    within = x - centres[track]
    within = within.T @ within / len(x)
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    # Every image counts in its class's mean, every track once in the spread between tracks.
    label = np.unique(labels.astype(str), return_inverse=True)[1]
    between = centres - _means(x, label)[label[first]]
    between = between.T @ between / len(centres)
    whiten = np.linalg.inv(np.linalg.cholesky(within)).T
    values, vectors = np.linalg.eigh(whiten.T @ between @ whiten)
    values, vectors = values[::-1][:DIMENSIONS], vectors[:, ::-1][:, :DIMENSIONS]
    return mean, components @ (whiten @ vectors) * np.sqrt(values / (1 + values))


def _means(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    sums = np.zeros((group.max() + 1, x.shape[1]))
    np.add.at(sums, group, x)
    return sums / np.bincount(group)[:, None]


def pairs(keys: list) -> int:
    """Pairs of images with equal keys."""
    counts = np.unique(keys, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def score(groups: np.ndarray, tracks: np.ndarray) -> tuple[float, float]:
    """Precision and recall of the pairs that groups make, over all true pairs within tracks."""
    true = pairs([f"{group} {track}" for group, track in zip(groups, tracks, strict=True)])
    return true / max(pairs(groups.tolist()), 1), true / max(pairs(tracks.tolist()), 1)


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--without", metavar="SOURCE", help="leave out the tracks that this source has")
    parser.add_argument("--fit", metavar="FILE", type=Path, help="fit the projection on every second track first")
    parser.add_argument("--every", metavar="N", type=int, default=1, help="take every Nth image alone: smaller tracks")
    parser.add_argument("--curve", action="store_true", help="a line for each of several thresholds")
    parser.add_argument("--classes", action="store_true", help="a line for each class")
    options = parser.parse_args()
    thumbnails, labels, tracks = read(options.source)
    if options.without:
        kept = ~np.isin(tracks, read(options.without)[2])
        thumbnails, labels, tracks = thumbnails[kept], labels[kept], tracks[kept]
    if options.fit:
        half = np.unique(tracks, return_inverse=True)[1] % 2 == 0
        mean, projection = fit(thumbnails[half], labels[half], tracks[half])
        np.savez_compressed(options.fit, mean=mean.astype(np.float32), projection=projection.astype(np.float16))
        nearduplicates._MATRIX = options.fit
        thumbnails, labels, tracks = thumbnails[~half], labels[~half], tracks[~half]
    thumbnails, labels, tracks = (each[:: options.every] for each in (thumbnails, labels, tracks))
    started = time.perf_counter()
    described = nearduplicates.describe_all(thumbnails)
    print(f"{len(labels):,} images, {len(set(tracks)):,} tracks; described in {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    groups = nearduplicates.group_near_duplicates(described, labels)
    seconds = time.perf_counter() - started
    precision, recall = score(groups, tracks)
    print(f"package: precision {100 * precision:.2f} %, recall {100 * recall:.2f} %; grouped in {seconds:.1f} s")
    if options.classes:
        for label in sorted(set(labels)):
            rows = labels == label
            told = "precision {:6.2f} %, recall {:6.2f} %".format(*(100 * v for v in score(groups[rows], tracks[rows])))
            print(f"  {told}, {len(set(tracks[rows])):3} tracks: {label}")
    if options.curve:
        close = (0.995, 0.99, 0.985, 0.98, 0.975, 0.97, 0.96, 0.95, 0.94, 0.92, 0.9, 0.85, 0.8)
        ratios = (0.2, 0.25, 0.3, 1 / 3, 0.35, 0.4, 0.45, 0.5)
        for name, thresholds in {"min_appearance": close, "min_layout": close, "max_ratio": ratios}.items():
            for threshold in thresholds:
                # No pair has as much as 2 of the other. What is close tells where the ratio's other objects are.
                alone = {} if name == "max_ratio" else {"min_appearance": 2.0, "min_layout": 2.0, "max_ratio": 0.0}
                chosen = alone | {name: threshold}
                figures = score(nearduplicates.group_near_duplicates(described, labels, **chosen), tracks)
                print(
                    f"  {name} {threshold:.3f}: precision {100 * figures[0]:6.2f} %, recall {100 * figures[1]:6.2f} %"
                )
    scale = 1 if sys.platform == "darwin" else 1024
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
