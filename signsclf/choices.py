"""Choices that do not influence the weights. They stand apart from their users, so that the command line loads fast."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, fields
from enum import Enum

from signsclf.errors import SignsclfError


class Choice(str, Enum):
    """A choice whose text is its value, which is what every version of Typer shows and takes."""

    def __str__(self) -> str:
        return str(self.value)


class Tracker(Choice):
    """Where training runs are compared; each value is the module that it needs."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


class Layout(Choice):
    """The layout of a source on disk."""

    GTSRB = "gtsrb"
    KAGGLE = "gtsrb-kaggle"
    FOLDERS = "folders"
    TABLE = "table"
    SYNTHETIC = "synthetic"


DEEPEST_CLASS_LEVEL = 50


@dataclass(frozen=True)
class Reading:
    """How to read a source; what is None is recognised.

    Attributes:
        layout: of the source.
        class_level: depth of the class folders below the source, 1 to 50; implies `Layout.FOLDERS`.
        zip_encoding: Python codec, such as cp932, of the names in a zip archive that are not marked as UTF-8.
        path_column, label_column: of a table, by name or by number from 1; imply `Layout.TABLE`.
        merge_case: make one class of labels that differ only in case or spaces.

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
                    f"--class-level: {self.class_level} is not 1 to {DEEPEST_CLASS_LEVEL}; 1 means right in SOURCE"
                )
            if self.layout not in (None, Layout.FOLDERS):
                raise SignsclfError(f"--class-level: only for class folders; leave out --layout {self.layout.value}")
            object.__setattr__(self, "layout", Layout.FOLDERS)
        for name in ("path", "label"):
            if getattr(self, f"{name}_column") is not None:
                if self.layout not in (None, Layout.TABLE):
                    raise SignsclfError(f"--{name}-column: only for tables; leave out --layout {self.layout.value}")
                object.__setattr__(self, "layout", Layout.TABLE)
        if self.zip_encoding is not None:
            try:
                codecs.lookup(self.zip_encoding)
                "".encode(self.zip_encoding)  # refuses codecs that are not for text, such as hex
            except (LookupError, ValueError) as error:
                raise SignsclfError(
                    f"--zip-encoding: {self.zip_encoding!r} is not a text encoding; try cp932, gbk, cp850 or cp1251"
                ) from error

    def flags(self) -> list[str]:
        """Return the command-line options that give this reading."""
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
    """The split of a source to evaluate."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


class Format(Choice):
    """The format of written predictions."""

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
"""Format of a predictions file by its suffix in lower case."""


class Engine(Choice):
    """What runs the workers of a batch job."""

    LOCAL = "local"
    RAY = "ray"


class Provider(Choice):
    """The device that an exported model runs on."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Int8Policy(Choice):
    """Whether to write model.int8.onnx."""

    NONE = "none"
    CHECKED = "checked"  # unless it loses too much accuracy
    FORCE = "force"
