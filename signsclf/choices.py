"""Choices that decide no weights, apart from what uses them, so that the command line can name them at no cost."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, fields
from enum import Enum

from signsclf.errors import SignsclfError


class Choice(str, Enum):
    """A choice whose text is its value: what the command line shows and takes, in every release of Typer."""

    def __str__(self) -> str:
        return str(self.value)


class Layout(Choice):
    """How a source lies on disk."""

    GTSRB = "gtsrb"
    KAGGLE = "gtsrb-kaggle"
    FOLDERS = "folders"
    TABLE = "table"
    SYNTHETIC = "synthetic"


DEEPEST_CLASS_LEVEL = 50


@dataclass(frozen=True)
class Reading:
    """How a source is to be read; what is None is recognised.

    Attributes:
        layout: what the source must be.
        class_level: how many folders below the source, 1 to 50, the class folders lie; means class folders.
        zip_encoding: of names in a zip archive that are not marked as UTF-8: a codec of Python's, such as cp932.
        path_column, label_column: of a table, by name or number from 1; mean a table.
        merge_case: labels that differ by case or spaces alone are one class.

    Raises:
        SignsclfError: the class level is out of range or belongs to no class folders, columns to no table, or there
            is no such encoding.
    """

    layout: Layout | None = None
    class_level: int | None = None
    zip_encoding: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    merge_case: bool = False

    def __post_init__(self) -> None:
        if self.class_level is not None:
            if not 1 <= self.class_level <= DEEPEST_CLASS_LEVEL:
                raise SignsclfError(
                    f"--class-level: {self.class_level} is not 1 to {DEEPEST_CLASS_LEVEL}; 1 is right below SOURCE"
                )
            if self.layout not in (None, Layout.FOLDERS):
                raise SignsclfError(f"--class-level is of class folders; leave out --layout {self.layout.value}")
            object.__setattr__(self, "layout", Layout.FOLDERS)
        for name in ("path", "label"):
            if getattr(self, f"{name}_column") is not None:
                if self.layout not in (None, Layout.TABLE):
                    raise SignsclfError(f"--{name}-column is of a table; leave out --layout {self.layout.value}")
                object.__setattr__(self, "layout", Layout.TABLE)
        if self.zip_encoding is not None:
            try:
                codecs.lookup(self.zip_encoding)
                "".encode(self.zip_encoding)  # refuses codecs that are not of text, such as hex
            except (LookupError, ValueError) as error:
                raise SignsclfError(
                    f"--zip-encoding: {self.zip_encoding!r} is no encoding of text; such are cp932, gbk, cp850, cp1251"
                ) from error

    def flags(self) -> list[str]:
        """The options of the command line that ask for this."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.class_level or self.path_column or self.label_column:
            del given["layout"]  # these say so
        found: list[str] = []
        for name, value in given.items():
            if value is not None and value is not False:
                text = value.value if isinstance(value, Enum) else str(value)
                found += [f"--{name.replace('_', '-')}", *([] if value is True else [text])]
        return found


class SplitName(Choice):
    """Which images of a source are judged."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


class Format(Choice):
    """How predictions are written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


FORMATS = {
    ".txt": Format.TABLE,
    ".json": Format.JSON,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
}
"""Suffix of a file of predictions, in lower case, to its format."""


class Provider(Choice):
    """Where an exported model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Int8Policy(Choice):
    """Whether model.int8.onnx is written."""

    NONE = "none"
    CHECKED = "checked"  # unless it loses too much
    FORCE = "force"
