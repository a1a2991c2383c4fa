"""Tables of paths and labels: recognised in a listing of files and turned into rows."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from signsclf import images
from signsclf.choices import Layout
from signsclf.data.columns import column_names, read_columns
from signsclf.data.layouts import Found, Row
from signsclf.data.splits import SPLITS
from signsclf.data.tree import TABLE_SUFFIXES, Tree, member_name, some
from signsclf.errors import BadImageError, SourceError

TABLE_COLUMNS = ("path", "label", "split", "group")


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
