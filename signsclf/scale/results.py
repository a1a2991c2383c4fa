"""What a batch job has done: its status, whether it is whole, and what its predictions look like."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from signsclf.errors import SignsclfError
from signsclf.files import json_bytes, write_atomic
from signsclf.model.folder import read_config
from signsclf.scale.claims import claims_in
from signsclf.scale.plan import MANIFEST, SUCCESS, Plan
from signsclf.scale.shards import Footer, parts_in, read_footer

RECENT_SECONDS = 600.0
"""Of which the rate is taken."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a batch job is.

    Attributes:
        rows: images in all.
        done: images in parts that are there.
        shards: in all.
        parts: that are there.
        claimed: shards that are worked on.
        errors: images that could not be read, by the kind of failure, the most frequent first.
        rate: images a second of the last ten minutes; None where nothing came.
        seconds_left: at that rate.
    """

    rows: int
    done: int
    shards: int
    parts: int
    claimed: int
    errors: dict[str, int]
    rate: float | None
    seconds_left: float | None

    @property
    def failures(self) -> int:
        """How many images could not be read."""
        return sum(self.errors.values())


class Watcher:
    """Looks at a job again and again; the footer of each part is read once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._footers: dict[int, Footer] = {}

    def status(self) -> Status:
        """Look at the job.

        Raises:
            SignsclfError: a part is damaged, or of another plan.
        """
        plan = self._plan
        parts = parts_in(plan)
        for shard, path in parts.items():
            if shard not in self._footers:
                footer = read_footer(path)
                _check_footer(plan, shard, path, footer)
                self._footers[shard] = footer
        footers = [self._footers[shard] for shard in parts]
        errors: Counter[str] = Counter()
        for footer in footers:
            errors.update(footer.errors)
        done = sum(footer.rows for footer in footers)
        rate = _rate(footers)
        return Status(
            rows=plan.rows, done=done, shards=plan.shards, parts=len(footers), claimed=claims_in(plan.folder),
            errors=dict(errors.most_common()), rate=rate,
            seconds_left=(plan.rows - done) / rate if rate and done < plan.rows else None,
        )  # fmt: skip


def _rate(footers: list[Footer]) -> float | None:
    """Take images a second from the times at which parts came; the first of them only starts the clock."""
    now = time.time()
    recent = sorted((f for f in footers if now - f.seconds < RECENT_SECONDS), key=lambda footer: footer.seconds)
    if len(recent) < 2:
        return None
    seconds = recent[-1].seconds - recent[0].seconds
    return sum(footer.rows for footer in recent[1:]) / seconds if seconds > 0 else None


def _check_footer(plan: Plan, shard: int, path: Path, footer: Footer) -> None:
    if footer.plan != plan.digest or footer.shard != shard:
        raise SignsclfError(f"{path}: a part of another plan; delete it and run the batch again")
    if shard >= plan.shards or footer.rows != plan.rows_of(shard):
        raise SignsclfError(f"{path}: has {footer.rows:,} rows, which are not the plan's; delete it and run again")


def verify(plan: Plan, tell: Callable[[int, int], None] = lambda done, total: None) -> Status:
    """Check that each image of the manifest is in one part, once, in order; then write _SUCCESS.

    Reads one shard at a time.

    Args:
        tell: called with the shards checked and all of them.

    Raises:
        SignsclfError: something is missing, damaged, or not the plan's.
    """
    import pyarrow as pa
    from pyarrow import parquet

    parts = parts_in(plan)
    if lacking := [shard for shard in range(plan.shards) if shard not in parts]:
        raise SignsclfError(
            f"{plan.folder}: {len(lacking):,} of {plan.shards:,} parts are missing, the first is number "
            f"{lacking[0]:,}; run the batch again"
        )
    hashes = hashlib.sha256()
    last: tuple[Any, ...] = ()
    for shard, path in parts.items():
        _check_footer(plan, shard, path, read_footer(path))
        try:
            table = parquet.read_table(path, columns=["row", "path"])
        except (OSError, pa.ArrowException) as error:
            raise SignsclfError(f"{path}: damaged ({error}); delete it and run the batch again") from error
        with parquet.ParquetFile(plan.folder / MANIFEST) as manifest:
            planned = manifest.read_row_group(shard, columns=["row", "path", "raw"])
        paths = planned["path"].to_pylist()
        if table["row"].to_pylist() != planned["row"].to_pylist() or table["path"].to_pylist() != paths:
            raise SignsclfError(f"{path}: its rows are not those of the plan; delete it and run the batch again")
        # As they were sorted: a name that is no UTF-8 comes before another one that is written like it.
        keys = [(p, raw is None, raw or b"") for p, raw in zip(paths, planned["raw"].to_pylist(), strict=True)]
        if any(one >= other for one, other in itertools.pairwise([last, *keys])):
            raise SignsclfError(f"{plan.folder / MANIFEST}: has an image twice; make the plan again in a new folder")
        last = keys[-1]
        hashes.update(hashlib.sha256(path.read_bytes()).digest())
        tell(shard + 1, plan.shards)
    status = Watcher(plan).status()
    said = {
        "plan": plan.digest, "model": plan.model_digest, "rows": plan.rows, "parts": plan.shards,
        "parts_sha256": hashes.hexdigest(), "errors": status.errors,
    }  # fmt: skip
    write_atomic(plan.folder / SUCCESS, json_bytes(said))
    return status


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the predictions of a job look like.

    Attributes:
        rows: images that are predicted.
        errors: images that could not be read.
        labels: images of each predicted class, the most frequent first.
        rejected: share of the predictions below the model's threshold; None where it has none.
        confidence: mean probability of the predicted class; None without predictions.
        reference: the same two of images that the model had not seen, from its folder; None where it tells none.
    """

    rows: int
    errors: int
    labels: dict[str, int]
    rejected: float | None
    confidence: float | None
    reference: dict[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as JSON values."""
        return asdict(self)


def summarise(plan: Plan) -> Summary:
    """Count over all parts that are there, one at a time.

    Raises:
        SignsclfError: a part is damaged, or of another plan; or none is there.
    """
    labels: Counter[str] = Counter()
    errors = rejected = rated = 0
    confidence = 0.0
    for table in _tables(plan):
        for label, accepted, probability in zip(*(table[c].to_pylist() for c in table.column_names), strict=True):
            if label is None:
                errors += 1
                continue
            labels[label] += 1
            confidence += probability
            rated += accepted is not None
            rejected += accepted is False
    n = labels.total()
    if not n and not errors:
        raise SignsclfError(f"{plan.folder}: no part is there; run the batch first")
    return Summary(
        rows=n, errors=errors, labels=dict(labels.most_common()), rejected=rejected / rated if rated else None,
        confidence=confidence / n if n else None, reference=_reference(Path(plan.model)),
    )  # fmt: skip


def _tables(plan: Plan) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    for shard, path in parts_in(plan).items():
        _check_footer(plan, shard, path, read_footer(path))
        try:
            yield parquet.read_table(path, columns=["label", "accepted", "probability"])
        except (OSError, pa.ArrowException) as error:
            raise SignsclfError(f"{path}: damaged ({error}); delete it and run the batch again") from error


def _reference(model: Path) -> dict[str, float] | None:
    """Read from a model folder the share rejected and the accuracy, to which calibrated confidences should come."""
    figures = read_config(model).figures
    held_out = figures.get("holdouts") or figures.get("valid") or {}
    found = {}
    if "accepted" in (figures.get("calibration") or {}):
        found["rejected"] = 1 - float(figures["calibration"]["accepted"])
    if "accuracy" in held_out:
        found["accuracy"] = float(held_out["accuracy"])
    return found or None
