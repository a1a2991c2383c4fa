"""Find the columns of a table that hold the image, its label, its split and its group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from signsclf import images
from signsclf.data.columns import SPACES, Sheet, folded, is_blank, refuse_repeats
from signsclf.data.formats import how_to_convert_pixels
from signsclf.data.parquetimages import image_part
from signsclf.data.tree import some
from signsclf.errors import SourceError

_PATHS = (
    ("path",),
    ("imagepath", "imgpath", "filepath", "imagefile", "imagefilepath", "filename", "fname", "imagename", "imgname",
     "imagefilename", "imagelocation", "relativepath", "fullpath", "paths", "filenames", "filepaths", "imagepaths"),
    ("image", "img", "file", "picture", "photo", "images", "files", "photos", "pictures", "pic"),
    ("imageid", "imgid", "imageindex", "idcode", "photoid", "id"),
    ("url", "imageurl", "imgurl", "uri"),
)  # fmt: skip
_LABELS = (
    ("label",),
    ("labels", "labelname", "class", "classname", "classlabel", "category", "categoryname", "target", "targetname", "y",
     "species", "breed", "choice", "annotation", "diagnosis", "findinglabels"),
    ("labeltext", "classes", "cls", "groundtruth", "gt", "tag", "variety"),
    ("classid", "labelid", "categoryid", "targetid", "labelgroup"),
)  # fmt: skip
"""Names of the columns of images and of labels, without spaces, hyphens and underscores. The first row of names with a
match decides, so that ids are used only where there are no names."""
_SPLITS = ("split", "set", "subset", "partition", "dataset", "usage", "phase", "mode", "datatype", "stage", "purpose")
_FLAGS = {
    "isvalid": "valid", "valid": "valid", "isval": "valid", "isvalidation": "valid", "validflag": "valid",
    "istest": "test", "test": "test", "istrain": "train", "train": "train",
}  # fmt: skip
"""Name of a true/false column to the split that true means."""
_NUMBER_TYPE = re.compile(r"bool|u?int\d+|halffloat|float|double|string|large_string")
_TRUE = frozenset({"true", "1", "1.0", "yes", "t"})
_FALSE = frozenset({"false", "0", "0.0", "no", "f"})


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The columns of a sheet, by index.

    Attributes:
        sheet: the sheet; if the file has no header, its first row is a row here.
        path: column of the images.
        label: column of the labels; None where ``one_hot`` has them, or where there are none.
        one_hot: columns of zeros and ones, one for each class.
        split: column of texts such as "train".
        flags: true/false columns, each with the split that true means.
        group: column of groups (images of one object).
        notes: how columns were interpreted, where their names leave it open.
    """

    sheet: Sheet
    path: int
    label: int | None = None
    one_hot: tuple[int, ...] = ()
    split: int | None = None
    flags: tuple[tuple[int, str], ...] = ()
    group: int | None = None
    notes: tuple[str, ...] = ()


def find_roles(
    sheet: Sheet, splits: dict[str, str], path: str | None = None, label: str | None = None, labelled: bool = True
) -> Roles:
    """Find the columns by their names, or without a header by the values of the first row.

    Args:
        splits: names of splits, in lower case, to those of the table.
        path, label: name, or number from 1, of the column that the user chose.
        labelled: whether labels are required.

    Raises:
        SourceError: a column is missing, repeated, or ambiguous.
    """
    if not sheet.names:
        raise SourceError(f"{sheet.path}: lacks the columns path and label, it is empty; give a row for each image")
    if not sheet.types and any(images.is_image_name(name) for name in sheet.names):
        return _headerless(sheet.with_header(), splits, path, label, labelled)
    names = [folded(name) for name in sheet.names]
    refuse_repeats(sheet.path, [name for name in names if name in ("path", "label", "split", "group")])
    of_path = _chosen(sheet, path, "--path-column") if path else _by_name(sheet, _PATHS, "path")
    if of_path is None and len(held := [i for i, kind in enumerate(sheet.types) if image_part(kind) is not None]) == 1:
        of_path = held[0]
    rest = [i for i in range(len(names)) if i != of_path]
    of_label = _chosen(sheet, label, "--label-column") if label else _by_name(sheet, _LABELS, "label")
    if of_label == of_path:
        of_label = None
    split = _split_column(sheet, splits, of_label)
    flags = _flags(sheet, of_label) if split is None else ()
    group = names.index("group") if "group" in names else None
    used = {of_path, of_label, split, group, *(i for i, _ in flags)}
    others = [i for i in rest if i not in used and sheet.names[i]]
    one_hot = _one_hot(sheet, others) if of_label is None and of_path is not None and labelled else ()
    lacking = [what for what, at in (("path", of_path), ("label", of_label)) if at is None]
    if one_hot:
        lacking, others = [], [i for i in others if i not in one_hot]
    if of_path is None and (way := how_to_convert_pixels(sheet.path, sheet.names)):
        raise SourceError(f"{sheet.path}: {way}")
    if of_path is None or (lacking and labelled):
        raise SourceError(_lacking(sheet, lacking))
    notes = []
    if taken := [
        f"{sheet.names[at]!r} as {what}"
        for what, at in (("path", of_path), ("label", of_label), ("split", split))
        if at is not None and names[at] != what and not (path and what == "path") and not (label and what == "label")
    ]:
        notes.append(f"columns of other names are taken: {', '.join(taken)}")
    notes += [f"the column {sheet.names[i]!r} of true and false is the split ({what})" for i, what in flags]
    if one_hot:
        some_names = some([sheet.names[i] for i in one_hot])
        notes.append(f"columns of 0 and 1 are the classes ({len(one_hot):,}): {some_names}")
    if others:
        notes.append(f"columns that are not used ({len(others):,}): {', '.join(_unused(sheet, i) for i in others[:5])}")
    return Roles(
        sheet=sheet,
        path=of_path,
        label=of_label,
        one_hot=one_hot,
        split=split,
        flags=flags,
        group=group,
        notes=tuple(notes),
    )


def label_key(names: Iterable[str]) -> str | None:
    """Find the name that means the label, as among the columns of a table; None where none or several may do."""
    plain = {name: _plain(name) for name in names}
    found = next(filter(None, ([name for name in plain if plain[name] in row] for row in _LABELS)), [])
    return found[0] if len(found) == 1 else None


def flag(sheet: Sheet, column: int, text: str, row: int) -> bool:
    """Parse a value of a true/false column; an empty one is false.

    Raises:
        SourceError: it is neither.
    """
    word = folded(text)
    if word in _TRUE:
        return True
    if word in _FALSE or not word:
        return False
    raise SourceError(
        f"{sheet.path}: {sheet.location(row)}: {sheet.names[column]} is {text!r}, where it should be true or false"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s\-_]+", "", folded(name))


def _chosen(sheet: Sheet, name: str, option: str) -> int:
    names = [folded(n) for n in sheet.names]
    if folded(name) in names:
        return names.index(folded(name))
    if name.isdecimal() and 1 <= int(name) <= len(names):
        return int(name) - 1
    raise SourceError(f"{sheet.path}: {option}: no column {name!r} (it has: {_names(sheet)}); give one of these")


def _by_name(sheet: Sheet, known: Sequence[Sequence[str]], what: str) -> int | None:
    names = [_plain(name) for name in sheet.names]
    for row in known:
        found = [i for i, name in enumerate(names) if name in row]
        if len(found) > 1:
            which = " and ".join(repr(sheet.names[i]) for i in found)
            raise SourceError(
                f"{sheet.path}: the {what} may be in {which}; say which with --{what}-column, or call it {what}"
            )
        if found:
            return found[0]
    return None


def _split_column(sheet: Sheet, splits: dict[str, str], taken: int | None) -> int | None:
    names = [_plain(name) for name in sheet.names]
    if "split" in names:
        return names.index("split")
    for i, name in enumerate(names):
        # Under another name it is a split only if all its values are names of splits.
        if name in _SPLITS and i != taken and {folded(text) for text in sheet.load(i)} - {""} <= splits.keys():
            return i
    return None


def _flags(sheet: Sheet, taken: int | None) -> tuple[tuple[int, str], ...]:
    found = []
    for i, name in enumerate(map(_plain, sheet.names)):
        if i != taken and name in _FLAGS:
            words = {folded(text) for text in sheet.load(i)} - {""}
            if words and (name.startswith("is") or words <= _TRUE | _FALSE):
                found.append((i, _FLAGS[name]))
    return tuple(found)


def _one_hot(sheet: Sheet, columns: list[int]) -> tuple[int, ...]:
    if len(columns) < 2:
        return ()
    found = []
    for i in columns:
        if sheet.types and not _NUMBER_TYPE.fullmatch(str(sheet.types[i])):
            continue
        if set(map(folded, sheet.load(i))) <= _TRUE | _FALSE | {""}:
            found.append(i)
    return tuple(found) if len(found) > 1 else ()


def _headerless(sheet: Sheet, splits: dict[str, str], path: str | None, label: str | None, labelled: bool) -> Roles:
    """Find the columns without a header: the image by the first row's values, the label as the only other column."""
    n = len(sheet.names)
    first = [sheet.load(i)[0] for i in range(n)]
    named = [i for i in range(n) if images.is_image_name(first[i].strip(SPACES))]
    of_path = _chosen(sheet, path, "--path-column") if path else named[0]
    rest = [i for i in range(n) if i != of_path and not all(map(is_blank, sheet.load(i)))]
    split = None
    for i in rest if len(rest) > 1 else ():
        if {folded(text) for text in sheet.load(i)} <= splits.keys():
            split = i
    rest = [i for i in rest if i != split]
    of_label = _chosen(sheet, label, "--label-column") if label else rest[0] if len(rest) == 1 else None
    if of_label is None and labelled:
        many = f"{len(rest)} columns beside the image; say which is the label with --label-column NUMBER"
        why = many if rest else "no column beside the image, so no labels; give each image one"
        raise SourceError(f"{sheet.path}: no header and {why}, or begin with a line such as path,label")
    taken = [("path", of_path), ("label", of_label), ("split", split)]
    said = ", ".join(f"{what} from column {at + 1}" for what, at in taken if at is not None)
    return Roles(
        sheet=sheet,
        path=of_path,
        label=of_label,
        one_hot=(),
        split=split,
        notes=(f"no header, so the first row is an image: {said}",),
    )


def _names(sheet: Sheet) -> str:
    shown = ", ".join(name if name.isprintable() and name else repr(name) for name in sheet.names[:20])
    return shown + (f" and {len(sheet.names) - 20:,} more" if len(sheet.names) > 20 else "")


def _lacking(sheet: Sheet, lacking: list[str]) -> str:
    if len(sheet.names) == 1 and not sheet.types and not sheet.path.lower().endswith((".json", ".jsonl", ".ndjson")):
        why = "if others are in it, no separator was recognised (comma, semicolon, tab and bar are)"
    else:
        why = "or say which column it is with " + " and ".join(f"--{what}-column" for what in lacking)
    return f"{sheet.path}: lacks the column {' and '.join(lacking)} (it has: {_names(sheet)}); {why}"


def _unused(sheet: Sheet, i: int) -> str:
    if sheet.types:
        return repr(sheet.names[i])
    values: set[str] = set()
    for text in sheet.load(i):
        values.add(text.strip(SPACES))
        if len(values) > 2:
            return repr(sheet.names[i])
    held = " and ".join(repr(value) for value in sorted(values))
    return f"{sheet.names[i]!r} (only {held})" if len(held) < 60 else repr(sheet.names[i])
