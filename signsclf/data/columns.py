"""The columns of a CSV or Parquet file as text, exactly as written: '007' stays '007', 'NA' stays 'NA'."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from signsclf import images
from signsclf.errors import BadImageError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST_HEADER = 65_536


def column_names(path: str) -> list[str]:
    """Names of the columns, lower case, from the header alone, so that what follows it may be damaged.

    Raises:
        SourceError: the file cannot be read at all, is no Parquet file, or a library for that is missing.
    """
    data = _read(path)
    if path.lower().endswith(".parquet"):
        return [_folded(name) for name in _parquet(path, data, ()).column_names]
    header = data[:_LONGEST_HEADER].decode("utf-8-sig", "replace").splitlines()[:1]
    try:
        return [_folded(name) for row in csv.reader(header, delimiter=_delimiter(header)) for name in row]
    except csv.Error:
        return []


def read_columns(path: str, wanted: Collection[str]) -> dict[str, list[str]]:
    """Column name, lower case, to its values, an empty text where there is none.

    Args:
        path: a .csv (UTF-8, ',' or ';' between columns, a header) or .parquet file, or such a zip member.
        wanted: read these columns, as far as they are there; in lower case.

    Raises:
        SourceError: the file cannot be read as what its suffix says, or a library for it is missing.
    """
    data = _read(path)
    if path.lower().endswith(".parquet"):
        table = _parquet(path, data, wanted)
        names = [_folded(name) for name in table.column_names]
        _refuse_repeats(path, names)
        columns = zip(names, table.columns, strict=True)
        return {name: [_text(value) for value in column.to_pylist()] for name, column in columns}
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 (byte {error.start:,}); save it as CSV UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text.splitlines()[:1]))
    rows: list[list[str]] = []
    try:
        names = [_folded(name) for name in next(reader, [])]
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                line = f"{path}: line {reader.line_num:,}"
                raise SourceError(f"{line} has {len(row)} columns, the header {len(names)}; mend it")
            rows.append(row)
    except csv.Error as error:
        raise SourceError(f"{path}: line {reader.line_num:,} is no CSV ({error}); mend it") from error
    _refuse_repeats(path, [name for name in names if name in wanted])
    return {name: [row[i] for row in rows] for i, name in enumerate(names) if name in wanted}


def _read(path: str) -> bytes:
    try:
        return images.read(path)
    except BadImageError as error:
        raise SourceError(str(error)) from error


def _parquet(path: str, data: bytes, wanted: Collection[str]) -> pa.Table:
    """The wanted columns; for none of them an empty table with all columns."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SourceError(f"{path}: Parquet needs pyarrow; pip install 'signsclf[parquet]'") from error
    try:
        schema = pq.read_schema(pa.BufferReader(data))
        if not wanted:
            return schema.empty_table()
        chosen = [name for name in schema.names if _folded(name) in wanted]
        return pq.read_table(pa.BufferReader(data), columns=chosen)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"{path}: not a Parquet file that can be read ({reason}); write it again") from error


def _folded(name: str) -> str:
    return name.strip().casefold()


def _delimiter(header: list[str]) -> str:
    return ";" if header and header[0].count(";") > header[0].count(",") else ","


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _refuse_repeats(path: str, names: list[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise SourceError(f"{path}: {times} columns are called {name!r}; keep one")
