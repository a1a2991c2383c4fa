"""Find near-duplicates by their pixels: frames of one object, re-encoded, resized, slightly cropped or relit copies.

Each image becomes two short vectors, of a thumbnail of 32 × 32 pixels, and two images of one class are near-duplicates
where either pair of vectors is close enough:

- *layout*: 8 × 8 cells of colour without their mean, compared by correlation. It is what a perceptual hash is made of,
  before it is cut to bits, so a copy that differs in brightness, contrast, size or JPEG quality keeps it.
- *appearance*: a linear projection in which frames of one traffic sign lie close together and different signs of one
  class do not (linear discriminant analysis, Fisher 1936), fitted once on tracks of GTSRB; it also tolerates a crop.

Groups are what chains of such pairs connect, so that a sign that comes nearer frame by frame is one group. NumPy and
Pillow only; labels keep images of different classes apart, and names and their order are never used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from signsclf.data.pixels import Pixels

SIDE = 32
"""Side of the thumbnails in pixels."""
MIN_LAYOUT = 0.99
"""Least correlation of two layouts that are near-duplicates."""
MIN_APPEARANCE = 0.976
"""Least cosine of two appearances that are near-duplicates; chosen on tracks of GTSRB that the projection was not
fitted on, where with it 98.6 % of the pairs that groups connect are true."""

LARGEST = 50
"""Of one class, a larger group that also has more than a quarter of the images is taken for a sign that they all look
alike, as X-rays do: the class is grouped again by half the distances, up to twice."""

DESCRIBED = 232
"""Numbers that describe an image: layout and appearance."""
_MATRIX = Path(__file__).with_name("appearance.npz")
_CELLS, _FINE = 8, 16
_LAYOUT = _CELLS * _CELLS * 3
# Less contrast than this, of 1, is noise or an empty image: any two of them would correlate.
_FLAT = 0.02
# The projection knows signs alone: what looks alike to it must be laid out alike too.
_LEAST_OF_BOTH = 0.85
_BLOCK = 1024
_AT_ONCE = 64  # images that are taken together
_STRICTER = 2


def thumbnail(image: Image.Image | np.ndarray) -> np.ndarray:
    """Resize an RGB image, of Pillow or uint8 (H, W, 3), to uint8 (`SIDE`, `SIDE`, 3), ignoring its aspect ratio."""
    if isinstance(image, np.ndarray):
        if image.shape[:2] == (SIDE, SIDE):
            return image
        image = Image.fromarray(np.ascontiguousarray(image))
    # With a gap, Pillow averages a large image first, which is faster.
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0), dtype=np.uint8)


def describe(thumbnails: np.ndarray) -> np.ndarray:
    """Describe thumbnails, uint8 (n, `SIDE`, `SIDE`, 3), by unit vectors: float32 (n, layout and appearance).

    An image without contrast has zeros, which are close to nothing.
    """
    mean, projection = _projection()
    features, spread = raw_features(thumbnails)
    layout = _pooled(thumbnails, _CELLS)
    layout -= layout.mean(axis=1, keepdims=True)
    described = np.concatenate([_unit(layout), _unit((features - mean) @ projection)], axis=1)
    described[spread < _FLAT] = 0
    return described


def describe_all(pixels: Pixels, rows: np.ndarray | None = None) -> np.ndarray:
    """Describe rows of uint8 images (n, H, W, 3), by default all, chunk by chunk; see `describe`."""
    rows = np.arange(len(pixels)) if rows is None else rows
    described = np.zeros((len(rows), DESCRIBED), np.float32)
    for start in range(0, len(rows), _BLOCK):
        chunk = rows[start : start + _BLOCK]
        parts = (pixels[chunk[part : part + _AT_ONCE]] for part in range(0, len(chunk), _AT_ONCE))
        described[start : start + _BLOCK] = describe(np.stack([thumbnail(image) for part in parts for image in part]))
    return described


def raw_features(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute what the projection is fitted on, float32 (n, 962), and the contrast of each thumbnail, 0 to 1.

    The features are 16 × 16 cells normalised by mean and contrast, 8 × 8 cells on a logarithmic scale, for the colour
    of the light, and contrast and mean themselves.
    """
    fine = _pooled(thumbnails, _FINE)
    mean, spread = fine.mean(axis=1, keepdims=True), fine.std(axis=1, keepdims=True)
    steady = spread + 0.02
    light = 0.5 * np.log(_pooled(thumbnails, _CELLS) + 0.03)
    features = [(fine - mean) / steady, light, 2 * np.log(steady), 2 * np.log(mean + 0.02)]
    return np.concatenate(features, axis=1), spread[:, 0]


def group_near_duplicates(
    described: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    *,
    min_layout: float = MIN_LAYOUT,
    min_appearance: float = MIN_APPEARANCE,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Group near-duplicates of one class; pairs are compared block by block, never held all at once.

    Where most images of a class would become one group, the distances are halved for that class, see `LARGEST`.

    Args:
        described: of `describe` (n, d).
        labels: of each image; those of different labels are not compared.
        min_layout, min_appearance: see `MIN_LAYOUT` and `MIN_APPEARANCE`.
        progress: told how many of the images are compared, and of how many.

    Returns:
        For each image the lowest position in its group, its own where it is alone; int64 (n,).
    """
    labels = np.asarray(labels, dtype=object)
    first = np.arange(len(described))
    done = 0
    for label in dict.fromkeys(labels.tolist()):
        rows = np.flatnonzero(labels == label)
        distances = 1 - min_layout, 1 - min_appearance
        groups = _group(described[rows], distances)
        for _ in range(_STRICTER):
            if np.bincount(groups).max() <= max(LARGEST, len(rows) // 4):
                break
            distances = distances[0] / 2, distances[1] / 2
            groups = _group(described[rows], distances)
        first[rows] = rows[groups]
        done += len(rows)
        if progress:
            progress(done, len(described))
    return first


def _group(described: np.ndarray, distances: tuple[float, float]) -> np.ndarray:
    """Connect images within these distances of layout and appearance; return the first of each one's group."""
    vectors = np.ascontiguousarray(described, dtype=np.float32)
    groups = np.arange(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        these = slice(start, start + _BLOCK)
        for other in range(start, len(vectors), _BLOCK):
            those = slice(other, other + _BLOCK)
            a, b = np.nonzero(_close(vectors[these], vectors[those], distances))
            groups = _join(groups, a + start, b + other)
    return groups


def have_near_duplicates(
    described: np.ndarray, labels: Sequence[str], others: np.ndarray, other_labels: Sequence[str]
) -> np.ndarray:
    """Tell which images have a near-duplicate of their class among others, such as the training images: bool (n,).

    Args:
        described, others: of `describe`, (n, d) and (m, d).
        labels, other_labels: of each image.
    """
    found = np.zeros(len(described), bool)
    labels, other_labels = (np.asarray(each, dtype=object) for each in (labels, other_labels))
    distances = 1 - MIN_LAYOUT, 1 - MIN_APPEARANCE
    for label in dict.fromkeys(labels.tolist()):
        mine, theirs = np.flatnonzero(labels == label), np.flatnonzero(other_labels == label)
        for start in range(0, len(mine), _BLOCK):
            rows = mine[start : start + _BLOCK]
            for other in range(0, len(theirs), _BLOCK):
                close = _close(described[rows], others[theirs[other : other + _BLOCK]], distances)
                found[rows] |= close.any(axis=1)
    return found


def names_of_groups(first: np.ndarray) -> list[str]:
    """Name the group of each image by its first image's position, from `group_near_duplicates`; "" where alone."""
    sizes = np.bincount(first, minlength=len(first))
    return [f"near {place}" if sizes[place] > 1 else "" for place in first.tolist()]


def _close(described: np.ndarray, others: np.ndarray, distances: tuple[float, float]) -> np.ndarray:
    """Tell which pairs are within the distances of layout and appearance: bool (n, m)."""
    correlation = described[:, :_LAYOUT] @ others[:, :_LAYOUT].T
    close = described[:, _LAYOUT:] @ others[:, _LAYOUT:].T >= 1 - distances[1]
    close &= correlation >= _LEAST_OF_BOTH
    close |= correlation >= 1 - distances[0]
    return close


def _join(groups: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Merge the groups of each pair of positions; each position's group is the lowest position in it."""
    while True:
        left, right = groups[a], groups[b]
        apart = left != right
        if not apart.any():
            return groups
        a, b, left, right = a[apart], b[apart], left[apart], right[apart]
        parent = np.arange(len(groups))
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
        while (parent[parent] != parent).any():
            parent = parent[parent]
        groups = parent[groups]


def _pooled(thumbnails: np.ndarray, cells: int) -> np.ndarray:
    """Average thumbnails to ``cells`` × ``cells`` × 3 values in 0 to 1: float32 (n, that many)."""
    n, each = len(thumbnails), SIDE // cells
    blocks = thumbnails.reshape(n, cells, each, cells, each, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1) / 255


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


@functools.cache
def _projection() -> tuple[np.ndarray, np.ndarray]:
    """Read the mean (962,) and the projection (962, 40) of appearance; scripts/bench_copies.py fits them."""
    with np.load(_MATRIX, allow_pickle=False) as stored:
        return stored["mean"].astype(np.float32), stored["projection"].astype(np.float32)
