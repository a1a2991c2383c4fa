"""Read every source of labelled images into one table, see `signsclf.data.rows`, with notes for the user."""

from __future__ import annotations

import difflib
import math
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from signsclf import images, outputs
from signsclf.choices import Reading
from signsclf.data.archives import how_to_read
from signsclf.data.folders import read_folders
from signsclf.data.formats import how_to_convert, how_to_convert_folder
from signsclf.data.gtsrb import CLASS_NAMES, class_id
from signsclf.data.gtsrb_layouts import find_gtsrb, find_kaggle, lookalikes
from signsclf.data.labels import merge_spellings, refuse_labels, spelled_alike
from signsclf.data.layouts import Layout, ParsedSource, gtsrb_tracks_fit
from signsclf.data.rows import COLUMNS, is_missing, make_table, with_columns
from signsclf.data.splits import splits_of
from signsclf.data.tables import GIVEN_SUFFIXES, find_table, read_table
from signsclf.data.tree import Tree, list_archive, list_folder, list_remote, own_note, quoted, relative_name, some
from signsclf.data.webdataset import find_webdataset, is_tar
from signsclf.errors import BadImageError, SourceError
from signsclf.files import is_remote, refuse_credentials, user_path
from signsclf.imagefiles.remote import look
from signsclf.metrics.classification import evenly_spaced
from signsclf.text import expand_braces, natural_key

__all__ = ["Layout", "Source", "apply_crop", "by_class_id", "describe", "read_source"]

_TITLES = {
    Layout.GTSRB: "official GTSRB",
    Layout.KAGGLE: "Kaggle's copy of GTSRB",
    Layout.FOLDERS: "class folders",
    Layout.TABLE: "table of paths and labels",
    Layout.SYNTHETIC: "synthetic signs",
}
_FINDERS = {Layout.GTSRB: find_gtsrb, Layout.KAGGLE: find_kaggle}
_NEEDS = {
    Layout.GTSRB: "Images/CCCCC/GT-CCCCC.csv, Final_Test/Images, or class folders called by ClassId",
    Layout.KAGGLE: "Train.csv or Test.csv with the columns Path and ClassId",
    Layout.TABLE: "a csv or parquet file with the columns path and label",
}
_SOURCES = f"a source is a folder, an archive (.zip .tar .tar.gz), or a table: {' '.join(GIVEN_SUFFIXES)}"
_SIZES_READ = 10_000
"""How many image headers are read for the range of sizes; at 50 to 100 µs each, within a second."""
_SLOW_SIZES_READ = 100
"""The same for synthetic signs, which have no headers and must be rendered, and for objects in stores."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Labelled images from one place.

    Attributes:
        root: absolute path of the folder or archive that was read, or "synthetic".
        origin: absolute path that `read_source` was given, or "synthetic"; with ``reading`` it reads the same again.
        reading: the options that `read_source` was given.
        missing: one line, without a remedy, about images that a table names and that do not exist; or "".
        layout: the recognised layout.
        table: one row per image, see `signsclf.data.rows`.
        classes: labels in the order of class indices: by ClassId for GTSRB, else in natural order.
        is_gtsrb: whether the classes are GTSRB's, so that its mirror map applies.
        notes: lines for the user.
        base: the folder of the layout below ``root``, ending in '/', which `relative` removes; or ''.
        roi_image_wh: for each row the image's (width, height) that its roi refers to, or None.
        names: path to name below ``root``, for images whose path does not end in that name; see `Tree`.
    """

    root: str
    layout: Layout
    table: np.ndarray
    classes: tuple[str, ...]
    is_gtsrb: bool
    notes: tuple[str, ...] = ()
    base: str = ""
    roi_image_wh: tuple[tuple[int, int] | None, ...] = ()
    origin: str = ""
    reading: Reading = field(default_factory=Reading)
    names: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""

    @property
    def has_roi(self) -> bool:
        """Whether every image has a box around the object."""
        return not is_missing(self.table["roi"]).any()

    def relative(self, path: str) -> str:
        """Return a path relative to the layout: the same for an archive and its unpacked files."""
        if self.layout is Layout.SYNTHETIC:
            return path
        if images.has_scheme(path):
            path = path.partition(":")[2]
        mounted = self.layout is Layout.GTSRB
        name = self.names.get(path) or relative_name(path, self.root, mounted)
        return name.removeprefix(self.base)


def read_source(source: str | Path, reading: Reading | Layout | None = None) -> Source:
    """Read a folder, an archive (.zip, .tar, .tar.gz), a table (.csv, .parquet …), or "synthetic" for rendered signs.

    Args:
        source: a path, relative or absolute, in which ``~`` is expanded, an address in a store such as
            ``s3://bucket/folder``, or a pattern of shards such as ``train-{000..099}.tar``; "synthetic" is
            the keyword, "./synthetic" a path.
        reading: how to read the source, or the layout it must have; None recognises it.

    Raises:
        SourceError: the source does not exist, has no known layout, or contradicts itself.
    """
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise SourceError(
            f"a source is the path of a folder, an archive or a table, and not of the type {kind}; give a path"
        )
    reading = reading if isinstance(reading, Reading) else Reading(reading)
    layout = reading.layout
    if source == Layout.SYNTHETIC.value or layout is Layout.SYNTHETIC:
        return _synthetic(source, layout)
    if is_remote(source):
        return _read_remote(str(source).rstrip("/"), reading)
    path = user_path(source, SourceError)
    suffix = path.suffix.lower()
    shards = [] if _exists(path) else expand_braces(str(path))
    if not source or len(shards) == 1:
        raise SourceError(_not_there(path))
    if shards:
        tree, found = _recognise_listed(_listed_shards(shards), reading)
    elif path.is_dir():
        tree, found = _recognise_listed(list_folder(path), reading)
    elif images.is_archive(path.name):
        tree, found = _recognise_listed(list_archive(path, reading.zip_encoding), reading)
    elif suffix in GIVEN_SUFFIXES:
        if layout not in (None, Layout.TABLE):
            raise SourceError(f"{path}: a table, so --layout {layout.value} does not fit; leave it out")
        whole = path.absolute()
        tree = Tree(root=whole.parent.as_posix(), is_archive=False, files={whole.name: whole.as_posix()})
        found = read_table(tree, whole.name, reading)
        if outputs.is_own_file(whole):
            note = "signsclf wrote this table: what a model answered may be taken for the truth here"
            found = replace(found, notes=(*found.notes, note))
    elif way := how_to_read(path) or how_to_convert(path.name):
        raise SourceError(f"{path}: {way}")
    elif zipfile.is_zipfile(path):
        raise SourceError(f"{path}: a zip archive under another name; call it .zip")
    else:
        what = "one image" if images.is_image_name(path.name) else f"a {suffix or 'plain'} file"
        raise SourceError(f"{path}: {what}; {_SOURCES}")
    return _source(tree, found, path.absolute().as_posix(), reading)


def apply_crop(source: Source, crop: bool) -> Source:
    """Check the boxes for `--crop roi` (True), or remove them, so that whole images are used (False).

    Every image's header is read to check that its box fits its size; unreadable images are reported when they are
    decoded.

    Raises:
        SourceError: there are no boxes, or they do not fit the images.
    """
    if not crop:
        nothing = (None,) * len(source.table)
        return replace(source, table=with_columns(source.table, roi=nothing), roi_image_wh=nothing)
    if without := int(is_missing(source.table["roi"]).sum()):
        raise SourceError(
            f"{source.root}: {without:,} of {len(source.table):,} images have no box; leave out --crop roi"
        )
    rows = zip(source.table["path"], source.table["roi"], source.roi_image_wh, strict=True)
    for path, (x1, y1, x2, y2), declared in rows:
        try:
            width, height = images.image_wh(path)
        except BadImageError:
            continue
        name = source.relative(path)
        if declared is not None and declared != (width, height):
            says = f"{name} is {width}×{height} pixels, its csv says {declared[0]}×{declared[1]}"
            raise SourceError(f"{source.root}: {says}, so its box does not fit; leave out --crop roi")
        if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
            box = f"the box {x1},{y1} to {x2},{y2} of {name}"
            raise SourceError(f"{source.root}: {box} leaves its {width}×{height} pixels; leave out --crop roi")
    return source


def describe(source: Source) -> list[str]:
    """Describe a source in lines: layout, images, classes, splits, tracks, imbalance, sizes in pixels, notes."""
    table = source.table
    counts = Counter(table["label"]).most_common()
    (commonest, most), (rarest, fewest) = counts[0], counts[-1]
    splits = Counter(table["split"])
    unassigned = splits[None]
    parts = [f"{name} {splits[name]:,}" for name in ("train", "valid", "test") if name in splits]
    groups = [group for group in table["group"] if group is not None]
    return [
        f"layout: {_TITLES[source.layout]} ({source.layout.value})",
        f"images: {len(table):,}",
        f"classes: {len(source.classes):,} ({some(source.classes)})",
        f"splits: {', '.join(parts + [f'unassigned {unassigned:,}'] * bool(unassigned))}",
        f"tracks: {len(set(groups)):,} with {len(groups):,} images" if groups else "tracks: none known",
        f"imbalance: {most / fewest:.1f} to 1 ({quoted(commonest)} {most:,}, {quoted(rarest)} {fewest:,})",
        f"sizes: {_sizes(source)}",
        *(f"note: {note}" for note in source.notes),
    ]


def _recognise_listed(tree: Tree, reading: Reading) -> tuple[Tree, ParsedSource]:
    try:
        return _recognise(tree, reading)
    except SourceError as error:
        if not tree.left_out:
            raise
        raise SourceError(f"{error} ({own_note(tree.left_out)})") from error


def _recognise(tree: Tree, reading: Reading) -> tuple[Tree, ParsedSource]:
    layout = reading.layout
    if layout in (None, Layout.TABLE):
        shards = [name for name in tree.files if is_tar(name)]
        mounted = tree.mount(shards) if shards and not tree.is_archive and not tree.image_names else tree
        if found := find_webdataset(mounted, reading):
            return mounted, found
    for candidate, find in {**_FINDERS, Layout.TABLE: partial(find_table, reading=reading)}.items():
        if layout in (None, candidate):
            found = find(tree, meant=layout is candidate)
            if found is not None:
                return tree, found
    if not tree.is_archive and not tree.image_names:
        if len(tree.archives) == 1:
            return _recognise(list_archive(tree.files[tree.archives[0]], reading.zip_encoding), reading)
        if tree.archives:
            # train.zip and test.zip side by side.
            if len(splits_of(tree.archives)) == len(tree.archives) and layout in (None, Layout.FOLDERS):
                tree = tree.mount(tree.archives, reading.zip_encoding)
                return tree, read_folders(tree, reading)
            which = some(tree.archives)
            way = "give one, or unpack them into one folder"
            raise SourceError(f"{tree.root}: {len(tree.archives)} archives and no images: {which}; {way}")
    if not tree.image_names and (way := how_to_convert_folder(tree.files)):
        raise SourceError(f"{tree.root}: {way}")
    if layout in (None, Layout.FOLDERS):
        found = read_folders(tree, reading)
        return tree, replace(found, notes=(*found.notes, *(() if layout else lookalikes(tree))))
    if layout is Layout.GTSRB and tree.image_names:
        found = read_folders(tree, reading)
        if found.is_gtsrb:
            return tree, found
    raise SourceError(
        f"{tree.root}: not of the layout {layout.value}, which needs {_NEEDS[layout]}; leave out --layout"
    )


def _read_remote(address: str, reading: Reading) -> Source:
    """Read a folder, an archive or a table in a store."""
    refuse_credentials(address, SourceError)
    shards = expand_braces(address)
    name = posixpath.basename(address)
    try:
        entry = look(address)
    except OSError as error:
        raise SourceError(f"{address}: cannot be read ({error.strerror or error}); check it and your rights") from error
    if entry is None and len(shards) > 1:
        root = posixpath.dirname(address)
        tree = Tree(root=root, is_archive=False, files={shard[len(root) + 1 :]: shard for shard in shards})
        tree, found = _recognise_listed(tree, reading)
    elif entry is None:
        raise SourceError(f"{address}: no such object or folder in the store; check the address")
    elif entry.is_folder:
        tree, found = _recognise_listed(list_remote(address), reading)
    elif images.is_archive(name):
        tree, found = _recognise_listed(list_archive(address, reading.zip_encoding), reading)
    elif posixpath.splitext(name)[1].lower() in GIVEN_SUFFIXES:
        tree = list_remote(posixpath.dirname(address))
        found = read_table(tree, name, reading)
    else:
        raise SourceError(f"{address}: {_SOURCES}")
    return _source(tree, found, address, reading)


def _listed_shards(paths: Sequence[str]) -> Tree:
    """List the archives that a pattern with braces names."""
    places = [Path(path).absolute() for path in paths]
    if missing := [str(path) for path in places if not _exists(path)]:
        raise SourceError(f"{missing[0]}: no such file ({len(missing):,} of {len(places):,} are missing); check it")
    root = Path(os.path.commonpath([path.parent for path in places]))
    files = {path.relative_to(root).as_posix(): path.as_posix() for path in places}
    return Tree(root=root.as_posix(), is_archive=False, files=files)


def _synthetic(source: str | Path, layout: Layout | None) -> Source:
    if source != Layout.SYNTHETIC.value or layout not in (None, Layout.SYNTHETIC):
        raise SourceError(f"{source}: synthetic signs are the source 'synthetic'; leave out --layout for others")
    # Imported here: the renderer is needed for this source only.
    from signsclf.data import synthetic

    table = synthetic.table()
    sizes = (None,) * len(table)
    classes = _classes(table, True)
    return Source(
        root=synthetic.KEYWORD,
        layout=Layout.SYNTHETIC,
        table=table,
        classes=classes,
        is_gtsrb=True,
        roi_image_wh=sizes,
        origin=synthetic.KEYWORD,
    )


def _source(tree: Tree, found: ParsedSource, origin: str, reading: Reading) -> Source:
    if reading.zip_encoding and not any(images.split_archive(row.path) for row in found.rows[:1]):
        raise SourceError(f"{tree.root}: no .zip archive, so --zip-encoding does not fit; leave it out")
    table = make_table([row[: len(COLUMNS)] for row in found.rows])
    of_labels: list[str] = []
    if not found.is_gtsrb:
        merged, of_labels = merge_spellings(table["label"].tolist(), reading.merge_case)
        table = with_columns(table, label=merged)
        refuse_labels(dict.fromkeys(merged), lambda label: tree.root, "rename the folder")
    labels: dict[str, set[str]] = {}
    for split, label in zip(table["split"], table["label"], strict=True):
        if split is not None:
            labels.setdefault(split, set()).add(label)
    for split in ("valid", "test"):
        lacking = sorted(labels.get(split, set()) - labels.get("train", set()), key=natural_key)
        if lacking and "train" in labels:
            reason = f"{split} has classes that train lacks: {some(lacking)}"
            merge = of_labels and not reading.merge_case and spelled_alike(Counter(table["label"]))
            some_alike = {label for group in merge or () for label in group} & set(lacking)
            hint = ", or give --merge-case, as they differ from others by case or spaces alone" if some_alike else ""
            raise SourceError(f"{tree.root}: {reason}; add training images of them or take them out{hint}")
    missing = [f"{found.missing}; training needs --skip-bad to leave them out"] if found.missing else []
    notes = [*tree.notes, *found.notes, *missing, *of_labels, *_unseen_notes(labels)]
    told = found.is_gtsrb or reading.layout is not None or any("GTSRB" in note for note in found.notes)
    if not told and found.layout in (Layout.FOLDERS, Layout.TABLE):
        notes += _class_id_notes(set(table["label"]), found)
    grouped = table[~is_missing(table["group"]) & ~is_missing(table["split"])]
    is_test = grouped["split"] == "test"
    if both := set(grouped["group"][is_test]) & set(grouped["group"][~is_test]):
        notes.append(
            f"tracks both in test and elsewhere, by their numbers ({len(both):,}): test figures may be too good"
        )
    return Source(
        root=tree.root,
        layout=found.layout,
        table=table,
        classes=_classes(table, found.is_gtsrb),
        is_gtsrb=found.is_gtsrb,
        notes=tuple(notes),
        base=found.base,
        roi_image_wh=tuple(row.image_wh for row in found.rows),
        origin=origin,
        reading=reading,
        names=tree.names,
        missing=found.missing,
    )


def by_class_id(source: Source) -> Source | None:
    """Rename labels that are all ClassIds, padded or not, to GTSRB's names; None where they are not GTSRB's.

    They are not if files are named as tracks that GTSRB does not have: other benchmarks number their signs too.
    """
    ids = {label: class_id(label) for label in source.classes}
    if None in ids.values() or len(set(ids.values())) < len(ids) or gtsrb_tracks_fit(source.table["path"]) is False:
        return None
    names = {label: CLASS_NAMES[number] for label, number in ids.items() if number is not None}
    table = with_columns(source.table, label=map(names.get, source.table["label"]))
    return replace(source, table=table, classes=_classes(table, True), is_gtsrb=True)


def _unseen_notes(by_split: dict[str, set[str]]) -> list[str]:
    """Note the training classes that have no validation images."""
    notes = []
    lacking = by_split.get("train", set()) - by_split.get("valid", set())
    if "valid" in by_split and lacking:
        notes.append(f"valid has no image of {len(lacking):,} classes: {some(sorted(lacking, key=natural_key))}")
    return notes


def _class_id_notes(labels: set[str], found: ParsedSource) -> list[str]:
    """Offer GTSRB's names for labels that look like ClassIds, unless they only count from 0 or 1, as many sets do."""
    ids = sorted(number for label in labels if (number := class_id(label)) is not None)
    counted = any(ids == list(range(start, start + len(ids))) for start in (0, 1))
    if len(ids) < len(labels) or len(set(ids)) < len(ids) or (counted and not all(len(label) == 5 for label in labels)):
        return []
    way = "--layout gtsrb gives them its names, and " if found.layout is Layout.FOLDERS else ""
    return [f"the labels may be GTSRB's ClassIds: {way}evaluate with a model of GTSRB matches them as these"]


def _classes(table: np.ndarray, is_gtsrb: bool) -> tuple[str, ...]:
    labels = set(table["label"])
    if is_gtsrb:
        return tuple(name for name in CLASS_NAMES if name in labels)
    return tuple(sorted(labels, key=natural_key))


def _sizes(source: Source) -> str:
    n, slow = len(source.table), source.layout is Layout.SYNTHETIC or is_remote(source.root)
    most = _SLOW_SIZES_READ if slow else _SIZES_READ
    rows = evenly_spaced(n, most)
    sizes = list(_readable_sizes(source.table["path"][rows]))
    if not sizes:
        return "unknown, since no image can be read"
    (w, h), (wide, high) = min(sizes, key=math.prod), max(sizes, key=math.prod)
    looked = f" among {len(rows):,} looked at" if len(rows) < n else ""
    bad = f"; {len(rows) - len(sizes):,} cannot be read" if len(sizes) < len(rows) else ""
    return f"{w}×{h} to {wide}×{high} pixels{looked}{bad}"


def _readable_sizes(paths: Iterable[str]) -> Iterator[tuple[int, int]]:
    for path in paths:
        try:
            yield images.image_wh(path)
        except BadImageError:
            continue


def _exists(path: Path) -> bool:
    try:
        return path.is_dir() or path.is_file()
    except OSError as error:  # a folder without permission, or a name that is too long
        raise SourceError(f"{path}: cannot be checked ({error.strerror or error}); check the path") from error


def _not_there(path: Path) -> str:
    if path.exists() and not path.is_dir():
        return f"{path}: a pipe or a device; {_SOURCES}"
    if path.is_symlink():
        return f"{path}: a broken link; fix it or give the folder itself"
    try:
        siblings = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"{path}: no such file or folder; check the path"
    near = difflib.get_close_matches(path.name, siblings, n=3)
    return f"{path}: no such file or folder; " + (f"near it: {some(near)}" if near else "check the path")
