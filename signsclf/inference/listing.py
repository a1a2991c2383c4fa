"""Expand the arguments of a command line to a stream of image paths in natural order."""

from __future__ import annotations

import codecs
import glob
import locale
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from signsclf import images, outputs
from signsclf.errors import BadImageError, SignsclfError
from signsclf.files import is_remote, refuse_credentials, user_path
from signsclf.imagefiles import remote
from signsclf.imagefiles.hidden import HIDDEN_FILES, hidden_images, hidden_text, hiding_part, is_hidden
from signsclf.imagefiles.kinds import HEAD, Sniffer, is_image_name, read_head, skipped_text, suffix_of, why_unread
from signsclf.text import count, expand_braces, natural_key

_LIST_BLOCK = 65_536
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_LONGEST_NAME = 1_000_000
_LOOKED_AT = 1_000  # folders of which a message tells at most


def expand(
    arguments: Iterable[str],
    recursive: bool = False,
    listed: Iterable[str] | None = None,
    skipped: Counter[str] | None = None,
    hidden: Counter[str] | None = None,
    left_out: Callable[[str], object] | None = None,
) -> Iterator[str]:
    """Yield image paths one after another; only the names in the current folders are held in memory.

    Args:
        arguments: files, which are yielded unchanged; folders, archives and folders in them, for the images in
            them in natural order, without hidden ones and those that this program wrote; patterns with ``*``, ``?``,
            ``[…]`` or ``**``; "-" for ``listed``. An argument without any image is yielded unchanged, so that
            reading it reports what is wrong.
        recursive: include the images in subfolders.
        listed: further arguments, such as `listed_names` of standard input.
        skipped: counts, by suffix, the images in folders and archives whose format is not read.
        hidden: counts the images that were skipped in each hidden folder, or as hidden files.
        left_out: called with the path of each image that was skipped because this program wrote it.
    """
    for argument in arguments:
        if argument == "-" and listed is not None:
            yield from expand(listed, recursive, skipped=skipped, hidden=hidden, left_out=left_out)
            continue
        listing = _Listing(recursive, left_out or _ignore)
        found = False
        for path in listing.find(argument):
            found = True
            yield path
        if not found:
            yield argument
        elif skipped is not None:
            skipped.update(listing.skipped)
        if hidden is not None:
            hidden.update(listing.hidden)


def why_no_image(path: str) -> str | None:
    """Describe a path that leads to no image, and what to do; None where the error of reading it says enough.

    A folder or archive is described by its content.
    """
    if is_remote(path):
        return None
    if os.path.isdir(path):  # noqa: PTH112 - Path's raises for names that are too long
        try:
            with os.scandir(path) as entries:
                hidden = {entry.name: n for entry in entries if is_hidden(entry.name) and (n := hidden_images(entry))}
            files = []
            for _, folders, inside in islice(os.walk(path), _LOOKED_AT):
                folders[:] = [name for name in folders if not is_hidden(name)]
                files += [name for name in inside if not is_hidden(name)]
        except OSError as error:
            return f"a folder that cannot be listed ({error.strerror or error})"
        if hidden and not any(map(is_image_name, files)):
            return f"a folder of hidden images alone: {hidden_text(hidden)}"
        return _why("folder", files)
    if os.path.isfile(path):  # noqa: PTH113
        return _why_archive(path, "") if images.is_archive(path) else None
    if inside := images.split_archive(path):
        return _why_archive(*inside)
    if os.path.islink(path):  # noqa: PTH114
        return "a broken link; fix it"
    return "no file matches this pattern; check it" if glob.has_magic(path) else None


def _why_archive(archive: str, prefix: str) -> str | None:
    try:
        names = [name for name in images.open_archive(archive).namelist() if name.startswith(prefix)]
    except BadImageError as error:
        return str(error).removeprefix(f"{archive}: ")
    is_member = not prefix or any(name.startswith(prefix.rstrip("/") + "/") for name in names)
    return _why("archive", [name for name in names if not name.endswith("/")]) if is_member else None


def _why(what: str, names: list[str]) -> str:
    if any(is_image_name(name) for name in names):
        return f"no images in this {what} itself, but in folders further down; --recursive takes them too"
    if unread := [suffix for suffix in map(suffix_of, names) if why_unread(suffix)]:
        return f"no image in this {what} can be read: {skipped_text(unread)}"
    return f"no images in this {what}, only {count(len(names), 'other file')}" if names else f"an empty {what}"


def listed_names(source: BinaryIO) -> Iterator[str]:
    """Yield file names from a list as they arrive: one per line, or each followed by NUL as ``find -print0`` writes.

    Names may be any bytes, as on disk. A UTF-8 byte order mark is skipped; UTF-16, which Windows editors and shells
    write, is decoded.

    Args:
        source: its ``read(n)`` returns what has arrived, 1 to n bytes; none at the end.

    Raises:
        SignsclfError: it is an image, damaged UTF-16, or has a line of over a million characters.
    """
    data = source.read(_LIST_BLOCK)
    # The first bytes show the encoding; a pipe may deliver them one at a time.
    while len(data) < 3 and b"\n" not in data:
        block = source.read(_LIST_BLOCK)
        if not block:
            break
        data += block
    if data.startswith(_IMAGE_STARTS):
        raise SignsclfError("standard input: an image, where - reads a list of file names; give the name of its file")
    encoding, errors = _list_encoding(data)
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    end, rest = "", ""
    while True:
        try:
            rest += decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise SignsclfError("standard input: a damaged list in UTF-16; save it as UTF-8") from error
        # A name cannot have a NUL, but it can have line breaks.
        end = end or next((sign for sign in "\0\n" if sign in rest), "")
        names = rest.split(end) if end else [rest]
        rest = names.pop() if data else ""
        for name in names:
            name = name.removesuffix("\r") if end == "\n" else name
            if name and name != "-":
                yield _as_named_on_disk(name)
        if not data:
            return
        if len(rest) > _LONGEST_NAME:
            raise SignsclfError("standard input: a line of over a million letters; give a list of files, one a line")
        data = source.read(_LIST_BLOCK)


def _list_encoding(start: bytes) -> tuple[str, str]:
    """Return the codec of a list and its error handler, from the first bytes."""
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16", "strict"
    if len(start) > 1 and 0 in start[:2]:
        return "utf-16-be" if start[0] == 0 else "utf-16-le", "strict"
    return "utf-8-sig", "surrogateescape"


def _as_named_on_disk(name: str) -> str:
    """Convert a decoded name to the form in which Python names the file."""
    if name.isascii():
        return name
    data = name.encode("utf-8", "surrogateescape")
    if os.name == "nt":
        # Names are text on Windows; a list that is not UTF-8 is in the system's encoding.
        return (
            name if data == name.encode("utf-8", "replace") else data.decode(locale.getpreferredencoding(), "replace")
        )
    return os.fsdecode(data)


def _ignore(path: str) -> None:
    """Do nothing with what this program wrote."""


class _Listing:
    """Finds the images that an argument leads to.

    Attributes:
        skipped: suffixes of images whose format is not read.
        hidden: number of images in each hidden folder, or in hidden files.
    """

    def __init__(self, recursive: bool, left_out: Callable[[str], object]) -> None:
        self.recursive, self._left_out = recursive, left_out
        self.skipped: Counter[str] = Counter()
        self.hidden: Counter[str] = Counter()
        self._sniffer = Sniffer()

    def find(self, argument: str, is_named: bool = True) -> Iterator[str]:
        """Yield an argument's images; a file matched by a pattern (not ``is_named``) may be this program's own."""
        refuse_credentials(argument)
        if is_remote(argument):
            yield from self._remote(argument)
            return
        try:
            path = user_path(argument)
        except SignsclfError:  # a web address or an unknown home folder: reading the path reports it
            return
        argument = str(path) if argument.startswith("~") else argument
        # Unlike Path's methods, these never raise, whatever the name.
        if os.path.isfile(argument):  # noqa: PTH113
            if images.is_archive(argument):
                yield from self._archive(argument, "")
            elif is_named or not outputs.is_own_file(argument):
                yield argument
            else:
                self._left_out(argument)
        elif os.path.isdir(argument):  # noqa: PTH112
            yield from self._folder(path)
        elif inside := images.split_archive(argument):
            yield from self._archive(*inside)
        elif len(shards := expand_braces(argument)) > 1:
            for shard in shards:
                # One that is missing is named, so that reading it reports that.
                yield from self.find(shard) if os.path.exists(shard) else [shard]  # noqa: PTH110
        elif glob.has_magic(argument):
            for match in sorted(glob.iglob(argument, recursive=True), key=natural_key):  # noqa: PTH207 - Path.glob refuses absolute ones
                yield from self.find(match, is_named=False)

    def _folder(self, root: Path) -> Iterator[str]:
        # A stack, not recursion: folders may be nested deeper than Python's calls. `ancestors` holds the real folders
        # that a folder lies in, against symbolic links that lead back up; `own` is what models and runs list.
        stack = [(root, {root.resolve()}, _own_paths(root), self._entries(root))]
        while stack:
            folder, ancestors, own, entries = stack[-1]
            try:
                name = next(entries, None)
            except OSError:  # reading the folder's path reports why
                yield str(folder)
                name = None
            if name is None:
                stack.pop()
            elif name.endswith("/"):
                below = folder / name
                if (real := below.resolve()) not in ancestors:
                    stack.append((below, ancestors | {real}, own | _own_paths(below), self._entries(below)))
            else:
                path = str(folder / name)
                if path in own or (name.lower().endswith(".png") and outputs.is_own_file(path)):
                    self._left_out(path)
                else:
                    yield path

    def _remote(self, address: str) -> Iterator[str]:
        """Yield the images that an address in a store leads to."""
        try:
            entry = remote.look(address)
        except OSError:  # reading the address reports it
            return
        try:
            if entry is None:
                if inside := images.split_archive(address):
                    yield from self._archive(*inside)
                elif len(shards := expand_braces(address)) > 1:
                    for shard in shards:
                        yield from self._remote(shard)
                return
            if not entry.is_folder:
                yield from self._archive(address, "") if images.is_archive(address) else [address]
                return
            found = sorted(remote.entries(address, self.recursive), key=lambda entry: natural_key(entry.address))
        except OSError as error:
            raise SignsclfError(
                f"{address}: cannot be listed ({error.strerror or error}); check your rights"
            ) from error
        for entry in found:
            path = entry.address
            hides, counted_for = hiding_part(path[len(address.rstrip("/")) + 1 :].split("/"))
            if counted_for and not entry.is_folder:
                self.hidden[f"{address}/{counted_for}"] += 1
            if not (hides or entry.is_folder) and self._is_image(path, lambda path=path: images.head(path, HEAD)):
                yield path

    def _entries(self, folder: Path) -> Iterator[str]:
        """Yield the names of the images in a folder and, with a slash appended, of its subfolders."""

        def scan() -> Iterator[str]:
            with os.scandir(folder) as found:
                for entry in found:
                    if is_hidden(entry.name):
                        if (self.recursive or not _is_folder(entry)) and (n := hidden_images(entry)):
                            self.hidden[entry.path if _is_folder(entry) else str(folder / HIDDEN_FILES)] += n
                        continue
                    if _is_folder(entry):
                        if self.recursive:
                            yield entry.name + "/"
                    elif not _is_special(entry) and self._is_image(entry.name, lambda path=entry.path: read_head(path)):
                        yield entry.name

        yield from sorted(scan(), key=natural_key)

    def _archive(self, archive: str, prefix: str) -> Iterator[str]:
        try:
            handle = images.open_archive(archive)
        except BadImageError:
            return
        if prefix in handle.NameToInfo and not prefix.endswith("/"):
            yield f"{archive}/{prefix}"
            return
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        own = outputs.own_names({name: name for name in handle.namelist() if name.startswith(prefix)}, handle.open)
        for name in sorted(handle.namelist(), key=natural_key):
            if not name.startswith(prefix) or name.endswith("/"):
                continue
            folders = name[len(prefix) :].split("/")
            hides, counted_for = hiding_part(folders)
            if counted_for and (self.recursive or len(folders) == 1):
                self.hidden[f"{archive}/{prefix}{counted_for}"] += 1
            if hides or not (self.recursive or len(folders) == 1) or not self._is_image(name):
                continue
            if name in own:
                self._left_out(f"{archive}/{name}")
            else:
                yield f"{archive}/{name}"

    def _is_image(self, name: str, head: Callable[[], bytes] | None = None) -> bool:
        found = is_image_name(name) if head is None else self._sniffer.look(name, head)
        if not found and why_unread(suffix_of(name)):
            self.skipped[suffix_of(name)] += 1
        return found


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which reading it reports
        return False


def _is_special(entry: os.DirEntry) -> bool:
    """Tell whether it is a pipe, a socket or a device, from which reading may block for ever."""
    try:
        return not entry.is_file() and not stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a broken link, which reading it reports
        return False


def _own_paths(folder: Path) -> frozenset[str]:
    return frozenset(str(folder / name) for name in outputs.own_below(folder))
