"""Recognise WebDataset shards, tar archives of samples KEY.jpg with KEY.cls, KEY.json or KEY.txt, and their labels."""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from signsclf import images
from signsclf.choices import Layout, Reading
from signsclf.data.labels import SeveralLabelsError, tidy
from signsclf.data.layouts import ParsedSource, Row
from signsclf.data.roles import label_key
from signsclf.data.splits import splits_of_files
from signsclf.data.tree import Tree, quoted, some
from signsclf.errors import BadImageError, SourceError
from signsclf.text import count

_IN_TAR = re.compile(r"\.(?:tgz|tar(?:\.gz)?)/", re.IGNORECASE)
_FIELDS = ("cls", "json", "txt")
"""Suffixes of the files that may have a sample's label; the first that samples have decides."""
_LONGEST = 65_536
_ENOUGH = 0.5
_FEWEST_PER_TEXT = 2


def find_webdataset(tree: Tree, reading: Reading) -> ParsedSource | None:
    """Find samples of WebDataset in tar archives; None where most images have no file of labels that shares their key.

    A key is a name up to the first dot after its folder. Shards called after splits, or in folders called so, are
    these splits.

    Raises:
        SourceError: a sample has several images or no label, or its label cannot be read.
    """
    root = posixpath.basename(tree.root) if tree.is_archive else ""
    samples: dict[str, dict[str, str]] = defaultdict(dict)
    n_images = 0
    for name in tree.files:
        if not _IN_TAR.search(f"{root}/{name}"):
            continue
        folder, _, base = name.rpartition("/")
        key, _, field = base.partition(".")
        if images.is_image_name(name) or name in tree.unnamed:
            n_images += 1
            field = f"image {field}"
        samples[f"{folder}/{key}"][field.lower()] = name
    with_image = [sample for sample in samples.values() if any(field.startswith("image ") for field in sample)]
    fields = ("json",) if reading.label_column else _FIELDS
    counts = Counter(field for sample in with_image for field in fields if field in sample)
    chosen = next((field for field in fields if counts[field] > _ENOUGH * len(with_image)), None)
    if chosen is None:
        return None
    if len(with_image) < n_images:
        several = next(s for s in with_image if sum(field.startswith("image ") for field in s) > 1)
        names = [name for field, name in several.items() if field.startswith("image ")]
        raise SourceError(f"{tree.root}: WebDataset samples of several images, such as {some(names)}; keep one each")
    names = [next(name for field, name in sample.items() if field.startswith("image ")) for sample in with_image]
    if without := [name for name, sample in zip(names, with_image, strict=True) if chosen not in sample]:
        raise SourceError(f"{tree.root}: WebDataset samples without a .{chosen} ({len(without):,}): {some(without)}")
    texts = [_label(tree, sample[chosen], chosen, reading) for sample in with_image]
    if chosen == "txt" and len(set(texts)) * _FEWEST_PER_TEXT > len(texts):
        raise SourceError(
            f"{tree.root}: WebDataset samples whose .txt seem to be captions ({len(set(texts)):,} different ones of "
            f"{len(texts):,}), such as {quoted(texts[0])}; put the labels into .cls files"
        )
    try:
        labels, notes = tidy(texts)
    except SeveralLabelsError as error:
        raise SourceError(
            f"{tree.root}: the label {error.label!r} is {error.n:,} labels; a classifier takes one label each"
        ) from error
    shards = [_shard(posixpath.join(root, name)) for name in names]
    called = splits_of_files(list(dict.fromkeys(shards)))
    if called and (unnamed := [shard for shard in dict.fromkeys(shards) if shard not in called]):
        raise SourceError(f"{tree.root}: shards of no split ({len(unnamed):,}): {some(unnamed)}; call all after one")
    rows = [
        Row(tree.files[name], label, called.get(shard))
        for name, label, shard in zip(names, labels, shards, strict=True)
    ]
    said = f"WebDataset samples in {count(len(set(shards)), 'shard')}, with their labels in .{chosen}"
    return ParsedSource(layout=Layout.TABLE, rows=rows, base="", notes=(said, *notes))


def is_tar(name: str) -> bool:
    """Tell whether a file is a tar archive that is read in place, by its name."""
    return bool(_IN_TAR.search(f"{name}/"))


def _shard(name: str) -> str:
    found = _IN_TAR.search(name)
    return name[: found.end() - 1] if found else name


def _label(tree: Tree, name: str, field: str, reading: Reading) -> str:
    """Read a sample's label."""
    path = tree.files[name]
    try:
        data = images.head(path, _LONGEST + 1)
        if len(data) > _LONGEST:
            raise SourceError(f"{path}: over {_LONGEST:,} bytes, where a label should be")
        text = data.decode("utf-8-sig").strip()
        if field == "json":
            record = json.loads(text)
            if not isinstance(record, Mapping):
                raise ValueError("no object of names and values")
            key = reading.label_column or label_key(record)
            if key is None or not isinstance(record.get(key), str | int | float):
                names = some([str(name) for name in record])
                raise SourceError(f"{path}: no label in it, only {names}; name the one that is with --label-column")
            text = str(record[key]).strip()
    except BadImageError as error:
        raise SourceError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: a label that cannot be read ({error}); write it in UTF-8") from error
    if not text:
        raise SourceError(f"{path}: an empty label; fill it in, or take the sample out")
    return text
