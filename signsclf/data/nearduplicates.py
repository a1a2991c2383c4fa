"""Find near-duplicates by their pixels: frames of one object, re-encoded, resized, slightly cropped or relit copies.

Each image becomes two short vectors, of a thumbnail of 32 × 32 pixels:

- *layout*: 8 × 8 cells of colour without their mean, compared by correlation. It is what a perceptual hash is made of,
  before it is cut to bits, so a copy that differs in brightness, contrast, size or JPEG quality keeps it.
- *appearance*: a linear projection in which frames of one traffic sign lie close together and different signs of one
  class do not (linear discriminant analysis, Fisher 1936), fitted once on tracks of GTSRB; it also tolerates a crop.

Two images of one class are near-duplicates where either pair of vectors is close enough, or where their appearances are
much closer to each other than to those of other objects (the ratio test of Lowe 2004): how alike the objects of a class
are differs between classes. Groups are what chains of such pairs connect, so that a sign that comes
nearer frame by frame is one group. NumPy and Pillow only; labels keep images of different classes apart, and names and
their order are never used.
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
MIN_APPEARANCE = 0.98
"""Least cosine of two appearances that are near-duplicates. It and what follows were chosen on tracks of GTSRB that the
projection was not fitted on, whole and thinned to a sixth; 99.5 % of the pairs that groups connect there are true."""

MAX_RATIO = 1 / 3
"""Most of its distance to another object, by cosine of appearances, that an image has to its near-duplicate, and this
to it. Another object is what is so far down the list of nearest images that no more can be of the same one."""
OBJECT_LIST = 1.2
"""How far down, in images of a large object: a tenth of the images that close pairs group are in larger groups."""

LARGEST = 50
"""Of one class, a larger group that also has more than a quarter of the images is taken for a sign that they all look
alike, as X-rays do: the class is grouped again by half the distances, up to twice, and without the ratio."""

DESCRIBED = 232
"""Numbers that describe an image: layout and appearance."""
_MATRIX = Path(__file__).with_name("appearance.npz")
_CELLS, _FINE = 8, 16
_LAYOUT = _CELLS * _CELLS * 3
# Less contrast than this, of 1, is noise or an empty image: any two of them would correlate.
_FLAT = 0.02
# The projection knows signs alone: what looks alike to it must be laid out alike too.
_LEAST_OF_BOTH = 0.85
# The least cosine and correlation of what the ratio finds: without a near-duplicate the nearest may be anything.
_LEAST_BY_RATIO = 0.5
_LARGE_OBJECT = 0.9
_LEAST_OF_LIST = 4
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
    max_ratio: float = MAX_RATIO,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Group near-duplicates of one class; pairs are compared block by block, never held all at once.

    Where most images of a class would become one group, that class is grouped more strictly, see `LARGEST`.

    Args:
        described: of `describe` (n, d).
        labels: of each image; those of different labels are not compared.
        min_layout, min_appearance: see `MIN_LAYOUT` and `MIN_APPEARANCE`.
        max_ratio: see `MAX_RATIO`; 0 is none.
        progress: told how many of the images are compared, and of how many.

    Returns:
        For each image the lowest position in its group, its own where it is alone; int64 (n,).
    """
    labels = np.asarray(labels, dtype=object)
    first = np.arange(len(described))
    varied = []
    done = 0
    for label in dict.fromkeys(labels.tolist()):
        rows = np.flatnonzero(labels == label)
        groups = _group_close(described[rows], min_layout, min_appearance)
        if _too_large(groups):
            for halved in range(1, _STRICTER + 1):
                stricter = (1 - (1 - least) / 2**halved for least in (min_layout, min_appearance))
                groups = _group_close(described[rows], *stricter)
                if not _too_large(groups):
                    break
        else:
            varied.append(rows)
        first[rows] = rows[groups]
        done += len(rows)
        if progress:
            progress(done, len(described))
    other_object = _place_of_other_object([first[rows] for rows in varied])
    for rows in varied if max_ratio else ():
        groups = _group_by_ratio(np.searchsorted(rows, first[rows]), described[rows], other_object, max_ratio)
        if not _too_large(groups):
            first[rows] = rows[groups]
    return first


def _place_of_other_object(groups: list[np.ndarray]) -> int:
    """Tell how far down an image's list of nearest ones other objects are, by the groups that close pairs made."""
    sizes = np.concatenate([np.zeros(0, int), *(np.unique(each, return_counts=True)[1] for each in groups)])
    # Every image counts, not every group.
    sizes = np.repeat(sizes, sizes)[np.repeat(sizes, sizes) > 1]
    return max(_LEAST_OF_LIST, round(OBJECT_LIST * np.quantile(sizes, _LARGE_OBJECT)) if len(sizes) else 0)


def _too_large(groups: np.ndarray) -> bool:
    """Tell whether a class's images seem to be all alike; see `LARGEST`."""
    return np.bincount(groups).max() > max(LARGEST, len(groups) // 4)


def _group_close(described: np.ndarray, min_layout: float, min_appearance: float) -> np.ndarray:
    """Connect the images that are close by these thresholds; return the first of each one's group."""
    vectors = np.ascontiguousarray(described, dtype=np.float32)
    groups = np.arange(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        these = slice(start, start + _BLOCK)
        for other in range(start, len(vectors), _BLOCK):
            those = slice(other, other + _BLOCK)
            a, b = np.nonzero(_close(vectors[these], vectors[those], min_layout, min_appearance))
            groups = _join(groups, a + start, b + other)
    return groups


def _group_by_ratio(groups: np.ndarray, described: np.ndarray, other_object: int, max_ratio: float) -> np.ndarray:
    """Connect the groups of a class further by `MAX_RATIO`, unless it is too small for most images to be others."""
    if len(described) <= 2 * other_object:
        return groups
    layout = np.ascontiguousarray(described[:, :_LAYOUT], dtype=np.float32)
    appearance = np.ascontiguousarray(described[:, _LAYOUT:], dtype=np.float32)
    most = max_ratio * (1 - _nth_cosine(appearance, other_object))
    for start in range(0, len(described), _BLOCK):
        these = slice(start, start + _BLOCK)
        for other in range(start, len(described), _BLOCK):
            those = slice(other, other + _BLOCK)
            cosine = appearance[these] @ appearance[those].T
            found = (1 - cosine <= np.minimum(most[these, None], most[those])) & (cosine >= _LEAST_BY_RATIO)
            a, b = np.nonzero(found)
            kept = (layout[a + start] * layout[b + other]).sum(axis=1) >= _LEAST_BY_RATIO
            groups = _join(groups, a[kept] + start, b[kept] + other)
    return groups


def _nth_cosine(vectors: np.ndarray, n: int) -> np.ndarray:
    """Compute the cosine of each vector and its nth nearest other one, float32 (m,)."""
    found = []
    for start in range(0, len(vectors), _BLOCK):
        # It is its own nearest.
        largest = np.full((len(vectors[start : start + _BLOCK]), n + 1), -1, np.float32)
        for other in range(0, len(vectors), _BLOCK):
            cosines = vectors[start : start + _BLOCK] @ vectors[other : other + _BLOCK].T
            cosines = np.concatenate([largest, cosines], axis=1)
            largest = np.partition(cosines, cosines.shape[1] - n - 1, axis=1)[:, -n - 1 :]
        found.append(largest.min(axis=1))
    return np.concatenate(found)


def have_near_duplicates(
    described: np.ndarray, labels: Sequence[str], others: np.ndarray, other_labels: Sequence[str]
) -> np.ndarray:
    """Tell which images are grouped with one of the others, such as the training images: bool (n,).

    Args:
        described, others: of `describe`, (n, d) and (m, d).
        labels, other_labels: of each image.
    """
    groups = group_near_duplicates(np.concatenate([described, others]), [*labels, *other_labels])
    return np.isin(groups[: len(described)], groups[len(described) :])


def names_of_groups(first: np.ndarray) -> list[str]:
    """Name the group of each image by its first image's position, from `group_near_duplicates`; "" where alone."""
    sizes = np.bincount(first, minlength=len(first))
    return [f"near {place}" if sizes[place] > 1 else "" for place in first.tolist()]


def _close(described: np.ndarray, others: np.ndarray, min_layout: float, min_appearance: float) -> np.ndarray:
    """Tell which pairs are near-duplicates by layout or by appearance: bool (n, m)."""
    correlation = described[:, :_LAYOUT] @ others[:, :_LAYOUT].T
    close = described[:, _LAYOUT:] @ others[:, _LAYOUT:].T >= min_appearance
    close &= correlation >= _LEAST_OF_BOTH
    close |= correlation >= min_layout
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
