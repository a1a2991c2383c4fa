"""Read tables from files as columns of text, exactly as written: '007' stays '007', 'NA' stays 'NA'."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from signsclf import images
from signsclf.errors import BadImageError, SourceError, require_extra
from signsclf.files import is_remote, native_path
from signsclf.imagefiles.remote import native_file

if TYPE_CHECKING:
    import pyarrow as pa

SPACES = (
    " \t\n\r\v\f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
    "\u205f\u3000\u180e\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
)
"""Characters stripped from the ends of a value: spaces of any kind, line breaks, and characters without width."""

_DELIMITERS = "\t;|,"
_SEP_LINE = re.compile(r'"?sep=(.)"?[,;\t|]*', re.IGNORECASE)
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive or a spreadsheet (.xlsx, .ods), not text; save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "a spreadsheet (.xls), not text; save it as CSV UTF-8",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"version https://git-lfs": "a Git LFS pointer, not the table itself; run: git lfs pull",
    b"<!doctype": "a web page, not a table; download it again",
    b"<html": "a web page, not a table; download it again",
}
_MAX_HEADER_BYTES = 1024 * 1024
# csv's field limit is global to the process: only one thread at a time may raise it for a long cell.
_field_limit = threading.Lock()


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """A table as it was read, without blank rows.

    Attributes:
        path: of the file, or ``ARCHIVE.zip/member``.
        names: of the columns, stripped. If a text file has no header, they are its first row.
        rows: the number of rows.
        row_numbers: the number of each row in the file; None where they count from 1.
        unit: what ``row_numbers`` count: "line" (the header is line 1), "row" or "item".
        load: takes the index of a column and returns its values, "" for missing ones.
        types: pyarrow's types of a Parquet file's columns; empty for other files.
        kind: the name of the format if it is another program's own; or "".
        note: how the columns were changed when they were read; or "".
    """

    path: str
    names: tuple[str, ...]
    rows: int
    load: Callable[[int], list[str]]
    row_numbers: Sequence[int] | None = None
    unit: str = "line"
    types: tuple[Any, ...] = ()
    kind: str = ""
    note: str = ""

    def location(self, row: int) -> str:
        """Say where row ``row`` (from 0) is in the file: "line 7"."""
        return f"{self.unit} {self.row_numbers[row] if self.row_numbers is not None else row + 1:,}"

    def locations(self, rows: Sequence[int], most: int = 3) -> str:
        """Say where the first few rows are, and how many more there are: "lines 7, 9, 12 and 4 more"."""
        numbers = [f"{self.row_numbers[row] if self.row_numbers is not None else row + 1:,}" for row in rows[:most]]
        rest = f" and {len(rows) - most:,} more" if len(rows) > most else ""
        return f"{self.unit}{'s' * (len(rows) > 1)} {', '.join(numbers)}{rest}"

    def with_header(self) -> Sheet:
        """Return a table without a header: ``names`` becomes its first row, and the columns are numbered."""
        first, load, row_numbers = self.names, self.load, self.row_numbers or range(2, self.rows + 2)
        return Sheet(
            path=self.path,
            names=tuple(str(i + 1) for i in range(len(first))),
            rows=self.rows + 1,
            load=lambda i: [first[i], *load(i)],
            row_numbers=[row_numbers[0] - 1 if len(row_numbers) else 1, *row_numbers],
        )


def from_columns(path: str, columns: dict[str, list[str]], **arguments: Any) -> Sheet:
    """Make a sheet from columns in memory; other arguments as for `Sheet`."""
    lists = list(columns.values())
    return Sheet(
        path=path, names=tuple(columns), rows=len(lists[0]) if lists else 0, load=lists.__getitem__, **arguments
    )


def folded(name: str) -> str:
    """Normalise a column's name for comparison."""
    return name.strip(SPACES).casefold()


def is_blank(text: str) -> bool:
    """Tell whether a value is empty or only spaces."""
    return not text.strip(SPACES)


def column_names(path: str) -> list[str]:
    """Read the names of the columns, lower case, from the header alone; the rows may be damaged.

    Raises:
        SourceError: the file cannot be read at all, is not a Parquet file, or the library for it is missing.
    """
    return [folded(name) for name in header(path)]


def header(path: str) -> list[str]:
    """Read the first row of a text table, or a Parquet file's column names; empty for a file that is not a table.

    Raises:
        SourceError: as for `column_names`.
    """
    if path.lower().endswith(".parquet"):
        return list(_schema(path).names)
    data = read_bytes(path)
    whole = len(data) <= _MAX_HEADER_BYTES
    try:
        # The last character may be cut in half.
        text = decode_text(path, data) if whole else _decoder(data)(data[: _MAX_HEADER_BYTES // 4 * 4], "replace")
        rows = _first_rows(text)
    except (SourceError, csv.Error):
        return []
    return [name.strip(SPACES) for name in rows]


def read_columns(path: str, wanted: Collection[str]) -> dict[str, list[str]]:
    """Read some columns: name, in lower case, to values, "" for missing ones.

    Args:
        path: a text table (see `read_sheet`) with a header or a .parquet file, or such a zip member.
        wanted: names of the columns to read, in lower case; those that do not exist are ignored.

    Raises:
        SourceError: the file does not have the format of its suffix, or the library for it is missing.
    """
    sheet = read_sheet(path)
    names = [folded(name) for name in sheet.names]
    refuse_repeats(path, [name for name in names if name in wanted])
    return {name: sheet.load(i) for i, name in enumerate(names) if name in wanted}


def read_sheet(path: str) -> Sheet:
    """Read a text table with a header, or a .parquet file.

    Text is UTF-8, or UTF-16 with a byte order mark. Columns are separated by commas, semicolons, tabs or bars; without
    any of these the last space separates two columns. A first line such as ``sep=;`` is Excel's.

    Raises:
        SourceError: the file does not have the format of its suffix, or the library for it is missing.
    """
    if path.lower().endswith(".parquet"):
        return _parquet_sheet(path)
    text = decode_text(path, read_bytes(path))
    rows, row_numbers, delimiter = _rows(path, text)
    if not rows:
        return Sheet(path=path, names=(), rows=0, load=lambda i: [])
    names = [name.strip(SPACES) for name in rows[0]]
    while names and not names[-1]:
        names.pop()
    width = len(names)
    for i, row in enumerate(rows):
        if len(row) != width:
            if len(row) < width or any(not is_blank(cell) for cell in row[width:]):
                where = f"{path}: line {row_numbers[i]:,}"
                sign = f"; columns stand between {delimiter!r}" if delimiter else "; no separator was recognised"
                raise SourceError(f"{where} has {len(row)} columns, the header {width}{sign}; fix it")
            del row[width:]
    del rows[0], row_numbers[0]
    lists = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    return Sheet(path=path, names=tuple(names), rows=len(rows), load=lists.__getitem__, row_numbers=row_numbers)


def read_bytes(path: str) -> bytes:
    """Read a file's bytes.

    Raises:
        SourceError: it cannot be read, or is recognised as something other than a table.
    """
    try:
        data = images.read(path)
    except BadImageError as error:
        raise SourceError(str(error)) from error
    start = data[:64].lstrip().lower()
    for mark, what in _OTHER_FORMATS.items():
        if start.startswith(mark.lower()):
            raise SourceError(f"{path}: {what}")
    return data


def decode_text(path: str, data: bytes) -> str:
    """Decode text from UTF-8, or from UTF-16 or UTF-32 with a byte order mark.

    Raises:
        SourceError: it is neither; the message names the byte and its line.
    """
    try:
        text = _decoder(data)(data, "strict")
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        what = f"byte {error.start + 1:,} (0x{data[error.start]:02X}), in line {line:,}"
        raise SourceError(f"{path}: {what}, is not UTF-8; save it as CSV UTF-8") from error
    if "\0" in text:
        raise SourceError(f"{path}: not UTF-8 text, it has NUL characters; save it as CSV UTF-8")
    return text


def refuse_repeats(path: str, names: list[str]) -> None:
    """Refuse repeated column names.

    Raises:
        SourceError: a name is in the list twice.
    """
    for name, times in Counter(names).items():
        if times > 1:
            raise SourceError(f"{path}: {times} columns are called {name!r}; keep one")


def _decoder(data: bytes) -> Callable[[bytes, str], str]:
    marks = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((name for mark, name in marks.items() if data.startswith(mark)), "utf-8-sig")
    return lambda data, errors: str(data, encoding, errors)


def _lines(text: str) -> io.StringIO:
    """Split text at LF, CR LF or CR only; `str.splitlines` would split at other characters too."""
    return io.StringIO(text, newline="")


def _start(text: str) -> tuple[int, str | None]:
    """Return how many lines come before the first row, and the delimiter; None for a space."""
    skip, delimiter = 0, None
    for line in _lines(text):
        plain = line.strip("\r\n")
        found = _SEP_LINE.fullmatch(plain)
        if found and not skip:
            return 1, found[1]
        if is_blank(line):
            skip += 1
            continue
        outside = re.sub(r'"[^"]*"', "", plain)
        delimiter = max(_DELIMITERS, key=outside.count)
        return skip, delimiter if delimiter in outside else None
    return skip, delimiter


def _first_rows(text: str) -> list[str]:
    skip, delimiter = _start(text)
    lines = _lines(text)
    for _ in range(skip):
        next(lines)
    if delimiter is None:
        return next(lines, "").split(None, 1)
    return next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), [])


def _rows(path: str, text: str) -> tuple[list[list[str]], list[int], str | None]:
    """Return the rows that are not blank, the line on which each begins, and the delimiter."""
    skip, delimiter = _start(text)
    if delimiter is None:
        numbered = [(line.strip(SPACES), i) for i, line in enumerate(_lines(text), 1)]
        kept = [(line.rsplit(None, 1), i) for line, i in numbered if line and i > skip]
        return [row for row, _ in kept], [i for _, i in kept], None
    try:
        return (*_csv_rows(path, text, skip, delimiter), delimiter)
    except csv.Error:
        with _field_limit:
            before = csv.field_size_limit(max(len(text), csv.field_size_limit()))
            try:
                return (*_csv_rows(path, text, skip, delimiter), delimiter)
            except csv.Error as error:
                raise SourceError(f"{path}: not CSV ({error}); fix it") from error
            finally:
                csv.field_size_limit(before)


def _csv_rows(path: str, text: str, skip: int, delimiter: str) -> tuple[list[list[str]], list[int]]:
    lines = _lines(text)
    for _ in range(skip):
        next(lines)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    row_numbers: list[int] = []
    before = 0
    try:
        for row in reader:
            first, before = before, reader.line_num
            if not "".join(row).strip(SPACES):
                continue
            if before > first + 1 and _holds_rows(row, delimiter):
                raise _unclosed(path, text, skip + first, delimiter)
            rows.append(row)
            row_numbers.append(skip + first + 1)
    except csv.Error as error:
        if "field limit" in str(error):
            raise
        raise _unclosed(path, text, skip + before, delimiter) from error
    return rows, row_numbers


def _holds_rows(row: list[str], delimiter: str) -> bool:
    """Tell whether a multi-line cell has swallowed rows: one of its lines names an image and has other cells."""
    later = (line for cell in row for line in re.split("\r\n|\r|\n", cell)[1:])
    cells = (line.split(delimiter) for line in later)
    return any(len(parts) > 1 and any(images.is_image_name(part.strip(' "')) for part in parts) for parts in cells)


def _unclosed(path: str, text: str, skip: int, delimiter: str) -> SourceError:
    """Make the error for the first quotation mark, after ``skip`` lines, that is not closed where its column ends."""
    lines = _lines(text)
    for _ in range(skip):
        next(lines)
    rest = text[lines.tell() :]
    at = 0
    # A quotation mark opens a value only at the start of a column; inside a value a doubled one is text.
    opening = re.compile(rf'(?:^|(?<=[\r\n])|(?<={re.escape(delimiter)})) *"')
    closing = re.compile(r'(?:[^"]|"")*"(?!")', re.DOTALL)
    while found := opening.search(rest, at):
        closed = closing.match(rest, found.end())
        after = rest[closed.end() : closed.end() + 1] if closed else "x"
        if (after and after not in f"{delimiter}\r\n") or (closed and _holds_rows([closed[0]], delimiter)):
            line = skip + len(re.findall("\r\n|\r|\n", rest[: found.end()])) + 1
            remedy = 'close it, or write "" for a quotation mark in a quoted value'
            return SourceError(f"{path}: line {line:,}: a quotation mark opens a value and is not closed; {remedy}")
        at = closed.end() if closed else found.end()
    return SourceError(f"{path}: line {skip + 1:,} is not CSV; fix it")


def _pyarrow(path: str) -> Any:
    require_extra("parquet", f"{path}: a Parquet file")
    import pyarrow
    import pyarrow.parquet

    return pyarrow


def open_parquet(path: str) -> Any:
    """Open a Parquet file on disk or in an archive as pyarrow's ParquetFile.

    Raises:
        SourceError: it cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    pa = _pyarrow(path)
    try:
        # Of a file or an object only the requested parts are read; a member of an archive is read completely.
        if is_remote(path) and not images.split_archive(path):
            return pa.parquet.ParquetFile(native_file(path))
        on_disk = not images.has_scheme(path) and Path(path).is_file()
        return pa.parquet.ParquetFile(native_path(path) if on_disk else pa.BufferReader(read_bytes(path)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _no_parquet(path, error) from error


def _no_parquet(path: str, error: Exception) -> SourceError:
    reason = str(error).splitlines()[0]
    return SourceError(f"{path}: not a Parquet file that can be read ({reason}); write it again")


def _schema(path: str) -> pa.Schema:
    with open_parquet(path) as file:
        return file.schema_arrow


def _parquet_sheet(path: str) -> Sheet:
    pa = _pyarrow(path)
    with open_parquet(path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows
    names = tuple(name.strip(SPACES) for name in schema.names)

    def load(i: int) -> list[str]:
        # Opened again for each column: a data set may have more files than a process may hold open.
        with open_parquet(path) as file:
            try:
                # Names may repeat, and pyarrow takes a name with dots for a path into a struct.
                whole = schema.names.count(schema.names[i]) > 1
                table = file.read() if whole else file.read(columns=[schema.names[i]])
                return texts(table.column(i if table.num_columns > 1 else 0).to_pylist())
            except (pa.ArrowException, OSError, ValueError) as error:
                raise _no_parquet(path, error) from error

    classes = [_class_names(schema, name) for name in schema.names]

    def named(i: int) -> list[str]:
        """Replace class numbers by class names; -1 is Hugging Face's number for no label."""
        values = load(i)
        if not classes[i]:
            return values
        known = {str(number): name for number, name in enumerate(classes[i])}
        return [known.get(value, "" if value == "-1" else value) for value in values]

    return Sheet(path=path, names=names, rows=n, load=named, row_numbers=None, unit="row", types=tuple(schema.types))


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """Read the class names that Hugging Face's ``datasets`` stores in a file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def texts(values: Iterable[object]) -> list[str]:
    """Convert values to text; None and NaN become ""."""
    return ["" if value is None or value != value else str(value) for value in values]
