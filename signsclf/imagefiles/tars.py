"""Read tar archives in place: their members are indexed once, and each is then read as a part of the file."""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from typing import IO, ClassVar, NamedTuple

_MAX_HEADERS = 1 << 20
"""Bytes of the headers before one member, such as long names: tarfile reads as much as they declare."""


class TarMember(NamedTuple):
    """A file or, with a name that ends in '/', a folder; with those attributes of `zipfile.ZipInfo` that are read."""

    filename: str
    file_size: int
    offset: int

    flag_bits: ClassVar[int] = 0
    compress_type: ClassVar[int] = zipfile.ZIP_STORED

    def is_dir(self) -> bool:
        """Tell whether it is a folder."""
        return self.filename.endswith("/")


class TarArchive:
    """An uncompressed tar archive; with those methods of `zipfile.ZipFile` that are needed to read it.

    Files and folders only: links, devices and sparse files are not members. Threads may share it.

    Args:
        file: opened for reading, seekable; it belongs to the archive from now on.

    Attributes:
        NameToInfo: name to member; of several members of one name the last.
        links: number of links, which are not followed.

    Raises:
        ValueError: it is no tar archive, or a damaged one.
        OSError: it cannot be read.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._lock = file, threading.Lock()
        self.NameToInfo: dict[str, TarMember] = {}
        self.links = 0
        self._members: list[TarMember] = []
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            self._index()
        except tarfile.TarError as error:
            raise ValueError(str(error)) from error

    def _index(self) -> None:
        headers = _Headers(self._file)
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8") as archive:  # type: ignore[call-overload]
            end = -1
            while (member := archive.next()) is not None:
                # A negative size would lead back to where it came from.
                if archive.offset <= end or member.offset_data + member.size > self._size:
                    raise tarfile.ReadError("it ends too early")
                end = archive.offset
                headers.left = _MAX_HEADERS
                archive.members.clear()  # type: ignore[attr-defined]  # a thousand bytes each
                self.links += member.issym() or member.islnk()
                if member.isdir() or (member.isreg() and member.sparse is None):  # type: ignore[attr-defined]
                    self._add(member)
            self._file.seek(archive.offset)
            # tarfile takes any other header that is damaged for the end.
            if self._file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("a damaged header")

    def _add(self, member: tarfile.TarInfo) -> None:
        name = member.name
        while name.startswith("./"):
            name = name[2:]
        if member.isdir():
            name = f"{name.rstrip('/')}/"
        found = TarMember(name, 0 if member.isdir() else member.size, member.offset_data)
        self._members.append(found)
        self.NameToInfo[name] = found

    def infolist(self) -> list[TarMember]:
        """Return all members, in order."""
        return self._members

    def namelist(self) -> list[str]:
        """Return the names of all members, in order."""
        return [member.filename for member in self._members]

    def getinfo(self, name: str) -> TarMember:
        """Return a member by its name.

        Raises:
            KeyError: there is none.
        """
        return self.NameToInfo[name]

    def open(self, member: str | TarMember) -> IO[bytes]:
        """Open a member for reading, seekable.

        Raises:
            KeyError: there is none of this name.
        """
        found = self.NameToInfo[member] if isinstance(member, str) else member
        return io.BufferedReader(_Part(self, found))

    def read_into(self, view: memoryview, offset: int) -> int:
        """Read bytes from an offset into the file; return how many were read."""
        with self._lock:
            self._file.seek(offset)
            return int(self._file.readinto(view))  # type: ignore[attr-defined]


class _Headers:
    """A file of which only so much is read as headers may have: ``left`` bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.left = file, _MAX_HEADERS
        self.tell, self.seek = file.tell, file.seek

    def read(self, n: int) -> bytes:
        self.left -= n
        if self.left < 0:
            raise tarfile.ReadError("a header of over a million bytes")
        return self._file.read(n)


class _Part(io.RawIOBase):
    """A member's bytes."""

    def __init__(self, archive: TarArchive, member: TarMember) -> None:
        self._archive, self._member = archive, member  # the archive, which is closed with its last reference
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._member.file_size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)[: max(0, self._member.file_size - self._at)]  # type: ignore[arg-type]
        n = self._archive.read_into(view, self._member.offset + self._at)
        self._at += n
        return n
