"""List a folder or an archive: file names, and the path by which `signsclf.images` reads each file."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO

from signsclf import images, outputs
from signsclf.data.zipnames import decode_names
from signsclf.errors import BadImageError, SourceError
from signsclf.files import is_remote
from signsclf.imagefiles import remote
from signsclf.imagefiles.hidden import HIDDEN_FILES, hidden_images, hidden_text, hiding_part, is_hidden
from signsclf.imagefiles.kinds import HEAD, Sniffer, describe_kind, read_head, skipped_text, suffix_of, why_unread
from signsclf.text import file_text

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".parquet", ".jsonl", ".ndjson")
"""Suffixes of files that are read as a table wherever they are; others only if they are given by name."""
_LINKED_FOLDERS = 10_000
"""More linked folders are refused: links to links can name the same files endlessly."""
_LONGEST_SHOWN = 200
_ENCRYPTED = 0x1


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files below a folder or in an archive.

    Attributes:
        root: absolute path of the folder or archive, with forward slashes, or the address of one in a store.
        is_archive: whether ``root`` is an archive.
        files: name below the root (forward slashes, Unicode NFC, in order) to the path for `signsclf.images`.
        folders: names of all folders below the root, empty ones too.
        notes: lines for the user about the listing.
        names: path to name in ``files``, for files whose path does not end in that name: a zip member's name may be in
            any encoding, and of two names that differ only in their Unicode form one becomes "name (2)".
        unnamed: names of images that were recognised by their content only.
        skipped: name to suffix of each image in a format that is not read.
        hidden: hidden folder, or FOLDER/.* for hidden files, to the number of images in it.
        broken: broken links.
        left_out: what this program wrote there, such as "model/"; not in any other attribute.
    """

    root: str
    is_archive: bool
    files: dict[str, str]
    folders: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    unnamed: frozenset[str] = frozenset()
    skipped: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, int] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def is_closed(self) -> bool:
        """Whether its files are all that a table in it may name: those of an archive or a store."""
        return self.is_archive or is_remote(self.root)

    @cached_property
    def image_names(self) -> list[str]:
        """Names of the files that are images, by name or by content, in order."""
        return [name for name in self.files if images.is_image_name(name) or name in self.unnamed]

    @property
    def archives(self) -> list[str]:
        """Names of the archives in the folder itself; archives within an archive are not opened."""
        if self.is_archive:
            return []
        return [name for name in self.files if "/" not in name and images.is_archive(name)]

    def mount(self, names: Sequence[str], encoding: str | None = None) -> Tree:
        """Return this tree with the members of its archives ``names`` listed below the name of each."""
        trees = {"": self, **{f"{name}/": list_archive(self.files[name], encoding) for name in names}}
        return replace(
            self,
            files={f"{at}{name}": path for at, tree in trees.items() for name, path in tree.files.items()},
            folders=frozenset(f"{at}{folder}" for at, tree in trees.items() for folder in tree.folders),
            notes=tuple(dict.fromkeys(note for tree in trees.values() for note in tree.notes)),
            names={path: f"{at}{name}" for at, tree in trees.items() for path, name in tree.names.items()},
            unnamed=frozenset(f"{at}{name}" for at, tree in trees.items() for name in tree.unnamed),
            skipped={f"{at}{name}": suffix for at, tree in trees.items() for name, suffix in tree.skipped.items()},
        )


class _Listing:
    """Collects files and makes a `Tree` of them."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.folders: set[str] = set()
        self.hidden: Counter[str] = Counter()
        self._files: list[tuple[str, str, str, bool]] = []  # name in NFC, as spelled, path, whether by content
        self._skipped: dict[str, str] = {}
        self.renamed: set[str] = set()
        """Paths that do not end in the names that were added with them."""
        self._sniffer = Sniffer()

    def add(self, name: str, path: str, head: Callable[[], bytes]) -> None:
        """Add a file that is not hidden; ``head`` as in `Sniffer.look`."""
        by_name = images.is_image_name(name)
        is_image = by_name or self._sniffer.look(name, head)
        if is_image or name.lower().endswith(TABLE_SUFFIXES):
            _refuse_undecodable(self.root, name)
        if not is_image and why_unread(suffix_of(name)):
            self._skipped[path] = suffix_of(name)
        self._files.append((_nfc(name), name, path, is_image and not by_name))

    def tree(self, is_archive: bool, notes: list[str]) -> Tree:
        """Make the tree, with files in order; of names that are equal in NFC, all but the first get a number."""
        files: dict[str, str] = {}
        twins: list[str] = []
        names: dict[str, str] = {}
        unnamed: set[str] = set()
        skipped: dict[str, str] = {}
        taken = {name for name, *_ in self._files}
        for whole, _, path, by_content in sorted(self._files):
            name, number = whole, 1
            while name in files or (number > 1 and name in taken):
                number += 1
                suffix = suffix_of(whole)
                name = f"{whole[: len(whole) - len(suffix)]} ({number}){whole[len(whole) - len(suffix) :]}"
            if number > 1:
                twins.append(name)
            if number > 1 or path in self.renamed:
                names[path] = name
            files[name] = path
            if by_content:
                unnamed.add(name)
            if path in self._skipped:
                skipped[name] = self._skipped[path]
        if twins:
            shown = some(twins)
            notes.append(f"names that differ in their Unicode form alone ({len(twins):,}): {shown}; all are kept")
        if skipped:
            notes.append(f"skipped {len(skipped):,} files: {skipped_text(skipped.values())}")
        if self.hidden:
            notes.append(f"images in hidden folders or files are left out: {hidden_text(self.hidden)}")
        return Tree(
            root=self.root,
            is_archive=is_archive,
            files=dict(sorted(files.items())),
            folders=frozenset(self.folders),
            notes=tuple(notes),
            names=names,
            unnamed=frozenset(unnamed),
            skipped=skipped,
            hidden=dict(self.hidden),
        )


def list_folder(root: Path) -> Tree:
    """List all files below a folder, except hidden ones and what this program wrote.

    Links are followed; broken ones are noted, and cycles are cut.

    Raises:
        SourceError: a folder cannot be read, a file name is not valid UTF-8, or there are too many linked folders.
    """
    top = Path(root).absolute().as_posix().rstrip("/")
    listing = _Listing(top)
    broken: list[str] = []
    linked = 0
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, ancestors = pending.pop()
        folder = f"{top}/{prefix}"
        try:
            status = Path(folder).stat()
            itself = (status.st_dev, status.st_ino)
            with os.scandir(folder) as entries:
                inside = [] if itself in ancestors else list(entries)
        except OSError as error:
            raise SourceError(f"{folder}: cannot be listed ({error.strerror or error})") from error
        for entry in inside:
            name = prefix + entry.name
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                is_folder = is_file = False
            if is_hidden(entry.name):
                if n := hidden_images(entry):
                    listing.hidden[_nfc(name if is_folder else prefix + HIDDEN_FILES)] += n
            elif is_folder:
                linked += entry.is_symlink()
                if linked > _LINKED_FOLDERS:
                    raise SourceError(f"{top}: over {_LINKED_FOLDERS:,} linked folders; link each once")
                listing.folders.add(_nfc(name))
                pending.append((f"{name}/", ancestors | {itself}))
            elif is_file:
                path = f"{top}/{name}"
                listing.add(name, path, lambda path=path: read_head(path))
            elif entry.is_symlink():
                broken.append(_nfc(name))
    notes = [f"broken links are left out ({len(broken):,}): {some(broken)}"] if broken else []
    # Unbuffered: every PNG file is opened for this, and a buffer would double the time.
    return _without_own(replace(listing.tree(False, notes), broken=tuple(broken)), io.FileIO)


def list_remote(folder: str) -> Tree:
    """List all objects below a folder in a store, except hidden ones.

    What this program wrote is not recognised, since each file that may be would be a request.

    Raises:
        SourceError: the store refuses, or a name is not valid UTF-8.
    """
    listing = _Listing(folder)
    try:
        for entry in sorted(remote.entries(folder, recursive=True), key=lambda entry: entry.address):
            parts = [_nfc(part) for part in entry.address[len(folder) + 1 :].split("/") if part]
            hides, counted_for = hiding_part(parts)
            if counted_for and not entry.is_folder:
                listing.hidden[counted_for] += 1
            if hides or not parts:
                continue
            if entry.is_folder:
                listing.folders.add("/".join(parts))
                continue
            listing.folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
            listing.add("/".join(parts), entry.address, lambda path=entry.address: images.head(path, HEAD))
    except OSError as error:
        raise SourceError(
            f"{folder}: cannot be listed ({error.strerror or error}); check it and your rights"
        ) from error
    return listing.tree(False, [])


def list_archive(archive: str | Path, encoding: str | None = None) -> Tree:
    """List all members of an archive, except hidden ones, what this program wrote and names that lead outside it.

    Args:
        encoding: of names in a zip archive that are not marked as UTF-8; None guesses it, see `decode_names`.

    Raises:
        SourceError: the archive is damaged, encrypted, compressed by an unsupported method, or its names are not in
            that encoding.
    """
    top = str(archive) if is_remote(archive) else Path(archive).absolute().as_posix()
    try:
        handle = images.open_archive(top)
        members = handle.infolist()
    except (BadImageError, NotImplementedError, ValueError, struct.error) as error:
        with contextlib.suppress(OSError):
            if not (top.lower().endswith("gz") or is_remote(top)) and (what := describe_kind(read_head(top))):
                raise SourceError(f"{top}: not {_kind_of(top)}, but {what}") from error
        why = str(error).removeprefix(f"{top}: ")
        remedy = "check its permissions" if isinstance(error.__cause__, OSError) else "fetch or pack it again"
        raise SourceError(f"{top}: {why}; {remedy}") from error
    written, assumed = [info.filename for info in members], None
    if isinstance(handle, zipfile.ZipFile):
        try:
            written, assumed = decode_names(members, encoding)
        except UnicodeError as error:
            raise SourceError(f"{top}: a name in it is not {encoding}; leave out --zip-encoding") from error
    elif encoding is not None:
        raise SourceError(f"{top}: no .zip archive, so --zip-encoding does not fit; leave it out")
    _refuse_unreadable(top, [info for info, name in zip(members, written, strict=True) if _is_wanted(name)])
    listing = _Listing(top)
    outside: list[str] = []
    repeated: list[str] = []
    seen: set[str] = set()
    for info, text in zip(members, written, strict=True):
        parts = [part for part in _nfc(text.replace("\\", "/")).split("/") if part not in ("", ".")]
        if not parts:
            continue
        if ".." in parts:
            outside += [] if info.is_dir() else [text]
            continue
        name = "/".join(parts)
        hides, counted_for = hiding_part(parts)
        if counted_for and not info.is_dir():
            listing.hidden[counted_for] += 1
        if hides:
            continue
        if info.is_dir():
            listing.folders.add(name)
            continue
        listing.folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        path = f"{top}/{info.filename}"
        if path in seen:
            repeated.append(name)
            continue
        seen.add(path)
        if name != member_name(info.filename):
            listing.renamed.add(path)
        listing.add(name, path, lambda path=path: images.head(path, HEAD))
    notes = []
    if assumed not in (None, "utf-8") and encoding is None:
        example = next(name for name in written if not name.isascii())
        way = "--zip-encoding NAME reads them otherwise"
        notes.append(f"names in the archive, not marked as UTF-8, are taken for {assumed}, as in {example!r}; {way}")
    if links := getattr(handle, "links", 0):
        notes.append(f"links in the archive are not followed ({links:,})")
    if outside:
        notes.append(f"members whose names lead outside the archive are left out ({len(outside):,}): {some(outside)}")
    if repeated:
        notes.append(f"members of one name ({len(repeated):,}), the last of which counts: {some(repeated)}")
    return _without_own(listing.tree(True, notes), lambda path: handle.open(path[len(top) + 1 :]))


def own_note(names: Sequence[str]) -> str:
    """Say in one line which files are left out because this program wrote them."""
    return f"what signsclf wrote there is left out ({len(names):,}): {some(tuple(names))}"


def _without_own(tree: Tree, open_file: Callable[[str], IO[bytes]]) -> Tree:
    own = outputs.own_names(tree.files, open_file)
    if not own:
        return tree
    left_out = tuple(outputs.together(own, tree.files))
    whole = tuple(name for name in left_out if name.endswith("/"))
    return replace(
        tree,
        files={name: path for name, path in tree.files.items() if name not in own},
        folders=frozenset(folder for folder in tree.folders if not f"{folder}/".startswith(whole)),
        notes=(*tree.notes, own_note(left_out)),
        left_out=left_out,
    )


def _kind_of(archive: str) -> str:
    return "a zip archive" if archive.lower().endswith(".zip") else "a tar archive"


def member_name(name: str) -> str:
    """Normalise an archive member's name: forward slashes, Unicode NFC, UTF-8 even if it is not marked so.

    Zip tools on macOS write UTF-8 without the flag, and Python then decodes it as code page 437.
    """
    name = name.replace("\\", "/")
    if name.isascii():
        return name
    try:
        return _nfc(name.encode("cp437").decode("utf-8"))
    except UnicodeError:
        return _nfc(name)


def relative_name(path: str, root: str, mounted: bool = False) -> str:
    """Return a path relative to ``root``, a folder or archive; with ``mounted``, relative to any archive in it."""
    inside = images.split_archive(path)
    if inside and (mounted or inside[0] == root):
        return member_name(inside[1])
    if path.startswith(f"{root}/"):
        return _nfc(path[len(root) + 1 :])
    try:
        return _nfc(Path(os.path.relpath(path, root)).as_posix())
    except ValueError:  # another drive on Windows
        return _nfc(path)


def some(names: list[str] | tuple[str, ...], most: int = 3) -> str:
    """List the first few names, quoted, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(quoted, names[:most])) + more


def quoted(text: str) -> str:
    """Quote a text, shortened if it is very long."""
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r}…"


def _nfc(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", file_text(name))


def _refuse_unreadable(top: str, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive if images or tables in it are encrypted or compressed by an unsupported method."""
    encrypted = sum(bool(info.flag_bits & _ENCRYPTED) for info in members)
    if encrypted:
        count = f"{encrypted:,} of {len(members):,} members"
        raise SourceError(f"{top}: {count} are encrypted; unpack it with its password and give the folder")
    if any(info.compress_type not in images.BOUNDED_METHODS for info in members):
        raise SourceError(f"{top}: compressed by a method that is not read; zip it with deflate, or unpack it")


def _is_wanted(name: str) -> bool:
    return images.is_image_name(name) or name.lower().endswith(TABLE_SUFFIXES)


def _refuse_undecodable(top: str, name: str) -> None:
    try:
        file_text(name).encode("utf-8")
    except UnicodeError as error:
        raise SourceError(f"{top}: the file name {name!a} is not valid UTF-8; rename it") from error
