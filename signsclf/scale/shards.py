"""One shard of a batch job: from its rows to the bytes of its part, which depend on the plan and the model alone."""

from __future__ import annotations

import errno
import io
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from signsclf import images
from signsclf.errors import BadImageError, SignsclfError
from signsclf.files import is_remote, is_tmp_name, write_atomic
from signsclf.inference.classifier import Classifier, open_image, stream_paths
from signsclf.inference.writers import parquet_schema, record_of
from signsclf.scale.manifest import Rows, Stamp, Stamps
from signsclf.scale.plan import Plan

_PART = re.compile(r"part-([0-9]{6,})\.parquet")
_KEY = b"signsclf"
_TRANSIENT = frozenset({errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE, errno.ENETRESET})
"""Errors of network file systems under load, which may be over in a moment."""
_PAUSES = (0.1, 0.5, 2.0)  # seconds, each up to twice as long, so that workers do not come back together

Reading = Callable[[int], AbstractContextManager[object]]
"""Entered around the reading of the image with this place in its shard."""


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What a part says of itself.

    Attributes:
        plan: the digest of the plan.
        shard: its number.
        rows: images.
        errors: how many could not be read, by the kind of failure.
        seconds: when it was written, since the epoch.
    """

    plan: str
    shard: int
    rows: int
    errors: dict[str, int]
    seconds: float


def part_path(plan: Plan, shard: int) -> Path:
    """Return the one place of a shard's part."""
    return plan.folder / f"part-{shard:06}.parquet"


def parts_in(plan: Plan) -> dict[int, Path]:
    """Return the parts in the folder by their shards, in order; what a killed process left half-written is deleted."""
    found = {}
    for path in plan.folder.iterdir():
        if match := _PART.fullmatch(path.name):
            found[int(match[1])] = path
        elif is_tmp_name(path.name) and time.time() - path.stat().st_mtime > 3600:
            path.unlink(missing_ok=True)
    return dict(sorted(found.items()))


def predict_rows(
    classifier: Classifier, rows: Rows, plan: Plan, reading: Reading, killers: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Predict a shard's images.

    Args:
        reading: entered around the reading of each image.
        killers: rows that are not read again, by their place, and what happened.

    Returns:
        A row for each image, in order, as `signsclf.inference.writers.record_of` gives it.
    """
    places = {path: place for place, path in enumerate(rows.paths)}
    stamps = Stamps()

    def read(path: str) -> np.ndarray[Any, Any]:
        place = places[path]
        if place in killers:
            raise BadImageError(f"{path}: {killers[place]}")
        with reading(place):
            _refuse_change(path, rows.stamps[place], stamps.of(path))
            return images.resize(_opened(path), classifier.size)

    return [record_of(prediction) for prediction in stream_paths(classifier, rows.paths, read, top_k=plan.top_k)]


def _refuse_change(path: str, planned: Stamp, found: Stamp) -> None:
    if planned != found and found != (None, None):
        raise BadImageError(f"{path}: changed since the plan was made")


def _opened(path: str) -> Any:
    """Open an image; what a busy file system could not give at once is asked for again, as stores are already."""
    for pause in () if is_remote(path) else _PAUSES:
        try:
            return open_image(path)
        except BadImageError as error:
            if getattr(error.__cause__, "errno", None) not in _TRANSIENT:
                raise
        time.sleep(pause * random.uniform(1, 2))
    return open_image(path)


def part_bytes(plan: Plan, shard: int, first: int, records: list[dict[str, Any]]) -> bytes:
    """Make the Parquet file of a shard; ``first`` is the number of its first row."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = Counter(kind_of(r["error"], r["path"]) for r in records if r["error"] is not None)
    said = {"plan": plan.digest, "shard": shard, "errors": dict(sorted(kinds.items()))}
    schema = parquet_schema().insert(0, pa.field("row", pa.int64()))
    schema = schema.with_metadata({_KEY: json.dumps(said, ensure_ascii=False).encode()})
    for place, record in enumerate(records):
        record["row"] = first + place
    sink = io.BytesIO()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        writer.write_table(pa.Table.from_pylist(records, schema))
    return sink.getvalue()


def kind_of(error: str, path: str) -> str:
    """Shorten an error to its kind: without the path, and what is said in brackets."""
    return re.split(r"[(;:]", error.removeprefix(f"{path}: "), maxsplit=1)[0].strip()[:80]


def write_part(plan: Plan, shard: int, data: bytes) -> None:
    """Put a part in its place, atomically.

    Raises:
        SignsclfError: it cannot be written.
    """
    write_atomic(part_path(plan, shard), data)


def read_footer(path: Path) -> Footer:
    """Read what a part says of itself.

    Raises:
        SignsclfError: it is damaged, or no part.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        seconds = path.stat().st_mtime
        with parquet.ParquetFile(path) as opened:
            said = json.loads(opened.schema_arrow.metadata[_KEY])
            rows = opened.metadata.num_rows
        return Footer(
            plan=said["plan"], shard=said["shard"], rows=rows, errors=dict(said["errors"]), seconds=seconds
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise SignsclfError(f"{path}: damaged, or no part of a batch; delete it and run the batch again") from error
