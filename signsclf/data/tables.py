"""Recognise tables of paths and labels in a listing of files, and turn them into rows."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from signsclf import images
from signsclf.choices import Layout, Reading
from signsclf.data.annotations import JSON_SUFFIXES, read_annotations
from signsclf.data.columns import SPACES, Sheet, folded, header, is_blank, read_sheet
from signsclf.data.labels import SeveralLabelsError, refuse_labels, tidy
from signsclf.data.layouts import ParsedSource, Row
from signsclf.data.parquetimages import image_part, refuse_large_groups, row_path
from signsclf.data.places import Places, find_places, is_address
from signsclf.data.roles import Roles, find_roles, flag
from signsclf.data.splits import SPLITS, is_container, splits_of, splits_of_files
from signsclf.data.tree import TABLE_SUFFIXES, Tree, quoted, some
from signsclf.errors import SourceError
from signsclf.files import is_remote, refuse_credentials

GIVEN_SUFFIXES = (*TABLE_SUFFIXES, ".json", ".txt")
"""Suffixes of files that are read as a table if they are given by name."""

# Other JSON files next to images are rarely tables, and a folder may have one for each image.
_JSON_NAME = re.compile(r"_?(annotations?|labels|dataset|metadata|train|valid|val|test)([._].*)?\.json|.*coco.*\.json")
_SHARD = re.compile(r"[0-9]{4,}(-of-[0-9]+)?(?=\.[^./]+$)")
_ENOUGH_OF_TABLE = 0.5
_ENOUGH_OF_IMAGES = 0.1
_MOST_PARTS = 4


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A table that was read: its rows and, in ``at``, their positions in the sheet."""

    name: str
    sheet: Sheet
    rows: list[Row]
    at: list[int]
    notes: list[str]
    lost: list[str]
    hint: str

    def location(self, row: int) -> str:
        return f"{self.sheet.path}: {self.sheet.location(self.at[row])}"


def find_table(tree: Tree, reading: Reading | None = None, meant: bool = False) -> ParsedSource | None:
    """Find the table of images and labels nearest to the root, or one table for each split; None if there is none.

    A file with the columns path and label is always such a table; another one only if it names images of the tree.

    Args:
        meant: the user asked for a table, so that trouble with reading one is an error.

    Raises:
        SourceError: there are several, or the only one cannot be read; see `read_table`.
    """
    reading = reading or Reading()
    tables = [name for name in tree.files if name.lower().endswith(TABLE_SUFFIXES)]
    tables += [name for name in tree.files if _JSON_NAME.fullmatch(posixpath.basename(name).lower())]
    if not tables:
        return None
    in_class_folders = _in_class_folders(tree)
    trouble: list[SourceError] = []
    # Deeper levels are searched too: a JSON file at the top may describe the data set and not its images.
    for depth in sorted({name.count("/") for name in tables}):
        level = [name for name in tables if name.count("/") == depth]
        stems = _stems(tree, depth)
        exact: list[str] = []
        fitting: list[str] = []
        for name in level:
            try:
                if _is_exact(tree.files[name]):
                    exact.append(name)
                elif meant or _names_images(
                    tree.files[name], reading, stems[posixpath.dirname(name)], in_class_folders
                ):
                    fitting.append(name)
            except SourceError as error:
                trouble.append(error)
        if exact or fitting or in_class_folders:
            break
    called = splits_of_files([*exact, *fitting])
    if len(exact) + len(fitting) > 1 and "train" in called.values() and _are_shards(called):
        chosen = called
    elif exact:
        chosen = dict.fromkeys(exact)
    else:
        # Not several unrelated ones, such as a table for each class folder.
        chosen = dict.fromkeys(fitting)
        if len(fitting) > 1 and not meant and not _are_shards(chosen):
            chosen = {}
    if len(chosen) > 1 and chosen is not called and not _are_shards(chosen):
        raise SourceError(
            f"{tree.root}: several tables with path and label: {some(list(chosen))}; keep or give one, or call them "
            "train, valid and test"
        )
    if chosen:
        others = [name for name in level if name not in chosen]
        unlabelled = [name for name in others if _is_unlabelled(tree, name, stems[posixpath.dirname(name)])]
        try:
            return _joined(tree, chosen if len(chosen) > 1 else dict.fromkeys(chosen), unlabelled, reading)
        except SourceError:
            if meant or exact or not in_class_folders:
                raise
            return None
    if trouble and meant:
        raise trouble[0]
    if len(trouble) == 1 and tree.image_names and not any(_class_folders(tree)):
        raise SourceError(f"{trouble[0]}; or give each class a folder of its own")
    return None


def read_table(tree: Tree, name: str, reading: Reading | None = None) -> ParsedSource:
    """Read the rows of a table: image, label, and if present split and group.

    The columns are found by `signsclf.data.roles.find_roles`, the images by `signsclf.data.places.find_places`. Paths
    are relative to the table's folder. In a table on disk they may lead anywhere, in an archive only to its members.
    Repeated rows count once. Rows whose image is missing are kept, see `ParsedSource.missing`, unless all are missing.

    Raises:
        SourceError: columns or values are missing, a split is unknown, a label is not one line of text or is a list of
            several, all images are missing, an image has different labels, or images are at web addresses.
    """
    return _joined(tree, {name: None}, [], reading or Reading())


def _joined(tree: Tree, chosen: dict[str, str | None], unlabelled: list[str], reading: Reading) -> ParsedSource:
    parts = [_read(tree, name, split, reading) for name, split in chosen.items()]
    times = Counter(note for part in parts for note in part.notes)
    # Notes that all tables share are given once.
    notes = [note for note in dict.fromkeys(parts[0].notes) if times[note] == len(parts)]
    for part in parts:
        before = f"{posixpath.basename(part.name)}: " if len(parts) > 1 else ""
        notes += [before + note for note in part.notes if times[note] < len(parts)]
    if len(parts) > 1:
        if None not in chosen.values():
            notes.insert(0, f"tables are the splits: {_by_split(chosen)}")
        _refuse_shared(parts)
    if unlabelled:
        notes.append(f"tables without labels are left out ({len(unlabelled):,}): {some(unlabelled)}")
    rows = [row for part in parts for row in part.rows]
    used = {row.path for row in rows}
    if tree.folders or len(tree.files) > 1:
        others = [name for name in tree.image_names if tree.files[name] not in used]
        if others:
            notes.append(f"images that the table does not name are left out ({len(others):,}): {some(others)}")
    folders = {posixpath.dirname(part.name) for part in parts}
    base = posixpath.commonpath(folders) if "" not in folders else ""
    missing = " and ".join(
        f"{len(part.lost):,} of {len(part.rows):,} images that {part.sheet.path} names are not there: "
        + ", ".join(part.lost[:3])
        + (f" and {len(part.lost) - 3:,} more" if len(part.lost) > 3 else "")
        + (f"; {part.hint}" if part.hint else "")
        for part in parts
        if part.lost
    )
    return ParsedSource(
        layout=Layout.TABLE, rows=rows, base=f"{base}/" if base else "", notes=tuple(notes), missing=missing
    )


def _read(tree: Tree, name: str, called: str | None, reading: Reading) -> _Part:
    path = tree.files[name]
    roles = find_roles(_sheet(path), SPLITS, reading.path_column, reading.label_column)
    sheet, notes = roles.sheet, list(roles.notes)
    table = f"{path}: {sheet.kind}" if sheet.kind else path
    if sheet.note:
        notes.append(sheet.note)
    if sheet.rows == 0:
        raise SourceError(f"{table}: no rows; give one for each image")
    embedded = _embedded(tree, sheet, roles)
    texts = embedded or [text.strip(SPACES) for text in sheet.load(roles.path)]
    labels = _labels(sheet, roles)
    splits = _splits(sheet, roles)
    groups = [text.strip(SPACES) or None for text in sheet.load(roles.group)] if roles.group is not None else None
    kept = [i for i in range(sheet.rows) if texts[i] or labels[i]]
    kept, left_out = _without_unlabelled_tests(sheet, kept, texts, labels, splits)
    notes += left_out
    if not kept:
        raise SourceError(f"{table}: no rows with an image and a label; give one for each image")
    texts, labels, splits = ([column[i] for i in kept] for column in (texts, labels, splits))
    try:
        labels, more = tidy(labels)
    except SeveralLabelsError as error:
        where = sheet.location(kept[labels.index(error.label)])
        raise SourceError(
            f"{table}: {where}: {error.label!r} are {error.n:,} labels; a classifier takes one label each"
        ) from error
    notes += more
    if empty := [i for i, label in enumerate(labels) if not label]:
        raise SourceError(f"{table}: {sheet.location(kept[empty[0]])} has no label; fill it in or take the row out")
    refuse_labels(
        dict.fromkeys(labels), lambda label: f"{table}: {sheet.location(kept[labels.index(label)])}", "correct the cell"
    )
    for text in () if embedded else texts:
        refuse_credentials(text, SourceError)
    if not embedded and (
        far := [i for i, text in enumerate(texts) if is_address(text) or (tree.is_archive and is_remote(text))]
    ):
        first = f"{sheet.location(kept[far[0]])} {texts[far[0]]!r}"
        raise SourceError(
            f"{table}: {len(far):,} of {len(texts):,} images are at web addresses, first {first}: they are not "
            "fetched; download them and name the files"
        )
    if called is None and roles.split is None and not roles.flags and not embedded:
        splits, more = _splits_of_folders(texts)
        notes += more
    elif called is not None and not any(splits):
        splits = [called] * len(texts)
    _refuse_some_without(sheet, kept, splits)
    folder = posixpath.dirname(name)
    places = Places(paths=texts, lost=[]) if embedded else find_places(tree, folder, texts, labels)
    if folder and len(places.lost) == len(texts):
        # The table is in a folder of its own, such as annotations/, and its paths start at the root of the data set.
        whole = find_places(tree, "", texts, labels)
        if not whole.lost:
            note = whole.note or f"paths start at the source, not at the table's folder {folder}/"
            places = replace(whole, note=note)
    if len(places.lost) == len(texts):
        why = places.hint or "paths start at the table's folder"
        if tree.archives:
            why += f", and {some(tree.archives)} is not looked into: unpack it there"
        shown = _named(sheet, kept, texts, places.lost)
        raise SourceError(f"{table}: none of its {len(texts):,} images is there: {', '.join(shown[:3])}; {why}")
    if places.note:
        notes.append(places.note)
    of_group = [groups[i] for i in kept] if groups is not None else [None] * len(kept)
    rows = [Row(*values) for values in zip(places.paths, labels, splits, of_group, strict=True)]
    written = dict(zip(kept, texts, strict=True))
    rows, kept, again = _once(sheet, rows, kept, texts)
    if again:
        notes.append(f"repeated rows count once ({len(again):,}): {sheet.locations(again)}")
    lost = set(places.lost) and {places.paths[i] for i in places.lost}
    shown = [
        f"{sheet.location(at)} {quoted(written[at])}" for row, at in zip(rows, kept, strict=True) if row.path in lost
    ]
    return _Part(name=name, sheet=sheet, rows=rows, at=kept, notes=notes, lost=shown, hint=places.hint)


def _embedded(tree: Tree, sheet: Sheet, roles: Roles) -> list[str]:
    """Return the paths of images that are embedded in the table; empty if there are none.

    Raises:
        SourceError: the table is in an archive, or its images cannot be read one by one.
    """
    if not _holds_images(sheet, roles.path):
        return []
    if tree.is_archive:
        raise SourceError(f"{sheet.path}: a Parquet file with images in an archive; unpack the archive")
    column = sheet.names[roles.path]
    refuse_large_groups(sheet.path, column)
    return [row_path(sheet.path, column, row) for row in range(sheet.rows)]


def _holds_images(sheet: Sheet, column: int) -> bool:
    return bool(sheet.types) and image_part(sheet.types[column]) is not None


def _sheet(path: str) -> Sheet:
    return read_annotations(path) if path.lower().endswith(JSON_SUFFIXES) else read_sheet(path)


def _is_exact(path: str) -> bool:
    """Tell by its header alone whether a table has the columns path and label; the rows may be damaged."""
    if path.lower().endswith(JSON_SUFFIXES):
        return False
    return {"path", "label"} <= set(map(folded, header(path)))


def _names_images(path: str, reading: Reading, stems: Counter[str], in_class_folders: bool) -> bool:
    """Tell whether a table with other column names names existing images, and says more than their folders do."""
    roles = find_roles(_sheet(path), SPLITS, reading.path_column, reading.label_column)
    if _holds_images(roles.sheet, roles.path):
        return True
    texts = roles.sheet.load(roles.path)
    if roles.label is not None and roles.split is None and not roles.flags:
        pairs = zip(texts, roles.sheet.load(roles.label), strict=True)
        if all(posixpath.basename(posixpath.dirname(text)) == label for text, label in pairs):
            return False
    named = {_stem(text) for text in texts}
    n_named = sum(times == 1 for stem, times in stems.items() if stem in named)
    if in_class_folders and not any(images.is_image_name(text.strip(SPACES)) for text in texts):
        return False  # perhaps class numbers that happen to be names of images
    enough = _ENOUGH_OF_TABLE if in_class_folders else _ENOUGH_OF_IMAGES
    return n_named > 0 and n_named >= _ENOUGH_OF_TABLE * len(named) and n_named >= enough * sum(stems.values())


def _stems(tree: Tree, depth: int) -> dict[str, Counter[str]]:
    """Count, for each folder of that depth, the images of each `_stem` below it."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name in tree.image_names:
        found["/".join(name.split("/")[:-1][:depth])][_stem(name)] += 1
    return found


def _in_class_folders(tree: Tree) -> bool:
    return len(_class_folders(tree)) > 1


def _class_folders(tree: Tree) -> list[str]:
    """Return the folders of images whose names mean neither splits nor just images."""
    folders = {posixpath.basename(posixpath.dirname(name)) for name in tree.image_names} - {""}
    splits = splits_of(folders)
    return [folder for folder in folders if folder not in splits and not is_container(folder)]


def _is_unlabelled(tree: Tree, name: str, stems: Counter[str]) -> bool:
    """Tell whether a table names images but no labels, like a competition's test set."""
    try:
        roles = find_roles(_sheet(tree.files[name]), SPLITS, labelled=False)
    except SourceError:
        return False
    if roles.label is not None or _holds_images(roles.sheet, roles.path):
        return roles.label is None
    return any(_stem(text) in stems for text in roles.sheet.load(roles.path))


def _stem(text: str) -> str:
    base = posixpath.basename(text.strip(SPACES).replace("\\", "/"))
    return (posixpath.splitext(base)[0] if images.is_image_name(base) else base).casefold()


def _are_shards(called: Mapping[str, str | None]) -> bool:
    """Tell whether tables of one split are numbered shards of one: train-00000-of-00002.parquet, 0001.parquet."""
    parts: dict[str | None, set[str]] = defaultdict(set)
    for name, split in called.items():
        parts[split].add(_SHARD.sub("", name))
    counts = Counter(called.values())
    return all(len(parts[split]) == 1 and (counts[split] == 1 or _SHARD.search(n)) for n, split in called.items())


def _by_split(chosen: Mapping[str, str | None]) -> str:
    """List tables with their splits; of many shards the first, and how many more there are."""
    parts: dict[str | None, list[str]] = defaultdict(list)
    for name, split in chosen.items():
        parts[split].append(name)
    few = len(chosen) <= _MOST_PARTS
    told = [
        f"{name} {split}" if few or len(names) == 1 else f"{name} and {len(names) - 1:,} more {split}"
        for split, names in parts.items()
        for name in (names if few else names[:1])
    ]
    return ", ".join(told)


def _labels(sheet: Sheet, roles: Roles) -> list[str]:
    if roles.label is not None:
        return sheet.load(roles.label)
    labels = [""] * sheet.rows
    for column in roles.one_hot:
        name = sheet.names[column]
        for i, text in enumerate(sheet.load(column)):
            if text and flag(sheet, column, text, i):
                if labels[i]:
                    raise SourceError(
                        f"{sheet.path}: {sheet.location(i)} is of {labels[i]!r} and of {name!r}; a classifier takes "
                        "one label each, or say which column is the label with --label-column"
                    )
                labels[i] = name
    if none := [i for i, label in enumerate(labels) if not label]:
        names = some([sheet.names[column] for column in roles.one_hot])
        raise SourceError(
            f"{sheet.path}: {sheet.locations(none)}: no label, as none of the columns {names} is 1; give each image "
            "one, or say which column is the label with --label-column"
        )
    return labels


def _splits(sheet: Sheet, roles: Roles) -> list[str | None]:
    splits: list[str | None] = [None] * sheet.rows
    if roles.split is not None:
        texts = sheet.load(roles.split)
        words = {text: folded(text) for text in dict.fromkeys(texts)}
        if unknown := [text for text, word in words.items() if word and word not in SPLITS]:
            where = sheet.location(texts.index(unknown[0]))
            raise SourceError(f"{sheet.path}: {where}: unknown split {unknown[0]!r}; valid are train, valid and test")
        return [SPLITS[words[text]] if words[text] else None for text in texts]
    for column, what in sorted(roles.flags, key=lambda item: ("train", "valid", "test").index(item[1])):
        for i, text in enumerate(sheet.load(column)):
            if flag(sheet, column, text, i):
                splits[i] = what
            elif splits[i] is None:
                splits[i] = "valid" if what == "train" else "train"
    return splits


def _without_unlabelled_tests(
    sheet: Sheet, kept: list[int], texts: Sequence[str], labels: Sequence[str], splits: Sequence[str | None]
) -> tuple[list[int], list[str]]:
    """Select the rows that have an image and a label; rows of the test split without a label are left out, with a note.

    Raises:
        SourceError: any other row has no image or no label.
    """
    blank = {label for label in dict.fromkeys(labels) if is_blank(label)}
    out = []
    for column, is_empty in (("path", lambda i: not texts[i]), ("label", lambda i: labels[i] in blank)):
        empty = [i for i in kept if is_empty(i)]
        if column == "label":
            out = [i for i in empty if splits[i] == "test"]
            empty = [i for i in empty if splits[i] != "test"]
        if empty:
            these = sheet.locations(empty)
            verb = "have" if len(empty) > 1 else "has"
            raise SourceError(f"{sheet.path}: {these} {verb} no {column}; fill it in or take the row out")
    without = set(out)
    notes = [f"test images without a label are left out ({len(out):,}): {sheet.locations(out)}"] if out else []
    return [i for i in kept if i not in without], notes


def _splits_of_folders(texts: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """Take splits from the first folder of each path, if all are splits and there are at least two."""
    splits: dict[str, str] = {}
    heads = []
    for text in texts:
        head = text.replace("\\", "/").removeprefix("./").partition("/")[0]
        if (split := SPLITS.get(head.casefold())) is None:
            return [None] * len(texts), []
        splits[head] = split
        heads.append(head)
    if len(set(splits.values())) < 2:
        return [None] * len(texts), []
    return [splits[head] for head in heads], [f"the folders in the paths are the splits: {', '.join(splits)}"]


def _refuse_some_without(sheet: Sheet, kept: list[int], splits: Sequence[str | None]) -> None:
    without = [i for i, split in enumerate(splits) if split is None]
    if 0 < len(without) < len(splits):
        these = sheet.locations([kept[i] for i in without])
        raise SourceError(
            f"{sheet.path}: {len(without):,} of {len(splits):,} rows have no split ({these}); give all one, or none"
        )


def _named(sheet: Sheet, kept: list[int], texts: Sequence[str], rows: Sequence[int]) -> list[str]:
    shown = [f"{sheet.location(kept[i])} {quoted(texts[i])}" for i in rows[:3]]
    return [*shown[:-1], f"{shown[-1]} and {len(rows) - 3:,} more"] if len(rows) > 3 else shown


def _once(
    sheet: Sheet, rows: list[Row], kept: list[int], texts: Sequence[str]
) -> tuple[list[Row], list[int], list[int]]:
    """Drop repeated rows; return the others, their positions, and the positions of the dropped ones.

    Raises:
        SourceError: two rows of one image differ.
    """
    first: dict[str, int] = {}
    again: list[int] = []
    contrary: list[tuple[int, int]] = []
    for i, row in enumerate(rows):
        j = first.setdefault(row.path, i)
        if j != i:
            again.append(i)
            if rows[j] != row:
                contrary.append((j, i))
    if contrary:
        j, i = contrary[0]
        what = next(k for k in ("label", "split", "group") if getattr(rows[i], k) != getattr(rows[j], k))
        says = " and ".join(f"{sheet.location(kept[k])} ({getattr(rows[k], what)!r})" for k in (j, i))
        more = f"; {len(contrary):,} rows do so" if len(contrary) > 1 else ""
        raise SourceError(
            f"{sheet.path}: the image {texts[i]!r} is named more than once with another {what}: {says}{more}; keep one"
        )
    out = set(again)
    left = [i for i in range(len(rows)) if i not in out] if again else range(len(rows))
    return [rows[i] for i in left], [kept[i] for i in left], [kept[i] for i in again]


def _refuse_shared(parts: Sequence[_Part]) -> None:
    first: dict[str, str] = {}
    for part in parts:
        for i, row in enumerate(part.rows):
            if row.path in first:
                raise SourceError(f"{part.location(i)} names an image of {first[row.path]}; keep one: {row.path}")
        first.update({row.path: part.name for row in part.rows})
