"""Write a stream of predictions as a table, JSON, JSON lines, CSV or Parquet, row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from signsclf.choices import Format
from signsclf.errors import require_extra
from signsclf.text import file_text, visible

if TYPE_CHECKING:
    from signsclf.inference.classifier import Prediction

_COLUMNS = ("path", "label", "index", "probability", "accepted", "error")
_PARQUET_ROWS = 10_000


def write(predictions: Iterable[Prediction], sink: TextIO, form: Format, top_k: int) -> None:
    """Write predictions as text, each as soon as it arrives; `write_parquet` writes the binary format.

    Args:
        top_k: the largest number of classes of a prediction, which decides the columns of the CSV.
    """
    if form is Format.CSV:
        _csv(predictions, sink, top_k)
    else:
        {Format.TABLE: _table, Format.JSON: _json, Format.JSONL: _jsonl}[form](predictions, sink)


def write_parquet(predictions: Iterable[Prediction], sink: BinaryIO) -> None:
    """Write predictions to a Parquet file in groups of ten thousand rows.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    require_extra("parquet", "--format parquet")
    import pyarrow as pa
    from pyarrow import parquet

    schema = parquet_schema()
    with parquet.ParquetWriter(sink, schema) as writer:
        rows: list[dict[str, Any]] = []
        for prediction in predictions:
            rows.append(record_of(prediction))
            if len(rows) == _PARQUET_ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))


def parquet_schema() -> Any:
    """Return the pyarrow schema of the rows that `record_of` gives."""
    import pyarrow as pa

    pair = pa.struct([("label", pa.string()), ("probability", pa.float64())])
    return pa.schema(
        [
            ("path", pa.string()),
            ("label", pa.string()),
            ("index", pa.int64()),
            ("probability", pa.float64()),
            ("accepted", pa.bool_()),
            ("error", pa.string()),
            ("top_k", pa.list_(pair)),
        ]
    )


def record_of(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as the row that every format writes."""
    record = prediction.to_dict()
    record["top_k"] = [{"label": label, "probability": p} for label, p in prediction.top_k]
    # File names may hold bytes that are not UTF-8; they are written as escapes.
    for name in ("path", "error"):
        if record[name] is not None:
            record[name] = file_text(record[name]).encode("utf-8", "backslashreplace").decode()
    return record


def _json(predictions: Iterable[Prediction], sink: TextIO) -> None:
    sink.write("[")
    for number, prediction in enumerate(predictions):
        sink.write((",\n " if number else "\n ") + json.dumps(record_of(prediction), ensure_ascii=False))
    sink.write("\n]\n")


def _jsonl(predictions: Iterable[Prediction], sink: TextIO) -> None:
    for prediction in predictions:
        sink.write(json.dumps(record_of(prediction), ensure_ascii=False) + "\n")


def _csv(predictions: Iterable[Prediction], sink: TextIO, top_k: int) -> None:
    writer = csv.writer(sink, lineterminator="\n")
    other_columns = [f"{name}_{k}" for k in range(2, top_k + 1) for name in ("label", "probability")]
    writer.writerow([*_COLUMNS, *other_columns])
    for prediction in predictions:
        record = record_of(prediction)
        other_cells = [value for pair in prediction.top_k[1:top_k] for value in pair]
        cells = ["" if record[name] is None else record[name] for name in _COLUMNS] + other_cells
        writer.writerow(cells + [""] * (len(_COLUMNS) + len(other_columns) - len(cells)))


def _table(predictions: Iterable[Prediction], sink: TextIO) -> None:
    for prediction in predictions:
        name = visible(prediction.path)
        if prediction.error is not None:
            sink.write(f"{name}\n    unreadable: {visible(prediction.error)}\n")
            continue
        doubt = "   not accepted: below the model's threshold" if prediction.accepted is False else ""
        sink.write(f"{name}{doubt}\n")
        for label, probability in prediction.top_k:
            sink.write(f"  {100 * probability:6.2f} %  {visible(label)}\n")
