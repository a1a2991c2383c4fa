"""Read GTSRB as it is distributed: the official archives, packed or unpacked, and Kaggle's copy."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from signsclf.data.columns import column_names, read_columns
from signsclf.data.gtsrb import CLASS_NAMES, class_id, is_gtsrb_folder_names
from signsclf.data.layouts import Layout, ParsedSource, Row, gtsrb_tracks_fit, tracks
from signsclf.data.splits import splits_of
from signsclf.data.tree import Tree, list_archive, relative_name, some
from signsclf.errors import SourceError

_TRAINING_CSV = re.compile(r"(?P<base>(?:.+/)?)(?P<folder>[0-9]{5})/GT-(?P=folder)\.csv", re.IGNORECASE)
_TRAINING_IMAGE = re.compile(r"(?P<base>(?:.+/)?Final_Training/Images/)(?P<folder>[0-9]{5})/[^/]+", re.IGNORECASE)
_TRAINING_FOLDER = "/final_training/images/"
_TEST_FOLDER = "final_test/images"
_TEST_STEM = re.compile(r"[0-9]{5}")
_TRUTH = "gt-final_test.csv"
_UNLABELLED = "gt-final_test.test.csv"
_TRUTH_ARCHIVE = "final_test_gt"
_LEVELS_TO_TRUTH = 3
"""How many folders above the tree are searched for the ground truth: from GTSRB/Final_Test/Images to GTSRB's parent."""

_BOX_COLUMNS = ("roi.x1", "roi.y1", "roi.x2", "roi.y2", "width", "height")
_COLUMNS = ("filename", "path", "classid", *_BOX_COLUMNS)
_Box = tuple[tuple[int, int, int, int], tuple[int, int]]


def find_gtsrb(tree: Tree, meant: bool = False) -> ParsedSource | None:
    """Find the official training and test images and their csv files anywhere in the tree; None if there are none.

    Zip archives in the folder itself are used for parts that are not unpacked. The ground truth of the test images is
    also searched for above the tree. Other benchmarks have the same layout of training images: outside a folder
    Final_Training they are taken for GTSRB's only if the classes are exactly 00000 to 00042.

    Args:
        meant: the user asked for GTSRB: accept some of the training images, wherever they are.

    Raises:
        SourceError: there are several training sets, only test images without labels, or a csv that does not match.
    """
    base, test = _training_base(tree, meant), _test_folder(tree)
    for name in tree.archives:
        lower = name.lower()
        if (
            ("final_training_images" in lower and base is None)
            or ("final_test_images" in lower and test is None)
            or _TRUTH_ARCHIVE in lower
        ):
            tree = tree.mount([name])
    base, test = _training_base(tree, meant), _test_folder(tree)
    if base is None and test is None:
        return None
    rows: list[Row] = []
    notes: list[str] = []
    if base is not None:
        rows, notes = _training_rows(tree, base)
    if test is not None:
        try:
            test_rows, test_notes = _test_rows(tree, test)
        except _NoTruth as error:
            if not rows:
                raise SourceError(f"{error}; put it next to the test images") from error
            test_rows, test_notes = [], [f"the test images are left out: {error}"]
        rows, notes = rows + test_rows, notes + test_notes
    if not rows:
        raise SourceError(f"{tree.root}: the csv files of GTSRB but none of its images; unpack it again")
    folders = [_name_of(tree, folder) for folder in (base, test) if folder is not None]
    shared = posixpath.commonpath(folders)
    return ParsedSource(
        layout=Layout.GTSRB, rows=rows, base=f"{shared}/" if shared else "", is_gtsrb=True, notes=tuple(notes)
    )


def find_kaggle(tree: Tree, meant: bool = False) -> ParsedSource | None:
    """Find Kaggle's copy: Train/C/CCCCC_TTTTT_FFFFF.png, Test/NNNNN.png, Train.csv and Test.csv; None if there is none.

    Args:
        meant: accept any csv of that name with the columns Path and ClassId; otherwise it must have boxes or GTSRB's
            file names, and no other ClassIds.

    Raises:
        SourceError: the csv files name no existing image, or have invalid values.
    """
    rows: list[Row] = []
    notes: list[str] = []
    seen: dict[str, str] = {}  # split to the folder of its csv
    folded = {name.casefold(): name for name in reversed(tree.files)}
    for split, table, columns in _kaggle_tables(tree):
        if not (meant or _is_kaggles(columns)):
            continue
        base = table[: table.rfind("/") + 1]
        seen[split] = base
        named = [posixpath.normpath(posixpath.join(base, path)) for path in columns["path"]]
        here = [name if name in tree.files else folded.get(name.casefold()) for name in named]
        labels = _labels(tree.files[table], columns["classid"])
        boxes = _boxes(tree.files[table], columns)
        part = [
            Row(tree.files[name], label, split, None, *box)
            for name, label, box in zip(here, labels, boxes, strict=True)
            if name is not None
        ]
        rows += _with_tracks(part, notes) if split == "train" else part
        if len(part) < len(named):
            lost = [name for name, file in zip(named, here, strict=True) if file is None]
            notes.append(f"images that {table} names are not there ({len(lost):,}): {some(lost)}")
    if not seen:
        return None
    base = min(seen.values(), key=len)
    if "train" not in seen:
        plain = [
            Row(tree.files[name], CLASS_NAMES[int(match[1])], "train")
            for name in tree.image_names
            if (match := re.fullmatch(rf"{re.escape(base)}Train/0*([0-9]|[1-3][0-9]|4[0-2])/[^/]+", name))
        ]
        rows = _with_tracks(plain, notes) + rows
    if not rows:
        raise SourceError(f"{tree.root}: none of the images that its csv files name are there; unpack it again")
    used = {row.path for row in rows}
    stray = [name for name in tree.image_names if tree.files[name] not in used and "meta/" not in name.lower()]
    if stray:
        notes.append(f"images in no csv are left out ({len(stray):,}): {some(stray)}")
    return ParsedSource(layout=Layout.KAGGLE, rows=rows, base=base, is_gtsrb=True, notes=tuple(notes))


def _kaggle_tables(tree: Tree) -> Iterator[tuple[str, str, dict[str, list[str]]]]:
    """Yield split, name and columns of each Train.csv and Test.csv with the columns Path and ClassId."""
    for split in ("train", "test"):
        named = [name for name in tree.files if posixpath.basename(name).casefold() == f"{split}.csv"]
        table = min(named, key=len, default=None)
        if table is not None and {"path", "classid"} <= set(column_names(tree.files[table])):
            yield split, table, read_columns(tree.files[table], _COLUMNS)


def _is_kaggles(columns: dict[str, list[str]]) -> bool:
    own = set(_BOX_COLUMNS) <= columns.keys() or gtsrb_tracks_fit(columns["path"]) is True
    return own and all(class_id(text) is not None for text in columns["classid"])


def lookalikes(tree: Tree) -> list[str]:
    """Note what has the layout of GTSRB or of Kaggle's copy but is not read as such, and why."""
    notes = []
    own = "the folders' own names are the classes, as with --layout folders"
    for base, folders in _training_bases(tree).items():
        if strange := sorted(folder for folder in folders if class_id(folder) is None):
            other = f"{len(strange):,} of {len(folders):,} class folders, {some(strange, 2)}, are not its classes"
        elif not _fits(tree, base, folders):
            other = "its tracks are not GTSRB's; --layout gtsrb takes them for that"
        else:
            other = f"it has {len(folders):,} of 43 class folders; --layout gtsrb gives them GTSRB's names"
        notes.append(f"{base or tree.root} lies as GTSRB does, but {other}; {own}")
    for _, table, columns in _kaggle_tables(tree):
        if not _is_kaggles(columns):
            strange = [text for text in columns["classid"] if class_id(text) is None]
            other = f"its ClassId {strange[0]!r} is not one of GTSRB's" if strange else "nothing in it is GTSRB's own"
            notes.append(f"{table} lies as Kaggle's copy of GTSRB has it, but {other}; {own}")
    return notes


class _NoTruth(Exception):
    """The labels of the test images were not found."""


def _training_bases(tree: Tree) -> dict[str, set[str]]:
    """Find folders with class folders like GTSRB's training images: folder (ending in '/', or '') to their names."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in tree.files:
        if match := _TRAINING_CSV.fullmatch(name) or _TRAINING_IMAGE.fullmatch(name):
            found[match["base"]].add(match["folder"])
    return found


def _training_base(tree: Tree, meant: bool) -> str | None:
    """Find the folder, ending in '/' or '', of the class folders 00000 to 00042."""
    bases = _training_bases(tree)
    if not meant:
        bases = {base: bases[base] for base in bases if _is_named(tree, base) or _fits(tree, base, bases[base])}
    # torchvision's download has the smaller set of the online competition in GTSRB/Training.
    named = [base for base in bases if _is_named(tree, base)]
    chosen = named if len(named) == 1 else sorted(bases)
    if len(chosen) > 1 and not _are_splits(chosen):
        raise SourceError(
            f"{tree.root}: several training sets of GTSRB: {some(chosen)}; give one, such as {tree.root}/{chosen[0]}, "
            "or --layout folders to read the folders as they lie"
        )
    if len(chosen) != 1 or not (meant or named or is_gtsrb_folder_names(bases[chosen[0]])):
        return None
    return chosen[0]


def _is_named(tree: Tree, base: str) -> bool:
    return f"/{tree.root}/{base}".lower().endswith(_TRAINING_FOLDER)


def _fits(tree: Tree, base: str, folders: set[str]) -> bool:
    """Tell whether these may be GTSRB's class folders: no other numbers, and no tracks that GTSRB cannot have."""
    images = (name for name in tree.image_names if name.startswith(base))
    return all(class_id(folder) is not None for folder in folders) and gtsrb_tracks_fit(images) is not False


def _are_splits(bases: list[str]) -> bool:
    """Tell whether sibling training sets are the training and the test images of one benchmark."""
    parts = [base.split("/") for base in bases]
    depth = next(i for i, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1)
    return len(set(splits_of({names[depth] for names in parts}).values())) == len(bases)


def _test_folder(tree: Tree) -> str | None:
    """Find the folder, ending in '/' or '', of the test images."""
    folders = {
        name[: name.rfind("/") + 1]
        for name in tree.image_names
        if _TEST_STEM.fullmatch(posixpath.splitext(posixpath.basename(name))[0])
    }
    found = sorted(
        folder
        for folder in folders
        if f"{tree.root}/{folder}".rstrip("/").lower().endswith(_TEST_FOLDER)
        or any(folder + name in tree.files for name in ("GT-final_test.csv", "GT-final_test.test.csv"))
    )
    if len(found) > 1:
        raise SourceError(f"{tree.root}: several test sets of GTSRB: {some(found)}; give one")
    return found[0] if found else None


def _training_rows(tree: Tree, base: str) -> tuple[list[Row], list[str]]:
    boxes: dict[str, dict[str, _Box]] = {}
    rows: list[Row] = []
    notes: list[str] = []
    for name in tree.image_names:
        folder, _, file = name[len(base) :].partition("/")
        if not name.startswith(base) or not re.fullmatch("[0-9]{5}", folder) or "/" in file:
            continue
        if int(folder) >= len(CLASS_NAMES):
            right = "valid are 00000 to 00042; --layout folders reads it under the folders' own names"
            raise SourceError(f"{tree.root}: the class folder {folder} is not one of GTSRB's; {right}")
        if folder not in boxes:
            table = tree.files.get(f"{base}{folder}/GT-{folder}.csv")
            boxes[folder] = _by_stem(table) if table else {}
        box = boxes[folder].pop(posixpath.splitext(file)[0], (None, None))
        rows.append(Row(tree.files[name], CLASS_NAMES[int(folder)], "train", None, *box))
    if lost := [f"{folder}/{stem}" for folder in boxes for stem in boxes[folder]]:
        notes.append(f"images that the csv files name are not there ({len(lost):,}): {some(lost)}")
    return _with_tracks(rows, notes), notes


def _test_rows(tree: Tree, folder: str) -> tuple[list[Row], list[str]]:
    names = [name for name in tree.image_names if name[: name.rfind("/") + 1] == folder]
    table = _truth(tree, folder)
    columns = read_columns(table, _COLUMNS)
    if "filename" not in columns or "classid" not in columns:
        raise SourceError(f"{table}: lacks Filename or ClassId; take GT-final_test.csv of GTSRB_Final_Test_GT.zip")
    stems = [posixpath.splitext(text)[0] for text in columns["filename"]]
    labels = dict(zip(stems, _labels(table, columns["classid"]), strict=True))
    boxes = dict(zip(stems, _boxes(table, columns), strict=True))
    own = {posixpath.splitext(posixpath.basename(name))[0]: name for name in names}
    if unknown := [own[stem] for stem in own if stem not in labels]:
        raise SourceError(f"{table}: no row for {len(unknown):,} of {len(own):,} test images: {some(unknown)}")
    rows = [Row(tree.files[own[stem]], labels[stem], "test", None, *boxes[stem]) for stem in own]
    lost = [stem for stem in labels if stem not in own]
    note = f"images that {posixpath.basename(table)} names are not there ({len(lost):,}): {some(lost)}"
    return rows, [note] if lost else []


def _truth(tree: Tree, folder: str) -> str:
    """Find the csv with the labels of the test images: in the tree, nearest first, or in folders above."""
    own = [name for name in tree.files if posixpath.basename(name).lower() == _TRUTH]
    if own:
        return tree.files[min(own, key=lambda name: (not name.startswith(folder), len(name)))]
    packed = [name for name in tree.files if _TRUTH_ARCHIVE in posixpath.basename(name).lower()]
    places = [Path(tree.files[name]) for name in packed if name.lower().endswith(".zip")]
    for parent in [*Path(tree.root).parents][:_LEVELS_TO_TRUTH]:
        try:
            entries = sorted(parent.iterdir())
        except OSError:  # a folder above the user's own that cannot be listed
            continue
        places += [path for path in entries if path.name.lower() == _TRUTH]
        places += [path for path in entries if _TRUTH_ARCHIVE in path.name.lower() and path.suffix.lower() == ".zip"]
    for place in places:
        if place.suffix.lower() == ".csv":
            return place.as_posix()
        for name, path in list_archive(place).files.items():
            if posixpath.basename(name).lower() == _TRUTH:
                return path
    only = any(posixpath.basename(name).lower() == _UNLABELLED for name in tree.files)
    what = "only GT-final_test.test.csv, which has no ClassId, is there; " if only else ""
    raise _NoTruth(f"{tree.root}: {what}their labels, GT-final_test.csv of GTSRB_Final_Test_GT.zip, are missing")


def _by_stem(table: str) -> dict[str, _Box]:
    columns = read_columns(table, _COLUMNS)
    if "filename" not in columns:
        raise SourceError(f"{table}: lacks the column Filename (it has: {', '.join(columns)}); unpack it again")
    stems = [posixpath.splitext(text)[0] for text in columns["filename"]]
    return dict(zip(stems, _boxes(table, columns), strict=True))


def _labels(table: str, ids: list[str]) -> list[str]:
    right = {str(i): name for i, name in enumerate(CLASS_NAMES)}
    if wrong := [text for text in ids if text not in right]:
        which = "valid are 0 to 42; --layout folders reads class folders under their own names"
        raise SourceError(f"{table}: the ClassId {wrong[0]!r} is not one of GTSRB's; {which}")
    return [right[text] for text in ids]


def _boxes(table: str, columns: dict[str, list[str]]) -> list[_Box | tuple[None, None]]:
    n = len(next(iter(columns.values())))
    if any(key not in columns for key in _BOX_COLUMNS):
        return [(None, None)] * n
    try:
        numbers = zip(*(map(int, columns[key]) for key in _BOX_COLUMNS), strict=True)
        return [((x1, y1, x2, y2), (width, height)) for x1, y1, x2, y2, width, height in numbers]
    except ValueError as error:
        raise SourceError(f"{table}: a Width, Height or Roi is not an integer ({error}); unpack it again") from error


def _with_tracks(rows: list[Row], notes: list[str]) -> list[Row]:
    groups = tracks([row.label for row in rows], [row.path for row in rows], kaggle=True)
    if rows and groups[0] is None:
        notes.append("tracks are unknown, since not every file is called TTTTT_FFFFF: frames of one sign may part")
    return [row._replace(group=group) for row, group in zip(rows, groups, strict=True)]


def _name_of(tree: Tree, folder: str) -> str:
    """Return a folder's `relative_name`, within its archive if it is in one."""
    return relative_name(f"{tree.root}/{folder}", tree.root, mounted=True)
