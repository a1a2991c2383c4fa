"""Class folders, recognised in a listing of files and turned into rows; what every layout becomes."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from signsclf import images
from signsclf.choices import Layout
from signsclf.data.gtsrb import CLASS_NAMES, is_gtsrb_folder_names
from signsclf.data.tree import Tree, hidden_text, some
from signsclf.errors import SourceError
from signsclf.imagekinds import is_photo_suffix, skipped_text

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What the parts of a source are called, in lower case, to what the table calls them."""

_TRACK = re.compile(r"([0-9]{5})_[0-9]{5}")
_KAGGLE_TRACK = re.compile(r"([0-9]{5})_([0-9]{5})_[0-9]{5}")


class Row(NamedTuple):
    """One image: a row of the table, and the (width, height) in pixels that its roi is measured on."""

    path: str
    label: str
    split: str | None = None
    group: str | None = None
    roi: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Found:
    """A recognised layout: its rows, and the folder (ending in '/', or '') that names are relative to."""

    layout: Layout
    rows: list[Row]
    base: str
    is_gtsrb: bool = False
    notes: tuple[str, ...] = ()


def read_folders(tree: Tree) -> Found:
    """CLASS/image, or SPLIT/CLASS/image, below any number of folders that hold nothing else.

    Raises:
        SourceError: there are no images, or no class folders.
    """
    names = tree.image_names
    if not names:
        raise _no_images(tree)
    base, inside = _unwrap(names, "")
    parts = {folder: SPLITS[folder.casefold()] for folder in inside if _is_part(folder, inside[folder], base)}
    if twice := [split for split, n in Counter(parts.values()).items() if n > 1]:
        both = " and ".join(f"{folder}/" for folder in parts if parts[folder] == twice[0])
        raise SourceError(f"{tree.root}: {both} are both {twice[0]}; keep one")
    classes: list[tuple[str | None, str, str, list[str]]] = []  # split, folder above, class folder, names
    if parts:
        for folder, split in parts.items():
            above, within = _unwrap(inside[folder], f"{base}{folder}/")
            classes += [(split, above, name, within[name]) for name in within if name]
    else:
        classes = [(None, base, name, inside[name]) for name in inside if name]
        if all(name.casefold() in SPLITS for _, _, name, _ in classes):
            where = " and ".join(f"{name}/" for _, _, name, _ in classes)
            raise SourceError(
                f"{tree.root}: {len(names):,} images but no class folders{where and f' in {where}'}; "
                "give each class a folder of its own, or a csv with the columns path and label"
            )
    folders = {name for _, _, name, _ in classes}
    empty = _empty_folders(tree, {above for _, above, _, _ in classes}, folders)
    _refuse_vanishing(tree, {above for _, above, _, _ in classes}, empty)
    is_gtsrb = is_gtsrb_folder_names(folders) or is_gtsrb_folder_names(folders | set(empty))
    rows = [
        Row(tree.files[name], CLASS_NAMES[int(folder)] if is_gtsrb else folder, split)
        for split, _, folder, within in classes
        for name in within
    ]
    groups = tracks([row.label for row in rows], [row.path for row in rows], kaggle=is_gtsrb)
    rows = [row._replace(group=group) for row, group in zip(rows, groups, strict=True)]
    notes = []
    if empty:
        notes.append(f"folders without images are no classes ({len(empty):,}): {some(empty)}")
    if len(rows) < len(names):
        used = {name for *_, within in classes for name in within}
        stray = [name for name in names if name not in used]
        notes.append(f"images in no class folder are left out ({len(stray):,}): {some(stray)}")
    return Found(Layout.FOLDERS, rows, base, is_gtsrb, tuple(notes))


def tracks(labels: list[str], paths: list[str], kaggle: bool = False) -> list[str | None]:
    """Group of each image, 'label/TTTTT', where every file is called TTTTT_FFFFF; else None for all.

    Args:
        kaggle: whether CCCCC_TTTTT_FFFFF, as in Kaggle's copy of GTSRB, counts too.
    """
    stems = [posixpath.splitext(posixpath.basename(path))[0] for path in paths]
    for pattern in (_TRACK, _KAGGLE_TRACK) if kaggle else (_TRACK,):
        matches = [pattern.fullmatch(stem) for stem in stems]
        if all(matches):
            return [f"{label}/{match[pattern.groups]}" for label, match in zip(labels, matches, strict=True) if match]
    return [None] * len(labels)


def _below(names: Iterable[str], base: str) -> dict[str, list[str]]:
    """Folder right below ``base`` to the names anywhere in it; '' to those that lie in ``base`` itself."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        head, slash, _ = name[len(base) :].partition("/")
        found[head if slash else ""].append(name)
    return found


def _unwrap(names: list[str], base: str) -> tuple[str, dict[str, list[str]]]:
    """Goes down from ``base`` while a single folder, no class and no split, is all that holds images."""
    while True:
        inside = _below(names, base)
        folders = [folder for folder in inside if folder]
        if len(folders) != 1 or folders[0].casefold() in SPLITS:
            return base, inside
        deeper = f"{base}{folders[0]}/"
        if "" in _below(inside[folders[0]], deeper):
            return base, inside
        names, base = inside[folders[0]], deeper


def _is_part(folder: str, names: list[str], base: str) -> bool:
    """Whether a folder is a split: called so, with folders in it. A class may be called 'train' too."""
    prefix = len(base) + len(folder) + 1
    return folder.casefold() in SPLITS and any("/" in name[prefix:] for name in names)


def _no_images(tree: Tree) -> SourceError:
    kind = "archive" if tree.is_archive else "folder"
    if tree.skipped:
        return SourceError(
            f"{tree.root}: no images that can be read in this {kind}: {skipped_text(tree.skipped.values())}"
        )
    if tree.hidden:
        return SourceError(f"{tree.root}: hidden images alone in this {kind}: {hidden_text(tree.hidden)}")
    if not tree.files:
        return SourceError(f"{tree.root}: an empty {kind}; give one with a folder of images for each class")
    suffixes = " ".join(sorted(images.SUFFIXES))
    return SourceError(f"{tree.root}: no images in this {kind}; looked for {suffixes}")


def _refuse_vanishing(tree: Tree, above: set[str], empty: list[str]) -> None:
    """Refuses a source in which a class has photos, but none of a kind that is read."""
    lost: dict[str, list[str]] = {}
    for name, suffix in tree.skipped.items():
        if is_photo_suffix(suffix):
            for folder in empty:
                if any(name.startswith(f"{base}{folder}/") for base in above):
                    lost.setdefault(folder, []).append(suffix)
    if lost:
        shown = "; ".join(f"{folder!r}: {skipped_text(suffixes)}" for folder, suffixes in list(lost.items())[:3])
        what = "a class" if len(lost) == 1 else f"{len(lost):,} classes"
        raise SourceError(
            f"{tree.root}: {what} would be lost, with no file that is read: {shown}; or move what is no class elsewhere"
        )


def _empty_folders(tree: Tree, above: set[str], classes: set[str]) -> list[str]:
    beside = {folder for folder in tree.folders if folder[: folder.rfind("/") + 1] in above}
    return sorted({posixpath.basename(folder) for folder in beside} - classes)
