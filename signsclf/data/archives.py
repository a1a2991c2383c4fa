"""Archives that cannot be read: recognised by name, with instructions to turn each into a source."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable
from pathlib import Path

from signsclf import images
from signsclf.data.tree import some
from signsclf.text import count

_OTHERS = frozenset(
    ("7z", "rar", "zst", "tzst", "gz", "bz2", "xz", "lzma", "z", "lz4", "br", "cab", "lzh", "iso", "dmg")
)


def is_archive_name(name: str) -> bool:
    """Tell whether a file's name has the suffix of an archive, readable in place or not."""
    return images.is_archive(name) or _is_tar(name) or _suffix(name) in _OTHERS


def how_to_read(path: str | Path) -> str | None:
    """Describe an archive on disk that cannot be read in place, and how to turn it into a source; None for others."""
    path = Path(path)
    if images.is_archive(path.name):
        return None
    if _is_tar(path.name):
        unpack = f"mkdir photos && tar -xf {shlex.quote(path.name)} -C photos"
        return f"a tar archive that is not read compressed like this: unpack it ({unpack}) and give the folder"
    if _suffix(path.name) in _OTHERS:
        return f"a {path.suffix} archive, which is not read: unpack it and give the folder"
    return None


def inner_archives(names: Iterable[str], is_archive: bool, root: str) -> str | None:
    """Say what to do with archives in a folder or archive that has no images; None where there are none.

    Args:
        names: of the files below ``root``.
    """
    found = [name for name in names if is_archive_name(name)]
    if not found:
        return None
    what = f"no images, but {count(len(found), 'archive')} in it ({some(found)})"
    if not is_archive and (remedy := how_to_read(f"{root}/{found[0]}")):
        return f"{what}; {posixpath.basename(found[0])} is {remedy}"
    return f"{what}; unpack {'it, and them in it' if is_archive else 'them'}, and give the folder"


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1][1:].lower()


def _is_tar(name: str) -> bool:
    stem, suffix = posixpath.splitext(name.lower())
    return suffix in (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst") or stem.endswith(".tar")
