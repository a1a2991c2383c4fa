"""What a user names on the command line, as a stream of image paths in natural order."""

from __future__ import annotations

import glob
import heapq
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from signsclf import images
from signsclf.errors import BadImageError

_RUN = 4_000  # names sorted in memory at a time
_PAGE = 100  # names of a sorted run read back at a time


def expand(arguments: Iterable[str], recursive: bool = False, lines: Iterable[str] | None = None) -> Iterator[str]:
    """Image paths, one after another, in memory that does not grow with the number of files.

    Args:
        arguments: files as they are; folders, zip archives and folders in them for the images there, in
            natural order and without hidden ones; patterns with ``*``, ``?``, ``[…]`` or ``**``; "-" for
            ``lines``. One that leads to no image is given as it is, for the reader to say what is wrong.
        recursive: also the images in folders below.
        lines: further arguments, one a line, such as standard input.
    """
    for argument in arguments:
        if argument == "-" and lines is not None:
            named = (line.rstrip("\r\n") for line in lines)
            yield from expand((name for name in named if name and name != "-"), recursive)
            continue
        found = False
        for path in _one(argument, recursive):
            found = True
            yield path
        if not found:
            yield argument


def natural_key(name: str) -> tuple[Any, ...]:
    """A sorting key by which 9 comes before 10, and upper and lower case stand together."""
    # Digits compare as (length, text): int() refuses very long ones.
    parts = re.split(r"([0-9]+)", name.casefold())
    parts[1::2] = ((len(digits.lstrip("0")), digits.lstrip("0")) for digits in parts[1::2])
    return tuple(parts), name


def _one(argument: str, recursive: bool) -> Iterator[str]:
    path = Path(argument)
    if path.is_file():
        if path.suffix.lower() == ".zip":
            yield from _archive(argument, "", recursive)
        else:
            yield argument
    elif path.is_dir():
        yield from _folder(path, recursive)
    elif inside := images.split_archive(argument):
        yield from _archive(*inside, recursive)
    elif glob.has_magic(argument):
        for match in _sorted(glob.iglob(argument, recursive=True)):  # noqa: PTH207 - Path.glob refuses absolute ones
            yield from _one(match, recursive)


def _folder(root: Path, recursive: bool) -> Iterator[str]:
    # A stack, not recursion: folders may be nested deeper than Python's calls. `above` holds the real folders
    # that a folder lies in, against symbolic links that lead back up.
    stack = [(root, {root.resolve()}, _entries(root, recursive))]
    while stack:
        folder, above, entries = stack[-1]
        try:
            name = next(entries, None)
        except OSError:  # the reader of the path will say why
            yield str(folder)
            name = None
        if name is None:
            stack.pop()
        elif name.endswith("/"):
            below = folder / name
            if (real := below.resolve()) not in above:
                stack.append((below, above | {real}, _entries(below, recursive)))
        else:
            yield str(folder / name)


def _entries(folder: Path, recursive: bool) -> Iterator[str]:
    """Names of the images in a folder and, with a slash after them, of the folders."""

    def scan() -> Iterator[str]:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith("."):
                    continue
                if images.is_image_name(entry.name) and not entry.is_dir():
                    yield entry.name
                elif recursive and entry.is_dir():
                    yield entry.name + "/"

    return _sorted(scan())


def _archive(archive: str, prefix: str, recursive: bool) -> Iterator[str]:
    try:
        handle = images.open_archive(archive)
    except BadImageError:
        return
    if prefix in handle.NameToInfo and not prefix.endswith("/"):
        yield f"{archive}/{prefix}"
        return
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    for name in sorted(handle.namelist(), key=natural_key):
        if not name.startswith(prefix) or not images.is_image_name(name) or name.endswith("/"):
            continue
        folders = name[len(prefix) :].split("/")
        hidden = any(part.startswith((".", "__MACOSX")) for part in folders)
        if not hidden and (recursive or len(folders) == 1):
            yield f"{archive}/{name}"


def _sorted(names: Iterable[str], key: Callable[[str], Any] = natural_key) -> Iterator[str]:
    """Names in order; a great many go through a temporary file in sorted runs, which are then merged."""
    names = iter(names)
    run = sorted(islice(names, _RUN), key=key)
    if len(run) < _RUN:
        yield from run
        return
    with tempfile.TemporaryFile() as file:
        runs = []
        while run:
            pages = []
            for start in range(0, len(run), _PAGE):
                offset = file.tell()
                file.write(json.dumps(run[start : start + _PAGE]).encode())
                pages.append((offset, file.tell() - offset))
            runs.append(_pages(file, pages))
            run = sorted(islice(names, _RUN), key=key)
        yield from heapq.merge(*runs, key=key)


def _pages(file: BinaryIO, pages: list[tuple[int, int]]) -> Iterator[str]:
    for offset, length in pages:
        file.seek(offset)
        yield from json.loads(file.read(length))
