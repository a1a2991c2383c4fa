"""The list of a batch job's images: a Parquet file, one row group a shard, sorted by path."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from signsclf import images
from signsclf.data.annotations import JSON_SUFFIXES, read_annotations
from signsclf.data.columns import read_sheet
from signsclf.data.parquetimages import SCHEME, image_part, refuse_large_groups, row_path
from signsclf.data.roles import find_roles
from signsclf.errors import BadImageError, SignsclfError
from signsclf.files import is_remote, open_output
from signsclf.imagefiles import remote
from signsclf.text import file_text

Stamp: TypeAlias = tuple[int | None, int | None]
"""Of a file: its bytes, and when it was changed, in nanoseconds; nothing of a file that cannot be found."""
TABLES = (".csv", ".tsv", ".txt", ".parquet", *JSON_SUFFIXES)
_BLOCK = 65_536  # rows that are held as Python objects


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The images of a shard, row for row.

    Attributes:
        first: the number of the first row in the whole list, from 0.
        paths: for `signsclf.images`.
        stamps: of the files when they were listed.
    """

    first: int
    paths: list[str]
    stamps: list[Stamp]


def listed_in(table: str, path_column: str | None = None) -> Iterator[str]:
    """Yield the paths in a table's column, or those of the images in it; relative ones are of the table's folder.

    Raises:
        SourceError: the table cannot be read, or has no column of paths.
    """
    sheet = read_annotations(table) if table.lower().endswith(JSON_SUFFIXES) else read_sheet(table)
    column = find_roles(sheet, {}, path=path_column, labelled=False).path
    if sheet.types and image_part(sheet.types[column]) is not None:
        refuse_large_groups(table, sheet.names[column])
        for row in range(sheet.rows):
            yield row_path(table, sheet.names[column], row)
        return
    folder = os.path.dirname(table)  # noqa: PTH120 - a Path for each of a million rows
    for text in sheet.load(column):
        if is_remote(text):
            yield text
        elif is_remote(folder):
            yield f"{folder}/{text}"
        else:
            yield os.path.normpath(os.path.join(folder, text))  # noqa: PTH118


class Stamps:
    """Looks up the stamp of each path; of an image inside another file, that file's, which is asked for once."""

    def __init__(self) -> None:
        self._outer: dict[str, Stamp] = {}
        self._listed: dict[str, remote.Entry] | None = None

    def list_objects(self, paths: Iterable[str]) -> None:
        """Look up the objects in stores among some paths by their folders: one by one would take a request for each.

        Raises:
            SignsclfError: a folder cannot be listed.
        """
        objects = [path for path in paths if is_remote(path) and self._outer_file(path) is None]
        try:
            self._listed = remote.look_all(objects)
        except OSError as error:
            raise SignsclfError(f"{objects[0]} and its like cannot be listed ({error.strerror or error})") from error

    def of(self, path: str) -> Stamp:
        """Return the stamp of an image's file."""
        outer = self._outer_file(path)
        if outer is None:
            if self._listed is not None and is_remote(path):
                entry = self._listed.get(path)
                return (None, None) if entry is None else (entry.size, entry.mtime_ns)
            return _stamp(path)
        if outer not in self._outer:
            self._outer[outer] = _stamp(outer)
        return self._outer[outer]

    @staticmethod
    def _outer_file(path: str) -> str | None:
        if images.has_scheme(path):
            return path.removeprefix(f"{SCHEME}:").rsplit("/", 2)[0]
        with suppress(BadImageError):
            inside = images.split_archive(path)
            return inside[0] if inside else None
        return None


def _stamp(path: str) -> Stamp:
    try:
        if is_remote(path):
            entry = remote.look(path)
            return (None, None) if entry is None else (entry.size, entry.mtime_ns)
        found = os.stat(path)  # noqa: PTH116 - a million times
    except (OSError, ValueError):
        return None, None
    return found.st_size, found.st_mtime_ns


def write_manifest(paths: Iterable[str], file: Path, shard_rows: int) -> tuple[int, int]:
    """Write the manifest of these paths, each once, sorted; columns shard, row, path, size, mtime_ns.

    ``raw`` has the bytes of a name that is no UTF-8, whose ``path`` is written with escapes.

    Returns:
        The rows, and how many paths were named more than once.

    Raises:
        SignsclfError: there are no paths, or the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    kinds = pa.schema(
        [("path", pa.large_string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("raw", pa.binary())]
    )
    table = pa.Table.from_batches(_blocks(paths, kinds), kinds)
    if not table.num_rows:
        raise SignsclfError("no images there; name folders, archives, files, or a table with a column of paths")
    # By the raw name too, so that two names that are written alike have an order.
    table = table.sort_by([("path", "ascending"), ("raw", "ascending")]).combine_chunks()
    key = pc.if_else(pc.is_null(table["raw"]), pc.cast(table["path"], pa.large_binary()), table["raw"])
    key = key.combine_chunks() if isinstance(key, pa.ChunkedArray) else key
    repeats = pc.equal(key[1:], key[:-1])
    repeated = pc.sum(repeats).as_py() or 0
    if repeated:
        table = table.filter(pa.concat_arrays([pa.array([True]), pc.invert(repeats)]))
    n = table.num_rows
    full = kinds.insert(0, pa.field("row", pa.int64())).insert(0, pa.field("shard", pa.int32()))
    with open_output(file) as sink, parquet.ParquetWriter(sink, full, compression="zstd") as writer:
        for shard, start in enumerate(range(0, n, shard_rows)):
            part = table.slice(start, shard_rows)
            numbers = pa.array(range(start, start + part.num_rows), pa.int64())
            shards = pa.array([shard] * part.num_rows, pa.int32())
            writer.write_table(pa.table([shards, numbers, *part.columns], full), row_group_size=shard_rows)
    return n, repeated


def _blocks(paths: Iterable[str], kinds: Any) -> Iterator[Any]:
    import pyarrow as pa

    stamps = Stamps()
    rest = iter(paths)
    while block := list(itertools.islice(rest, _BLOCK)):
        stamps.list_objects(block)
        rows = []
        for path in block:
            shown = file_text(path).encode("utf-8", "backslashreplace").decode()
            rows.append((shown, *stamps.of(path), None if shown == path else os.fsencode(path)))
        columns = zip(*rows, strict=True)
        yield pa.record_batch([pa.array(c, kind.type) for c, kind in zip(columns, kinds, strict=True)], kinds)


def read_rows(file: Path, shard: int) -> Rows:
    """Read one shard's rows.

    Raises:
        SignsclfError: the file cannot be read, or has no such shard.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            table = opened.read_row_group(shard)
    except (OSError, IndexError, pa.ArrowException) as error:
        raise SignsclfError(f"{file}: shard {shard:,} cannot be read ({error}); make the plan again") from error
    shown, raw = table["path"].to_pylist(), table["raw"].to_pylist()
    return Rows(
        first=table["row"][0].as_py(),
        paths=[path if name is None else os.fsdecode(name) for path, name in zip(shown, raw, strict=True)],
        stamps=list(zip(table["size"].to_pylist(), table["mtime_ns"].to_pylist(), strict=True)),
    )
