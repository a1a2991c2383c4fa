"""Images inside a Parquet file, as in Hugging Face's data sets: each row has a path of its own."""

from __future__ import annotations

import bisect
import itertools
import os
import re
import threading
from collections import OrderedDict
from typing import Any

from signsclf.data.columns import open_parquet
from signsclf.errors import BadImageError, SourceError
from signsclf.files import is_remote

SCHEME = "parquet"

_PATH = re.compile(rf"{SCHEME}:(.+)/([^/]+)/([0-9]+)", re.DOTALL)
_MAX_GROUP_BYTES = 1024**3
"""The largest row group, in bytes of images; a group has to be held in memory completely."""
_GROUPS_KEPT = 3
_FILES_KEPT = 4

_lock = threading.Lock()
_groups: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_files: OrderedDict[str, tuple[tuple[int, ...], Any, list[int]]] = OrderedDict()


def image_part(kind: Any) -> str | None:
    """Find the part of a column with encoded images: ".bytes" of a struct, "" of plain bytes; None for other types."""
    import pyarrow as pa

    def is_bytes(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    if is_bytes(kind):
        return ""
    if pa.types.is_struct(kind) and any(field.name == "bytes" and is_bytes(field.type) for field in kind):
        return ".bytes"
    return None


def row_path(file: str, column: str, row: int) -> str:
    """Return the path by which `signsclf.images` reads the image in a row (from 0) of a Parquet file."""
    return f"{SCHEME}:{file}/{column}/{row + 1:06}"


def refuse_large_groups(file: str, column: str) -> None:
    """Refuse a file with row groups too large to be held in memory.

    Raises:
        SourceError: there is such a group.
    """
    with open_parquet(file) as handle:
        metadata = handle.metadata
    for group in range(metadata.num_row_groups):
        parts = (metadata.row_group(group).column(i) for i in range(metadata.num_columns))
        group_bytes = sum(p.total_uncompressed_size for p in parts if p.path_in_schema.split(".")[0] == column)
        if group_bytes > _MAX_GROUP_BYTES:
            raise SourceError(
                f"{file}: a row group with {group_bytes:,} bytes of images, at most {_MAX_GROUP_BYTES:,}; write it "
                "again with fewer rows a group: pyarrow.parquet.write_table(table, FILE, row_group_size=100)"
            )


def read(path: str) -> bytes:
    """Read the encoded image of a `row_path`.

    The last row groups are kept in memory, shared by all threads, so that consecutive rows are read once.

    Raises:
        BadImageError: there is no such row, it holds no image, or the file cannot be read.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise BadImageError(f"{path}: not a row of a Parquet file")
    file, column, row = found[1], found[2], int(found[3]) - 1
    with _lock:
        try:
            stat_key, handle, ends = _opened(file)
            group = bisect.bisect_right(ends, row)
            if row < 0 or group == len(ends):
                raise BadImageError(f"{path}: the file has no such row")
            key = (file, stat_key, column, group)
            if key not in _groups:
                part = image_part(handle.schema_arrow.field(column).type)
                _groups[key] = handle.read_row_group(group, columns=[f"{column}{part or ''}"]).column(0)
                while len(_groups) > _GROUPS_KEPT:
                    _groups.popitem(last=False)
            _groups.move_to_end(key)
            value = _groups[key][row - (ends[group - 1] if group else 0)].as_py()
        except (OSError, ValueError, KeyError, SourceError) as error:  # pyarrow's own errors derive from these
            raise BadImageError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    value = value.get("bytes") if isinstance(value, dict) else value
    if not value:
        raise BadImageError(f"{path}: the row holds no image")
    return bytes(value)


def _opened(file: str) -> tuple[tuple[int, ...], Any, list[int]]:
    """Open a file or take its open handle; return a key of its state, the handle, and where each row group ends."""
    # With the process id: after a fork, parent and child would share one file position.
    stat_key: tuple[int, ...] = (os.getpid(),)
    if not is_remote(file):
        stat = os.stat(file)  # noqa: PTH116 - once for every image read
        stat_key += (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if file not in _files or _files[file][0] != stat_key:
        handle = open_parquet(file)
        sizes = (handle.metadata.row_group(i).num_rows for i in range(handle.metadata.num_row_groups))
        _files[file] = (stat_key, handle, list(itertools.accumulate(sizes)))
        if len(_files) > _FILES_KEPT:
            _files.popitem(last=False)[1][1].close()
    _files.move_to_end(file)
    return _files[file]
