"""Find copies: images with equal pixels, and augmented versions of one photo, recognised by their names."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import numpy as np

from signsclf import images
from signsclf.data.rows import is_missing, with_columns
from signsclf.errors import BadImageError


class _Sign(Enum):
    """What in a name shows that an image is a version of a photo, by increasing evidence."""

    NONE = 0
    COUNT = 1
    WORD = 2
    TOOL = 3


MAX_COPIES = 50
"""A larger family is not a photo with its copies, but many photos with a common word in their names."""

_MARK = (
    "(?:aug(?:ment(?:ed|ation)?)?s?|horizontal(?:ly)?|vertical(?:ly)?|cop(?:y|ie|ia)|kopie|dup(?:licate)?|mirror(?:ed)?|rot(?:at(?:ed?|ion))?"
    "|[hv]?flip(?:ped)?(?:lr|ud|tb|[hvxy])?|(?:new)?[0-9]{1,3}deg(?:rees)?(?:flip(?:lr|ud|tb)?)?"
    "|crop(?:ped)?|zoom(?:ed)?|scal(?:ed?|ing)|shift(?:ed)?|shear(?:ed)?|translat(?:ed?|ion)|nois(?:e|y)"
    "|gauss(?:ian)?|blur(?:red)?|bright(?:er|ness|ened)?|dark(?:er|ened)?|contrast|hue|saturation|gamma|jitter"
    "|albu(?:mentations?)?|clahe|equali[sz]ed?|edit(?:ed)?|gr[ae]y(?:scale)?|resized?|[0-9]{2,4}x[0-9]{2,4}"
    "|sharp(?:en(?:ed)?)?|distort(?:ed)?|warp(?:ed)?|elastic|perspective|affine|transform(?:ed)?|cutout|eras(?:ed|ing))"
)
_NUMBER = "[-_. ]{0,3}[-+]?[0-9]{1,6}(?:\\.[0-9]{1,6})?"
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# Names that only tools give to augmented images: Roboflow's export and the Augmentor package.
_TOOLS = (
    re.compile("(?P<photo>.+?)(?:[_.](?:jpe?g|png|bmp|webp|gif|tiff?))?\\.rf\\.[0-9a-z]{8,}", re.IGNORECASE),
    re.compile(f".*_original_(?P<photo>.+?)(?:\\.(?:jpe?g|png|bmp|webp|gif|tiff?))?_{_UUID}", re.IGNORECASE),
)
_SUFFIX = re.compile(
    f"(?P<photo>.+?)(?:[-_. ]{{1,3}}{_MARK}(?:{_NUMBER}){{0,2}}|(?P<count>[-_. ]{{0,3}}\\([0-9]{{1,3}}\\)))",
    re.IGNORECASE,
)
_PREFIX = re.compile(
    f"(?:(?:copy|kopie|copia|copie)[-_ ](?:of|von|de)|{_MARK}(?P<number>{_NUMBER})?)[-_. ]{{1,3}}(?P<photo>.+)",
    re.IGNORECASE,
)
# Names that browsers give to downloads without one: "images (3).jpg" is not a copy of "images.jpg".
_NAMELESS = re.compile("(?:images?|img|photos?|pictures?|download(?:ed)?|unnamed|untitled|index|file)", re.IGNORECASE)
_OWN_NUMBER = re.compile("(?P<photo>.+?)[-_. ]{1,3}[0-9]{1,4}")
_MAX_COUNTED = 10
_MAX_STRIPPED = 6


def copies_by_name(names: Sequence[str]) -> dict[int, str]:
    """Find versions of one photo in one folder: ``a.jpg``, ``a_rot90.jpg``, ``a_aug1.jpg``, ``a_jpg.rf.HASH.jpg``.

    A name that only tools give is sufficient. A word such as "flip" is sufficient if the photo without it is in the
    same folder, or if several photos there have versions and none has more than half of the images; a number, as in
    ``a (1).jpg``, only if ``a.jpg`` is there. So words and numbers in unrelated photos' names do not make them copies.

    Args:
        names: relative paths, with ``/``.

    Returns:
        Position of an image to the name of its photo, for families of two to `MAX_COPIES`.
    """
    folders: dict[str, list[tuple[int, str, _Sign]]] = {}
    for position, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append((position, *_photo(file.rpartition(".")[0] or file)))
    found = {}
    for folder, listed in folders.items():
        files = _numbered_copies(listed)
        families: dict[str, list[tuple[int, str, _Sign]]] = {}
        for file in files:
            families.setdefault(file[1].casefold(), []).append(file)
        families = {
            photo: members
            for photo, members in families.items()
            if 2 <= len(members) <= MAX_COPIES and any(sign is not _Sign.NONE for _, _, sign in members)
        }
        several = len(families) > 1 and max(map(len, families.values())) <= len(files) / 2
        for photo, members in families.items():
            signs = {sign for _, _, sign in members}
            if _Sign.TOOL in signs:
                real = True
            elif _Sign.WORD in signs:
                real = several or _Sign.NONE in signs
            else:
                real = _Sign.NONE in signs and len(members) <= _MAX_COUNTED
            if real:
                found.update((position, f"{folder}/{photo}".lstrip("/")) for position, _, _ in members)
    return found


def _numbered_copies(files: list[tuple[int, str, _Sign]]) -> list[tuple[int, str, _Sign]]:
    """Strip the number of a copy from names, as in ``a_2_aug.jpg`` where ``a.jpg`` exists."""
    originals = {photo.casefold() for _, photo, sign in files if sign is _Sign.NONE}
    result = []
    for position, photo, sign in files:
        numbered = _OWN_NUMBER.fullmatch(photo) if sign is _Sign.WORD and photo.casefold() not in originals else None
        known = numbered is not None and numbered["photo"].casefold() in originals
        result.append((position, numbered["photo"] if numbered and known else photo, sign))
    return result


def group_named_copies(table: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, int, int]:
    """Group the copies found by `copies_by_name`, in rows that have no group.

    Args:
        names: relative path of each row.

    Returns:
        The table, the number of images that were grouped, and of how many photos they are.
    """
    alone = np.flatnonzero(is_missing(table["group"]))
    copies = copies_by_name([names[row] for row in alone])
    if not copies:
        return table, 0, 0
    groups = table["group"].copy()
    for place, photo in copies.items():
        groups[alone[place]] = f"copies of {photo}"
    return with_columns(table, group=groups), len(copies), len(set(copies.values()))


def group_repeats(table: np.ndarray, digests: Sequence[str]) -> np.ndarray:
    """Put identical images into one group, merging the groups they have, so that a split keeps them together.

    Args:
        digests: digest of each row's pixels; "" where they cannot be read.
    """
    times = Counter(digests)
    repeated = [row for row, digest in enumerate(digests) if digest and times[digest] > 1]
    if not repeated:
        return table
    groups = table["group"].copy()
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (up := parent.get(name, name)) != name:
            parent[name] = parent.get(up, up)
            name = up
        return name

    for row in repeated:
        same = root(f"same image {digests[row]}")
        if groups[row] is None:
            groups[row] = same
        else:
            # The merged group keeps the name of the source's group, the first of several.
            own = root(groups[row])
            first, second = sorted((own, same), key=lambda name: (name.startswith("same image "), name))
            parent[second] = first
    merged = [group if group is None else root(group) for group in groups] if parent else groups
    return with_columns(table, group=merged)


def contradictions(labels: Sequence[str], splits: Sequence[str], digests: Sequence[str]) -> tuple[int, int]:
    """Count the images that are also in another class, and those of one class that are also in another split.

    Args:
        labels, splits, digests: of each image; an empty digest equals no other.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for label, split, digest in zip(labels, splits, digests, strict=True):
        if digest:
            found.setdefault(digest, []).append((label, split))
    in_classes = in_splits = 0
    for rows in found.values():
        if len({label for label, _ in rows}) > 1:
            in_classes += len(rows)
        elif len({split for _, split in rows}) > 1:
            in_splits += len(rows)
    return in_classes, in_splits


def same_files(paths: Sequence[str], others: Sequence[str]) -> int:
    """Count the ``paths`` whose bytes equal one of ``others``; only files of equal size are read."""
    sizes, other_sizes = [_size(path) for path in paths], [_size(path) for path in others]
    shared = set(sizes) & set(other_sizes)
    known = {_hash(path) for path, size in zip(others, other_sizes, strict=True) if size in shared} - {None}
    return sum(_hash(path) in known for path, size in zip(paths, sizes, strict=True) if size in shared)


def _size(path: str) -> int | None:
    """Return a file's size in bytes; None for a member of an archive."""
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return None


def _hash(path: str) -> bytes | None:
    try:
        return hashlib.blake2b(images.read(path), digest_size=16).digest()
    except BadImageError:
        return None


def _photo(stem: str) -> tuple[str, _Sign]:
    """Find the photo's name in the stem of a version's name, and the evidence for it."""
    for tool in _TOOLS:
        if named := tool.fullmatch(stem):
            return named["photo"], _Sign.TOOL
    sign = _Sign.NONE
    for _ in range(_MAX_STRIPPED):
        if named := _SUFFIX.fullmatch(stem):
            counted = named["count"] is not None
            if counted and _NAMELESS.fullmatch(named["photo"]):
                break
        elif named := _PREFIX.fullmatch(stem):
            counted = False
            # In "aug_1_2" it is unclear which number is the photo's.
            if named["number"] is not None and named["photo"].isdigit():
                break
        else:
            break
        stem = named["photo"]
        sign = _Sign.COUNT if counted and sign is not _Sign.WORD else _Sign.WORD
    return stem, sign
