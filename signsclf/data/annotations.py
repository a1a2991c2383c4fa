"""Read labels from other programs' JSON: one object a line, Label Studio, COCO, CreateML, and plain forms."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterable
from typing import Any

from signsclf import images
from signsclf.data.columns import SPACES, Sheet, decode_text, from_columns, read_bytes
from signsclf.data.splits import split_of
from signsclf.data.tree import some
from signsclf.errors import SourceError

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")

_KNOWN = (
    "known are lists of objects with a path and a label, {path: label}, {label: [paths]}, Label Studio, "
    "COCO with one category an image, and CreateML; write one of these, or a csv with the columns path and label"
)
_LOCAL_FILES = "/data/local-files/"


def read_annotations(path: str) -> Sheet:
    """Read a .json, .jsonl or .ndjson file as a sheet with a column for each key.

    Raises:
        SourceError: it is not JSON, is of no known form, or an image has several labels.
    """
    text = decode_text(path, read_bytes(path))
    if not path.lower().endswith(".json"):
        return _lines(path, text)
    try:
        value = _parse(text)
    except ValueError as error:
        try:
            # A .json file may also hold one object a line.
            return _lines(path, text)
        except SourceError:
            raise SourceError(f"{path}: not valid JSON ({error}); write it again") from error
    for read in (_label_studio, _coco, _objects, _create_ml, _mapping, _pairs, _columns):
        sheet = read(path, value)
        if sheet is not None:
            return sheet
    raise SourceError(f"{path}: JSON of a kind that is not known; {_KNOWN}")


def _parse(text: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) < len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))
            raise ValueError(f"the key {twice!r} is in one object twice")
        return result

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _lines(path: str, text: str) -> Sheet:
    records, row_numbers = [], []
    for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
        if not line.strip(SPACES):
            continue
        try:
            record = _parse(line)
        except ValueError as error:
            raise SourceError(f"{path}: line {number:,} is not valid JSON ({error}); fix it") from error
        if not isinstance(record, dict):
            raise SourceError(f"{path}: line {number:,} is not a JSON object; write one with path and label per line")
        records.append(record)
        row_numbers.append(number)
    return _of_records(path, records, row_numbers=row_numbers, unit="line")


def _of_records(path: str, records: list[dict[str, Any]], **more: Any) -> Sheet:
    names = dict.fromkeys(key for record in records for key in record)
    columns = {name: [_text(record.get(name)) for record in records] for name in names}
    return from_columns(path, columns, **more)


def _text(value: object) -> str:
    # NaN, which Python writes though JSON does not have it, is a missing value of pandas.
    if value is None or value != value:
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _objects(path: str, value: Any) -> Sheet | None:
    if _all_dicts(value) and not any(isinstance(record.get("annotations"), list) for record in value):
        return _of_records(path, value, unit="item")
    return None


def _label_studio(path: str, value: Any) -> Sheet | None:
    """Read tasks of {"data": {"image": ...}, "annotations": [{"result": [{"type": "choices", ...}]}]}."""
    if not _all_dicts(value) or not all(isinstance(task.get("data"), dict) for task in value):
        return None
    kind = "Label Studio"
    found: list[tuple[str, set[str]]] = []
    for number, task in enumerate(value, 1):
        texts = [text for text in task["data"].values() if isinstance(text, str)]
        image = task["data"].get("image") or next((t for t in texts if images.is_image_name(t)), "")
        labels: set[str] = set()
        for annotation in _dicts(task.get("annotations", task.get("completions"))):
            if annotation.get("was_cancelled"):
                continue
            for result in _dicts(annotation.get("result")):
                held = result.get("value")
                choices = held.get("choices") if isinstance(held, dict) else None
                if isinstance(choices, list):
                    labels.update(map(str, choices))
                elif result.get("type", "choices") != "choices":
                    raise SourceError(
                        f"{path}: {kind}: item {number:,} has {result['type']}, where each image needs one choice; "
                        "export a project of image classification"
                    )
        if not isinstance(image, str) or not image:
            raise SourceError(f"{path}: {kind}: item {number:,} names no image; export tasks with images")
        if image.startswith(_LOCAL_FILES):
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(image).query)
            image = query.get("d", [image])[0]
        found.append((image, labels))
    return _one_each(path, kind, found)


def _coco(path: str, value: Any) -> Sheet | None:
    """Read {"images": [{id, file_name}], "annotations": [{image_id, category_id}], "categories": [{id, name}]}."""
    if not isinstance(value, dict) or not all(_all_dicts(value.get(key)) for key in ("images", "annotations")):
        return None
    kind = "COCO"
    try:
        names = {category["id"]: str(category["name"]) for category in _dicts(value.get("categories"))}
        if twice := [name for name, n in Counter(names.values()).items() if n > 1]:
            ids = some([str(number) for number, name in names.items() if name == twice[0]])
            raise SourceError(f"{path}: {kind}: the categories {ids} are all called {twice[0]!r}; name them apart")
        labels: dict[Any, set[str]] = {image["id"]: set() for image in value["images"]}
        for annotation in value["annotations"]:
            category = annotation["category_id"]
            labels[annotation["image_id"]].add(names.get(category, str(category)))
        found = [(str(image["file_name"]), labels[image["id"]]) for image in value["images"]]
    except (KeyError, TypeError) as error:
        raise SourceError(f"{path}: {kind}: an image, annotation or category lacks or misses {error}") from error
    return _one_each(path, kind, found)


def _create_ml(path: str, value: Any) -> Sheet | None:
    """Read [{"image": ..., "annotations": [{"label": ...}]}]."""
    if not _all_dicts(value) or not all(isinstance(item.get("annotations"), list) for item in value):
        return None
    found = [
        (
            str(item.get("image", item.get("imagefilename", ""))),
            {str(a.get("label", "")) for a in _dicts(item["annotations"])},
        )
        for item in value
    ]
    return _one_each(path, "CreateML", found)


def _mapping(path: str, value: Any) -> Sheet | None:
    """Read {path: label}, or {label: [paths]}."""
    if not isinstance(value, dict) or not value:
        return None
    if images.is_image_name(next(iter(value))) and all(isinstance(v, str | int | float | list) for v in value.values()):
        return from_columns(path, {"path": list(value), "label": list(map(_text, value.values()))}, unit="item")
    lists = [names for names in value.values() if isinstance(names, list)]
    named = [name for names in lists for name in names]
    if len(lists) == len(value) and named and all(isinstance(n, str) and images.is_image_name(n) for n in named):
        if all(map(split_of, value)):
            raise SourceError(f"{path}: it tells the splits of images, and not their labels; {_KNOWN}")
        rows = [(name, label) for label, names in value.items() for name in names]
        return _of_pairs(path, rows)
    return None


def _pairs(path: str, value: Any) -> Sheet | None:
    """Read [[path, label], ...], or the same under "labels"."""
    if isinstance(value, dict) and list(value) == ["labels"]:
        value = value["labels"]
    if isinstance(value, list) and value and all(isinstance(v, list) and len(v) == 2 for v in value):
        return _of_pairs(path, ((str(name), _text(label)) for name, label in value))
    return None


def _columns(path: str, value: Any) -> Sheet | None:
    """Read {"path": [...], "label": [...]}, or objects of row to value in place of lists, as pandas writes them."""
    if not isinstance(value, dict) or not value:
        return None
    columns = [list(v.values()) if isinstance(v, dict) else v for v in value.values()]
    if all(isinstance(v, list) for v in columns) and len({len(v) for v in columns}) == 1 and len(columns) > 1:
        return from_columns(path, {k: list(map(_text, v)) for k, v in zip(value, columns, strict=True)}, unit="item")
    return None


def _of_pairs(path: str, rows: Iterable[tuple[str, str]], **more: Any) -> Sheet:
    rows = list(rows)
    columns = {"path": [name for name, _ in rows], "label": [label for _, label in rows]}
    return from_columns(path, columns, unit="item", **more)


def _one_each(path: str, kind: str, found: list[tuple[str, set[str]]]) -> Sheet:
    """Make a sheet of the images that have one label; those without are left out, several are an error."""
    if several := [(name, labels) for name, labels in found if len(labels) > 1]:
        name, labels = several[0]
        raise SourceError(
            f"{path}: {kind}: {len(several):,} images have several labels, first {name!r}: {some(sorted(labels))}; "
            "leave one label each"
        )
    kept = [number for number, (_, labels) in enumerate(found, 1) if labels]
    rows = [(found[number - 1][0], next(iter(found[number - 1][1]))) for number in kept]
    if not rows:
        raise SourceError(f"{path}: {kind}: none of its {len(found):,} images has a label; label them and export again")
    without = len(found) - len(rows)
    note = f"{kind}'s images without a label are left out ({without:,})" if without else ""
    return _of_pairs(path, rows, row_numbers=kept, kind=kind, note=note)


def _all_dicts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
