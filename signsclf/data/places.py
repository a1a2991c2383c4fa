"""Find the image files that a table names, and a rule that corrects names that are almost right."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from signsclf import images
from signsclf.data.tree import Tree, member_name
from signsclf.errors import BadImageError
from signsclf.files import is_remote
from signsclf.imagefiles.hidden import is_hidden

_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.\-]+://|data:[a-z]+/", re.IGNORECASE)
_UPLOAD = re.compile(r"(?:.*/)?[0-9a-f]{8}-([^/]+)")
"""The name that Label Studio gives to an uploaded file."""
_ODD = re.compile(r"[\\\0]|//|^/|/$|^$|(?:^|/)\.\.?(?:/|$)|^[A-Za-z]:")
"""Matches a text that is not a plain path below a folder."""
_DRIVE = re.compile(r"[A-Za-z]:/")
_MAX_LISTED = 200_000
_MAX_DEPTH = 8
_ROOTS_TRIED = 3


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the images of a table are.

    Attributes:
        paths: the path for `signsclf.images` of each text; for a missing image, the path where it should be.
        lost: rows whose image is missing.
        note: the rule that was applied to the texts, with an example; or "".
        hint: a rule that would find only some of the missing images, with an example; or "".
    """

    paths: list[str]
    lost: list[int]
    note: str = ""
    hint: str = ""


def is_address(text: str) -> bool:
    """Tell whether a text is a web address, which is not fetched."""
    return not is_remote(text) and bool(_ADDRESS.match(text))


def find_places(tree: Tree, folder: str, texts: Sequence[str], labels: Sequence[str]) -> Places:
    """Resolve each text as a path relative to the table's folder; if images are missing, try rules on all of those.

    On disk texts may lead anywhere, in an archive only to its members, in a store to its folder or to addresses.

    Args:
        folder: the table's folder, as it is named in the tree.
        texts: the stripped values of the path column.
        labels: the label of each, for images in folders that are named after their labels.
    """
    where = _in_archive if tree.is_closed else _on_disk
    # Whether objects in stores exist is found out when they are read.
    found = {text: text if is_remote(text) else where(tree, folder, text) for text in dict.fromkeys(texts)}
    lost = [text for text, path in found.items() if path is None]
    if not lost:
        return Places(paths=[found[text] or "" for text in texts], lost=[])
    by_label = dict(zip(texts, labels, strict=True))
    note = hint = ""
    best: tuple[int, _Rule | None, dict[str, str]] = (0, None, {})
    rival: _Rule | None = None
    resolved = {path for path in found.values() if path}
    for rule in _rules(_Index(_listed(tree, folder)), lost, by_label):
        if best[1] and best[0] == len(lost) and rule.kind != best[1].kind:
            break
        matches = {text: name for text in lost if (name := rule.named(text)) is not None}
        # The rule is ambiguous if two texts lead to one image, or to one that another text names directly.
        paths = {_listed_path(tree, folder, name) for name in matches.values()}
        if len(paths) < len(matches) or paths & resolved:
            continue
        if len(matches) > best[0]:
            best = (len(matches), rule, matches)
        elif len(matches) == len(lost) and matches != best[2]:
            rival = rule
    if best[1]:
        rule, example = best[1], next(iter(best[2].items()))
        # If other images are found as written, a file of the same name elsewhere may be a different image.
        if best[0] == len(lost) and not rival and (rule.stays or not resolved):
            found.update({text: _listed_path(tree, folder, name) for text, name in best[2].items()})
            what = f"{len(lost):,} images" if resolved else "the images"
            note = f"{what} are found {rule.said}: {example[0]!r} is {example[1]!r}"
            lost = []
        else:
            or_else = f", or {rival.said}" if rival else ""
            hint = f"{best[0]:,} of these would be found {rule.said}{or_else}: {example[0]!r} would be {example[1]!r}"
    gone = set(lost)
    paths = [found[text] or _expected(tree, folder, text) for text in texts]
    return Places(paths=paths, lost=[i for i, text in enumerate(texts) if text in gone], note=note, hint=hint)


class _Index:
    """Names of images below the table's folder, to be looked up by a key."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._tables: dict[Callable[[str], str], dict[str, list[str]]] = {}

    def all(self, key: Callable[[str], str], text: str) -> list[str]:
        """Return the images whose names have the same key as a text."""
        if key not in self._tables:
            table: dict[str, list[str]] = {}
            for name in self.names:
                table.setdefault(key(name), []).append(name)
            self._tables[key] = table
        return self._tables[key].get(key(text), [])

    def one(self, key: Callable[[str], str], text: str) -> str | None:
        """Return the only image whose name has the same key as a text; None if there are several or none."""
        found = self.all(key, text)
        return found[0] if len(found) == 1 else None


def _same(name: str) -> str:
    return name


def _stem(name: str) -> str:
    """Strip the suffix of an image from a name."""
    return posixpath.splitext(name)[0] if images.is_image_name(name) else name


def _folded_stem(name: str) -> str:
    return _stem(name).casefold()


_KEYS: tuple[tuple[Callable[[str], str], str], ...] = (
    (_same, ""),
    (str.casefold, "with capitals and small letters taken for the same"),
    (_stem, "whatever their suffix"),
    (_folded_stem, "whatever their suffix, with capitals and small letters taken for the same"),
)


@cache
def _last(key: Callable[[str], str]) -> Callable[[str], str]:
    """Make a key of a name's last part."""
    return lambda name: key(posixpath.basename(name))


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """One way to find the image that a text means.

    Attributes:
        said: its description, to follow "the images are found".
        kind: the same for rules that differ only in a folder, of which only one can be right.
        named: takes a text and returns the name of the image that it means, or None.
        stays: whether that image is in the folder that the text names.
    """

    said: str
    kind: str
    named: Callable[[str], str | None]
    stays: bool = False


def _rules(index: _Index, lost: Sequence[str], labels: dict[str, str]) -> Iterator[_Rule]:
    """Yield the rules, the strictest first."""
    plain = {text: _plain(text) for text in lost}
    if any(plain[text] != text for text in lost):
        yield _Rule(
            said="as their addresses say", kind="address", named=lambda text: index.one(_same, plain[text]), stays=True
        )
    uploads = {text: found[1] for text in lost if (found := _UPLOAD.fullmatch(plain[text]))}
    if len(uploads) == len(lost):
        last = _last(_same)
        yield _Rule(
            said="without the numbers of uploads", kind="upload", named=lambda text: index.one(last, uploads[text])
        )
    for key, how in _KEYS:
        also = f", {how}" if how else ""
        if how:
            yield _Rule(said=how, kind=how, named=lambda text, key=key: index.one(key, plain[text]), stays=True)
        yield _Rule(
            said=f"in the folders of their labels{also}",
            kind=f"label{how}",
            named=lambda text, key=key: index.one(key, f"{labels[text]}/{plain[text]}"),
        )
        for old, new in _other_roots(index, key, [plain[text] for text in lost[:_ROOTS_TRIED]]):

            def moved(text: str, key: Callable[[str], str] = key, old: str = old, new: str = new) -> str | None:
                same = plain[text].startswith(old)
                return index.one(key, new + plain[text][len(old) :]) if same else None

            said = f"in {new!r}" if not old else f"with {old!r} left out" if not new else f"with {new!r} for {old!r}"
            yield _Rule(said=said + also, kind=f"root{how}", named=moved)
        last = _last(key)
        yield _Rule(
            said=f"by their names alone, anywhere below the table{also}",
            kind=f"name{how}",
            named=lambda text, last=last: index.one(last, plain[text]),
        )


def _other_roots(index: _Index, key: Callable[[str], str], texts: Sequence[str]) -> list[tuple[str, str]]:
    """Find by what to replace which start of the texts, so that they become images' names; the commonest pairs."""
    votes: Counter[tuple[str, str]] = Counter()
    last = _last(key)
    for text in texts:
        wanted = key(text).split("/")
        found: dict[int, set[tuple[str, str]]] = defaultdict(set)
        for name in index.all(last, text):
            have = key(name).split("/")
            same = 1
            while same < min(len(have), len(wanted)) and have[-1 - same] == wanted[-1 - same]:
                same += 1
            old, new = text.split("/")[:-same], name.split("/")[:-same]
            found[same].add(("".join(f"{part}/" for part in old), "".join(f"{part}/" for part in new)))
        votes.update(found[max(found)] if found else ())
    most = max(votes.values(), default=0)
    return sorted(root for root, n in votes.items() if n == most)[:_ROOTS_TRIED]


def _plain(text: str) -> str:
    """Normalise a text: forward slashes, no file:// or './', percent escapes of an address decoded."""
    if text[:7].lower() == "file://":
        text = urllib.parse.unquote(text[7:])
        text = text[1:] if _DRIVE.match(text[1:]) else text
    text = text.replace("\\", "/")
    return unicodedata.normalize("NFC", posixpath.normpath(text)) if text else text


def _listed(tree: Tree, folder: str) -> list[str]:
    """List the images below the table's folder, relative to it; for a table given by itself up to a limit."""
    prefix = f"{folder}/" if folder else ""
    if tree.is_closed or len(tree.files) > 1 or tree.folders:
        return [name[len(prefix) :] for name in tree.image_names if name.startswith(prefix)]
    top = f"{tree.root}/{prefix}"
    names: list[str] = []
    for here, folders, files in os.walk(top):
        below = Path(here).as_posix()[len(top.rstrip("/")) :].lstrip("/")
        folders[:] = sorted(name for name in folders if not is_hidden(name)) if below.count("/") < _MAX_DEPTH else []
        names += [f"{below}/{name}" if below else name for name in files if images.is_image_name(name)]
        if len(names) > _MAX_LISTED:
            break
    return [unicodedata.normalize("NFC", name) for name in sorted(names)]


def _listed_path(tree: Tree, folder: str, name: str) -> str:
    whole = f"{folder}/{name}" if folder else name
    return tree.files.get(whole) or _on_disk(tree, folder, name) or f"{tree.root}/{whole}"


def _expected(tree: Tree, folder: str, text: str) -> str:
    """Return the path where a missing image should be; never one that leads out of an archive."""
    if tree.is_closed:
        return f"{tree.root}/{posixpath.join(folder, member_name(text).lstrip('/'))}"
    return posixpath.normpath(posixpath.join(tree.root, folder, _plain(text)))


def _in_archive(tree: Tree, folder: str, text: str) -> str | None:
    return tree.files.get(posixpath.normpath(posixpath.join(folder, member_name(text))))


def _on_disk(tree: Tree, folder: str, text: str) -> str | None:
    if not _ODD.search(text):
        # A fast path, since most of a million rows are plain paths.
        name = f"{folder}/{text}" if folder else text
        path = tree.files.get(name) or f"{tree.root.rstrip('/')}/{name}"
        if name in tree.files or os.path.isfile(path):  # noqa: PTH113
            return path
    text = text.replace("\\", "/")
    # A name written on one system and unpacked on another may differ only in its Unicode form.
    forms = (
        (text,) if text.isascii() else (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
    )
    for form in dict.fromkeys(forms):
        path = Path(os.path.normpath(os.path.join(tree.root, folder, form))).as_posix()  # noqa: PTH118 - a million times
        try:
            inside = images.split_archive(path)
            if os.path.isfile(path) or (inside and images.open_archive(inside[0]).NameToInfo.get(inside[1])):  # noqa: PTH113
                return path
        except (ValueError, BadImageError):  # a NUL in the path, or a damaged archive
            continue
    return None
