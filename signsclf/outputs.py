"""Recognise what this program wrote: it never reads that as data, and never replaces or deletes other files unasked.

Pictures have a metadata entry, pages name their generator, and tables have known first columns, so that they are
recognised wherever they are moved. A model folder is recognised by its config.json, and lists its files in SHA256SUMS;
the folder of an unfinished run is recognised by its run.json.

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import IO

from signsclf.errors import SignsclfError
from signsclf.files import file_hash, is_tmp_name, unix_text_hash, writes_directly

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
ONNX_INT8 = "model.int8.onnx"
LEARNER = "learner.pkl"
CARD = "README.md"
SUMS = "SHA256SUMS"
RUN = "run"
RECORD = "run.json"
CHECKPOINT = "checkpoint.pt"
UNFINISHED = (RECORD, CHECKPOINT, CHECKPOINT + ".new")
"""Files of an unfinished run, which a finished folder no longer has."""
GENERATOR = '<meta name="generator" content="signsclf">'
"""An element in the head of every HTML page."""

COUNT_FILES = ("class_counts.csv", "class_counts.png")
"""Files that a check of data writes."""
REPORT_FILES = (
    *("report.html", "report.json", "per_class.csv", "predictions.csv", "confusion.png", "mistakes.png"),
    *("breakdown.csv", "confusions.csv", "robustness.csv", "unknown.csv", "label_issues.csv", "duplicates.csv"),
)
"""Files that an evaluation's report may have."""
COMPARISON_FILES = ("comparison.csv", "comparison.json", "comparison.png", "comparison.html")
"""What a comparison of models writes into their parent folder."""
SEARCH_FILES = ("lr_find.json", "lr_find.png")
"""Files that a search for a learning rate writes."""

_OF_A_MODEL = {CONFIG, WEIGHTS, ONNX, ONNX + ".new", ONNX_INT8, LEARNER, CARD, SUMS, *UNFINISHED}
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_FILE_MANAGER_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")  # of file managers
_MAX_TEXT = 64_000_000
_HEAD = 16_384
_TEXTS = (".md", ".json", ".csv", ".txt")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = 33  # the signature, and the IHDR chunk that must follow it
_SNIFFED = (".png", ".html", ".csv", ".tsv", ".tab", ".parquet", ".json", ".jsonl", ".ndjson")

_CSV_HEADS = [
    columns.split()
    for columns in (
        "path label index probability accepted error",
        "path label predicted probability",
        "path label predicted_a probability_a predicted_b probability_b better",
        "path label group split input",
        "path label suggested probability_of_label",
        "path label training_path training_label",
        "path predicted probability accepted error",
        "label n precision recall f1",
        "label predicted n",
        "label images",
        "by part n right share low high",
        "corruption strength n accuracy",
        "name size epochs parameters bytes seconds n accuracy",
    )
]
"""The first columns of each table that this program writes."""
_TEXT = r'"(?:[^"\\]|\\.)*"'
_JSON = re.compile(
    # Predictions, none, a report, a search for a learning rate, a comparison.
    rf'\[?\s*\{{\s*"path": {_TEXT}, "label": (?:null|{_TEXT}), "index": (?:null|[0-9]+), "probability": '
    rf'|\[\s*\]\s*\Z|\{{\s*"split": {_TEXT},\s*"n": [0-9]+,|\{{\s*"lrs": \['
    rf'|\{{\s*"source": {_TEXT},\s*"n_classes": [0-9]+,\s*"n_train": '
)
_TABLE = re.compile(r"[^\n]+\n(?:    unreadable: |  [ 0-9]{3}\.[0-9]{2} %  )")
_PARQUET_COLUMNS = ("path", "label", "index", "probability", "accepted", "error", "top_k")
_TABLE_OF_PICTURE = {
    "class_counts.png": "class_counts.csv",
    "lr_find.png": "lr_find.json",
    "ladder.png": "ladder.csv",
    "confusion.png": "predictions.csv",
    "mistakes.png": "predictions.csv",
}
"""Pictures that earlier versions wrote without a metadata entry, to the table that they wrote with each."""


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


_MARK = _chunk(b"tEXt", b"Software\0signsclf")


def mark_png(data: bytes) -> bytes:
    """Add a metadata entry to a PNG file's bytes, by which `is_own_file` recognises it; its pixels stay the same."""
    return data[:_PNG_HEADER] + _MARK + data[_PNG_HEADER:]


def is_own_file(path: str | Path) -> bool:
    """Tell from a file's content whether this program wrote it; False if it cannot be read."""
    path = Path(path)
    try:
        if not path.is_file():
            return False
        if _is_own(path.name, lambda: path.open("rb")):
            return True
        other = path.with_name(_TABLE_OF_PICTURE.get(path.name, path.name))
        return other != path and other.is_file() and _is_own(other.name, lambda: other.open("rb"))
    except (OSError, ValueError):
        return False


def own_names(files: Mapping[str, str], open_file: Callable[[str], IO[bytes]]) -> set[str]:
    """Find the names in a listing that this program wrote: model folders, runs, tables, pictures.

    Args:
        files: name below a folder or in an archive, with forward slashes, to the argument of ``open_file``.
        open_file: opens a file for reading, seekable; a file that cannot be read is not this program's.
    """
    own: set[str] = set()
    names = sorted(files)
    for name in names:
        prefix, base = name[: name.rfind("/") + 1], name[name.rfind("/") + 1 :]
        if base not in (CONFIG, RECORD):
            continue

        def read(below: str, prefix: str = prefix) -> str:
            with open_file(files[prefix + below]) as file:
                return file.read(_MAX_TEXT).decode("utf-8", "replace")

        start = bisect_left(names, prefix)
        following = takewhile(lambda other, prefix=prefix: other.startswith(prefix), islice(names, start, None))
        inside = [other[len(prefix) :] for other in following]
        # A damaged file raises any error of its archive or decompressor; reading it later reports what is wrong.
        with contextlib.suppress(Exception):
            own.update(prefix + below for below in _claimed(inside, read))
    for name in names:
        if name not in own and name.lower().endswith(_SNIFFED):
            with contextlib.suppress(Exception):
                if _is_own(name, lambda name=name: open_file(files[name])):
                    own.add(name)
    for name in names:
        folder, base = name[: name.rfind("/") + 1], name[name.rfind("/") + 1 :]
        if base in _TABLE_OF_PICTURE and folder + _TABLE_OF_PICTURE[base] in own:
            own.add(name)
    return own


def is_model_folder(folder: Path) -> bool:
    """Tell whether a folder is a model folder that this program wrote, intact or damaged.

    Raises:
        OSError: the folder cannot be read.
    """
    names = [name for name in (CONFIG, SUMS) if (folder / name).is_file()]
    try:
        return SUMS in names and _is_own_json(CONFIG, names, lambda name: _read_text(folder / name))
    except ValueError:
        return False


def own_below(folder: Path) -> set[str]:
    """Name the files that this program wrote in a model or run folder; none in other folders.

    Links are not followed, and files that cannot be read are not included.
    """
    if not any((folder / name).is_file() for name in (CONFIG, RECORD)):
        return set()
    try:
        return _claimed(_walk(folder), lambda name: _read_text(folder / name))
    except (OSError, ValueError):
        return set()


def foreign_names(folder: Path) -> list[str]:
    """Name the files in a model or run folder that this program did not write, or that were changed since.

    Returns:
        Sorted names below ``folder``; a folder, ending in "/", stands for all its files if none is this program's.

    Raises:
        OSError: the folder cannot be listed.
    """
    names, own = _own_of_work(folder)
    return together([name for name in names if name not in own], names)


def delete_own(folder: Path) -> None:
    """Delete the files that this program wrote in a model or run folder, and folders that are then empty.

    Raises:
        OSError: a file cannot be deleted.
    """
    _, own = _own_of_work(folder)
    for name in own:
        (folder / name).unlink(missing_ok=True)
    for below, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(below).rmdir()


def refuse_replacing(
    path: str | Path, overwrite: bool = False, inputs: Collection[str | Path | int] = (), option: str = "--out"
) -> None:
    """Refuse to replace a file that this program did not write, an input, or a file of a model folder.

    A file that does not exist or is empty, a device and a pipe may be written.

    Args:
        path: the file to be written.
        overwrite: allow replacing a file that this program did not write; an input is never replaced.
        inputs: files that are read, by name or as open descriptors, and folders, of which every file is read that
            this program did not write; other names are ignored.
        option: the option with which the user gave the path.

    Raises:
        SignsclfError: the file must not be replaced.
    """
    path = Path(path)
    shown = f"{option} {path}"
    try:
        if writes_directly(path) or not path.exists():
            return
        if path.is_dir():
            raise SignsclfError(f"{shown}: a folder; name a file")
        status = path.stat()
        if any(_same_file(name, status) for name in inputs):
            raise SignsclfError(f"{shown}: it is read, so it is not written to as well; name another file")
        if (model := _model_of(Path(os.path.realpath(path)))) is not None:
            raise SignsclfError(f"{shown}: belongs to the model folder {model}; name a file elsewhere")
        if not status.st_size or is_own_file(path):
            return
        if folder := next((name for name in inputs if _lies_in(path, name)), None):
            raise SignsclfError(
                f"{shown}: exists, signsclf did not write it, and it lies in {folder}, which is read; name another file"
            )
        if overwrite:
            return
    except (OSError, ValueError) as error:
        raise SignsclfError(f"{shown}: cannot be checked ({error}); name another file") from error
    raise SignsclfError(
        f"{shown}: exists, and signsclf did not write it; name another file, or give --overwrite to replace it"
    )


def refuse_input(path: str | Path, output: str | Path, option: str = "--out") -> None:
    """Refuse to read a file that the output would replace, for inputs that become known one by one.

    Raises:
        SignsclfError: both are the same file.
    """
    try:
        status = Path(output).stat()
    except OSError:
        return
    if _same_file(path, status):
        raise SignsclfError(f"{option} {output}: it is read, so it is not written to as well; name another file")


def together(names: Collection[str], everything: Iterable[str]) -> list[str]:
    """Sort names, replacing all files of a folder by the folder, ending in "/", if none is missing; folders first."""
    chosen = set(names)
    counts: dict[str, int] = {}
    for name in everything:
        for folder in _folders_of(name):
            counts[folder] = counts.get(folder, 0) + (name not in chosen)
    merged = {next((folder for folder in _folders_of(name) if not counts.get(folder)), name) for name in chosen}
    return sorted(merged, key=lambda name: (not name.endswith("/"), name))


def _folders_of(name: str) -> list[str]:
    """List a file's parent folders, from the top, each with a slash at its end."""
    return [name[: i + 1] for i, letter in enumerate(name) if letter == "/"]


def _is_own(name: str, open_file: Callable[[], IO[bytes]]) -> bool:
    with open_file() as file:
        head = file.read(_PNG_HEADER + len(_MARK))
        if head.startswith(_PNG) or name.lower().endswith(".png"):
            return head.endswith(_MARK) and head.startswith(_PNG)
        if head.startswith(b"PAR1"):
            return _is_own_parquet(file)
        head += file.read(_HEAD - len(head))
        # Pages of earlier versions name the program at their end only.
        if head[:9].lower() == b"<!doctype":
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _HEAD))
            ours = (GENERATOR.encode(), b"<footer>Written by signsclf ", b"<title>The ladder of models</title>")
            return any(words in head + file.read() for words in ours)
    text = head.decode("utf-8", "replace")
    return _is_own_csv(text) or any(pattern.match(text) for pattern in (_JSON, _TABLE))


def _is_own_csv(text: str) -> bool:
    first, line_end, _ = text.partition("\n")
    # Spreadsheets may save it again with a byte order mark and other separators.
    columns = re.split("[,;\t]", first.lstrip("\ufeff").rstrip("\r").replace('"', ""))
    return bool(line_end) and any(columns[: len(head)] == head for head in _CSV_HEADS)


def _is_own_parquet(file: IO[bytes]) -> bool:
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(max(0, size - 8))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or length > min(size, _MAX_TEXT):
        return False
    file.seek(size - 8 - length)
    # The schema comes first: thrift's compact protocol writes each name after its length.
    columns = b".*?".join(bytes([len(name)]) + name.encode() for name in _PARQUET_COLUMNS)
    return re.search(columns, file.read(length)[:4096], re.DOTALL) is not None


def _claimed(names: Collection[str], read: Callable[[str], str]) -> set[str]:
    """Select the names that are this program's if a folder is a model or run folder; none otherwise.

    Raises:
        OSError, ValueError: a file that shows it cannot be read.
    """
    own: set[str] = set()
    if SUMS in names and _is_own_json(CONFIG, names, read):
        own.update({SUMS, *_listed(read(SUMS))}.intersection(names))
    if _is_own_json(RECORD, names, read):
        own.update(name for name in names if name in _OF_A_MODEL or name.startswith(f"{RUN}/"))
    return own


def _is_own_json(name: str, names: Collection[str], read: Callable[[str], str]) -> bool:
    """Tell whether config.json or run.json exists and is this program's."""
    keys = {CONFIG: {"signsclf"}, RECORD: {"recipe", "fingerprint"}}[name]
    return name in names and keys <= set(_object(read(name)))


def _own_of_work(folder: Path) -> tuple[list[str], set[str]]:
    """List all names in a model or run folder, and those that this program may delete."""
    names = _walk(folder)
    ours, sums = set(_OF_A_MODEL), {}
    for teller in (CONFIG, RECORD):
        with contextlib.suppress(ValueError):
            if _is_own_json(teller, names, lambda name: _read_text(folder / name)):
                continue
        ours.discard(teller)
    if CONFIG in ours and SUMS in names:
        sums = _listed(_read_text(folder / SUMS))
    unlisted_run = not sums or RECORD in names
    own = set()
    for name in names:
        known = name in ours or name in sums or (unlisted_run and name.startswith(f"{RUN}/"))
        if known and sums.get(name) and name.endswith(_TEXTS) and not _unchanged(folder / name, sums[name]):
            continue
        base = name.rpartition("/")[2]
        if known or is_tmp_name(base) or base in _FILE_MANAGER_FILES or is_own_file(folder / name):
            own.add(name)
    return names, own


def _unchanged(path: Path, digest: str) -> bool:
    """Tell whether a text file is unchanged, ignoring line ends, which Git converts on Windows."""
    return digest in (file_hash(path), unix_text_hash(path, _MAX_TEXT))


def _listed(text: str) -> dict[str, str]:
    """Parse SHA256SUMS: name to digest."""
    matches = (_SUM_LINE.fullmatch(line) for line in text.splitlines())
    return {match[2]: match[1] for match in matches if match is not None}


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value if isinstance(value, dict) else {}


def _model_of(path: Path) -> Path | None:
    """Find the model folder that a file belongs to, if there is one."""
    for folder in path.parents:
        if (folder / CONFIG).is_file() and (folder / SUMS).is_file():
            name = path.relative_to(folder).as_posix()
            return folder if name == SUMS or name in own_below(folder) else None
    return None


def _walk(folder: Path) -> list[str]:
    """List the names of all files and links below a folder, hidden ones too.

    Raises:
        OSError: a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    names = []
    for below, folders, files in os.walk(folder, onerror=fail):
        links = [name for name in folders if (Path(below) / name).is_symlink()]
        names += [Path(below, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(names)


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_TEXT).decode("utf-8", "replace")


def _lies_in(path: Path, folder: str | Path | int) -> bool:
    if isinstance(folder, int):
        return False
    try:
        return Path(folder).is_dir() and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):
        return False


def _same_file(name: str | Path | int, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(name), status)  # noqa: PTH116 - an input may be a descriptor
    except (OSError, ValueError):
        return False
