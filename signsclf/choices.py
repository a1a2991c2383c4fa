"""Choices that decide no weights, apart from what uses them, so that the command line can name them at no cost."""

from __future__ import annotations

from enum import Enum


class Layout(str, Enum):
    """How a source lies on disk."""

    GTSRB = "gtsrb"
    KAGGLE = "gtsrb-kaggle"
    FOLDERS = "folders"
    TABLE = "table"
    SYNTHETIC = "synthetic"


class Part(str, Enum):
    """Which images of a source are judged."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


class Format(str, Enum):
    """How predictions are written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class Provider(str, Enum):
    """Where an exported model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Int8(str, Enum):
    """Whether model.int8.onnx is written."""

    NONE = "none"
    CHECKED = "checked"  # unless it loses too much
    FORCE = "force"
