"""Class folders and tables of paths: each recognised in a listing of files and turned into rows."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from signsclf import images
from signsclf.choices import Layout
from signsclf.data.columns import column_names, read_columns
from signsclf.data.gtsrb import CLASS_NAMES, is_gtsrb_folder_names
from signsclf.data.tree import TABLE_SUFFIXES, Tree, member_name, some
from signsclf.errors import BadImageError, SourceError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What the parts of a source are called, in lower case, to what the table calls them."""

TABLE_COLUMNS = ("path", "label", "split", "group")

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
        kind = "archive" if tree.is_archive else "folder"
        if not tree.files:
            raise SourceError(f"{tree.root}: an empty {kind}; give one with a folder of images for each class")
        suffixes = " ".join(sorted(images.SUFFIXES))
        raise SourceError(f"{tree.root}: no images in this {kind}; looked for {suffixes}")
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


def find_table(tree: Tree, meant: bool = False) -> Found | None:
    """The one CSV or Parquet file with path and label columns, of those that lie highest; None without.

    Raises:
        SourceError: there are several, or see `read_table`; also where a table is meant, or images are flat.
    """
    tables = [name for name in tree.files if name.lower().endswith(TABLE_SUFFIXES)]
    highest = min((name.count("/") for name in tables), default=0)
    fitting: list[str] = []
    trouble: list[SourceError] = []
    for name in tables:
        if name.count("/") == highest:
            try:
                _refuse_lacking(tree.files[name], column_names(tree.files[name]))
                fitting.append(name)
            except SourceError as error:
                trouble.append(error)
    if len(fitting) > 1:
        raise SourceError(f"{tree.root}: several tables with path and label: {some(fitting)}; keep or give one")
    if fitting:
        return read_table(tree, fitting[0])
    if trouble and meant:
        raise trouble[0]
    names = tree.image_names
    if len(trouble) == 1 and names and all("/" not in name for name in names):
        raise SourceError(f"{trouble[0]}; or give each class a folder of its own")
    return None


def read_table(tree: Tree, name: str) -> Found:
    """The rows of a CSV or Parquet file: path and label, and if present split and group.

    Paths are relative to the table's folder. From a table on disk they may lead anywhere, from one in an
    archive only to members of that.

    Raises:
        SourceError: columns or values are missing, a split is unknown, images are not there or named twice.
    """
    table = tree.files[name]
    columns = read_columns(table, TABLE_COLUMNS)
    _refuse_lacking(table, columns)
    n = len(columns["path"])
    if n == 0:
        raise SourceError(f"{table}: no rows; give one for each image")
    for column in ("path", "label"):
        if empty := [i for i in range(n) if not columns[column][i].strip()]:
            raise SourceError(f"{table}: {len(empty):,} rows have no {column}, first row {empty[0] + 1:,}; fill it in")
    splits = _splits(table, columns.get("split", [""] * n))
    groups = [text.strip() or None for text in columns.get("group", [""] * n)]
    folder = posixpath.dirname(name)
    where = _in_archive if tree.is_archive else _on_disk
    paths = [where(tree, folder, text) for text in columns["path"]]
    if lost := [text for text, path in zip(columns["path"], paths, strict=True) if path is None]:
        raise SourceError(
            f"{table}: {len(lost):,} of {n:,} images are not there: {some(lost)}; paths start at the table's folder"
        )
    if repeated := [path for path, times in Counter(paths).items() if times > 1]:
        raise SourceError(f"{table}: {len(repeated):,} images are named more than once: {some(repeated)}; keep one")
    labels = [unicodedata.normalize("NFC", text) for text in columns["label"]]
    rows = [Row(*values) for values in zip(paths, labels, splits, groups, strict=True)]
    return Found(Layout.TABLE, rows, f"{folder}/" if folder else "")


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


def _empty_folders(tree: Tree, above: set[str], classes: set[str]) -> list[str]:
    beside = {folder for folder in tree.folders if folder[: folder.rfind("/") + 1] in above}
    return sorted({posixpath.basename(folder) for folder in beside} - classes)


def _refuse_lacking(table: str, columns: Collection[str]) -> None:
    if lacking := [column for column in ("path", "label") if column not in columns]:
        has = ", ".join(columns) or "none"
        raise SourceError(f"{table}: lacks the column {' and '.join(lacking)} (it has: {has})")


def _splits(table: str, texts: list[str]) -> list[str | None]:
    words = [text.strip().casefold() for text in texts]
    if unknown := [text for text, word in zip(texts, words, strict=True) if word and word not in SPLITS]:
        raise SourceError(f"{table}: unknown split {unknown[0]!r}; right are train, valid and test")
    if any(words) and not all(words):
        raise SourceError(f"{table}: {words.count(''):,} of {len(words):,} rows have no split; give all one, or none")
    return [SPLITS[word] if word else None for word in words]


def _in_archive(tree: Tree, folder: str, text: str) -> str | None:
    return tree.files.get(posixpath.normpath(posixpath.join(folder, member_name(text))))


def _on_disk(tree: Tree, folder: str, text: str) -> str | None:
    text = text.replace("\\", "/")
    # A name written on one system and unpacked on another may differ in its Unicode form alone.
    for form in dict.fromkeys((text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))):
        path = os.path.normpath(Path(tree.root, folder, form))
        path = Path(path).as_posix()
        try:
            inside = images.split_archive(path)
            if Path(path).is_file() or (inside and images.open_archive(inside[0]).NameToInfo.get(inside[1])):
                return path
        except (ValueError, BadImageError):  # a NUL in the path, or a damaged archive
            continue
    return None
