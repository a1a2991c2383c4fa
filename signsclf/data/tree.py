"""Lists a folder or a zip archive alike: file names, and the path by which `signsclf.images` reads each."""

from __future__ import annotations

import os
import struct
import unicodedata
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from signsclf import images
from signsclf.errors import BadImageError, SourceError

TABLE_SUFFIXES = (".csv", ".parquet")
_LINKED_FOLDERS = 10_000
"""More linked folders than this are refused: links to links to links can name the same files without end."""
_READABLE_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Tree:
    """The files below a folder or in a zip archive.

    Attributes:
        root: absolute path of the folder or archive, with forward slashes.
        is_archive: whether ``root`` is a zip archive.
        files: name below the root (forward slashes, Unicode NFC, in order) to the path for `signsclf.images`.
        folders: names of all folders below the root, empty ones too.
        notes: what a user should be told of the listing.
    """

    root: str
    is_archive: bool
    files: dict[str, str]
    folders: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @cached_property
    def image_names(self) -> list[str]:
        """Names of the files that look like images, in order."""
        return [name for name in self.files if images.is_image_name(name)]

    @property
    def archives(self) -> list[str]:
        """Names of the zip archives that lie in the folder itself; an archive's own are not looked into."""
        if self.is_archive:
            return []
        return [name for name in self.files if "/" not in name and name.lower().endswith(".zip")]

    def mount(self, name: str) -> Tree:
        """This tree with the members of its own zip archive ``name`` listed below that name."""
        inner = list_zip(self.files[name])
        files = {**self.files, **{f"{name}/{member}": path for member, path in inner.files.items()}}
        folders = self.folders | {f"{name}/{folder}" for folder in inner.folders}
        return replace(self, files=files, folders=folders)


def list_folder(root: Path) -> Tree:
    """All files below a folder but hidden ones. Links are followed; broken ones are noted, circles are cut.

    Raises:
        SourceError: a folder may not be read, a file name is not valid UTF-8, or links multiply.
    """
    top = Path(root).absolute().as_posix().rstrip("/")
    files: dict[str, str] = {}
    folders: set[str] = set()
    broken: list[str] = []
    linked = 0
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, above = pending.pop()
        folder = f"{top}/{prefix}"
        try:
            status = Path(folder).stat()
            itself = (status.st_dev, status.st_ino)
            with os.scandir(folder) as entries:
                inside = [] if itself in above else [entry for entry in entries if not _is_hidden(entry.name)]
        except OSError as error:
            raise SourceError(f"{folder}: cannot be listed ({error.strerror or error})") from error
        for entry in inside:
            name = prefix + entry.name
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                is_folder = is_file = False
            if is_folder:
                linked += entry.is_symlink()
                if linked > _LINKED_FOLDERS:
                    raise SourceError(f"{top}: over {_LINKED_FOLDERS:,} linked folders; link each once")
                folders.add(_nfc(name))
                pending.append((f"{name}/", above | {itself}))
            elif is_file:
                if _is_wanted(name):
                    _refuse_undecodable(top, name)
                files[_nfc(name)] = f"{top}/{name}"
            elif entry.is_symlink():
                broken.append(name)
    notes = (f"links that lead nowhere are left out ({len(broken):,}): {some(broken)}",) if broken else ()
    return Tree(top, False, dict(sorted(files.items())), frozenset(folders), notes)


def list_zip(archive: str | Path) -> Tree:
    """All members of a zip archive but hidden ones and those whose names lead outside it.

    Raises:
        SourceError: the archive is damaged, encrypted, or compressed in a way that Python does not read.
    """
    top = Path(archive).absolute().as_posix()
    try:
        members = images.open_archive(top).infolist()
    except (BadImageError, NotImplementedError, ValueError, struct.error) as error:
        why = str(error).removeprefix(f"{top}: ")
        raise SourceError(f"{top}: {why}; fetch or pack it again") from error
    files: dict[str, str] = {}
    folders: set[str] = set()
    for info in members:
        parts = [part for part in member_name(info.filename).split("/") if part not in ("", ".")]
        if not parts or any(_is_hidden(part) for part in parts):
            continue
        name = "/".join(parts)
        if info.is_dir():
            folders.add(name)
            continue
        if _is_wanted(name):
            if info.flag_bits & _ENCRYPTED:
                raise SourceError(f"{top}: encrypted; unpack it with its password and give the folder")
            if info.compress_type not in _READABLE_COMPRESSION:
                raise SourceError(f"{top}: compressed in a way that Python cannot read; unpack it")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        files[name] = f"{top}/{info.filename}"
    return Tree(top, True, dict(sorted(files.items())), frozenset(folders))


def member_name(name: str) -> str:
    """A zip member's name as its maker meant it: forward slashes, Unicode NFC, UTF-8 even when not marked so.

    Zip tools on macOS write UTF-8 without the mark, which Python then reads as code page 437.
    """
    name = name.replace("\\", "/")
    if name.isascii():
        return name
    try:
        return _nfc(name.encode("cp437").decode("utf-8"))
    except UnicodeError:
        return _nfc(name)


def relative_name(path: str, root: str, mounted: bool = False) -> str:
    """A path as it is named below ``root``, a folder or archive; below any archive if that is ``mounted``."""
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
    """The first few names, quoted, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _nfc(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _is_hidden(name: str) -> bool:
    # Names that macOS, Synology and others leave behind; '..' is among those that start with a dot.
    return name.startswith((".", "@eaDir")) or name == "__MACOSX"


def _is_wanted(name: str) -> bool:
    return images.is_image_name(name) or name.lower().endswith(TABLE_SUFFIXES)


def _refuse_undecodable(top: str, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeError as error:
        raise SourceError(f"{top}: the file name {name!a} is not valid UTF-8; rename it") from error
