"""Prepares a run again: from its source, or from what the run holds where the source is gone."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from signsclf.choices import Layout
from signsclf.data.cache import Cache, Decoded, fingerprint, open_entry, streamed_from
from signsclf.data.rows import make_table
from signsclf.data.split import Split
from signsclf.data.table import Source
from signsclf.data.tree import some
from signsclf.errors import BadImageError, ModelError, SourceError
from signsclf.files import is_remote
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.runs.folder import Held, Record
from signsclf.runs.prepare import Plan, Prepared, prepare, read_plan
from signsclf.runs.teachers import seen_by_teachers
from signsclf.training import architectures
from signsclf.training.learner import choose_device


def restore(partial: Path, record: Record, cache: Cache | None, observer: Observer, leave: int = 0) -> Prepared:
    """Prepare a run again: bit for bit what it trained on.

    Images that are gone, one or all, are taken from the cache's entry that the run decoded to, while it is there.

    Args:
        partial: the run's folder.
        record: its request may name another place of the same images.
        cache, leave: see `signsclf.data.cache.decode_all`.

    Raises:
        SourceError: images have changed, or are gone and held nowhere.
        ModelError: the run's folder is damaged.
    """
    request, rows = record.request, _read_rows(partial)
    then = {row["path"]: row["input"] for row in rows}
    try:
        planned = read_plan(request.source, request.reading, record.recipe, observer)
        now = {planned.source.relative(path) for path in planned.source.table["path"]}
        if then.keys() <= now:
            prepared = prepare(planned, request.skip_bad, observer, cache, leave=leave)
            if prepared.fingerprint == record.fingerprint:
                return prepared
            now = dict(zip(prepared.names, prepared.decoded.inputs, strict=True))
            other = [name for name, digest in now.items() if then.get(name) != digest]
            lost = [name for name in then if name not in now]
        else:
            other, lost = [name for name in now if name not in then], [name for name in then if name not in now]
        trouble = f"{request.source}: {len(lost):,} of the run's {len(then):,} images are gone ({some(lost)})"
    except (SourceError, BadImageError) as error:
        other, lost, trouble = [], list(then), str(error)
    if other or not lost:
        which = f" ({some(sorted(other))})" if other else ""
        raise SourceError(
            f"{request.source}: its images have changed since the run began{which}; put back those that it began with, "
            "or start the training anew"
        )
    held = record.held and _held(partial, record, record.held, rows)
    if not held:
        raise SourceError(
            f"{trouble}; the run is kept: resume it once they are back, or name their new place with --source"
        )
    observer.say(f"warning: {trouble}; resuming with the {len(rows):,} images as this run decoded them")
    return held


def follow(partial: Path, record: Record, processes: int, observer: Observer) -> Prepared:
    """Prepare what another process has prepared and recorded, from the cache's entry that it decoded to, if any.

    Args:
        processes: how many train together.

    Raises:
        SourceError, ModelError: see `restore`.
    """
    if held := record.held and _held(partial, record, record.held, _read_rows(partial)):
        return held
    cache = record.held and streamed_from(Path(record.held.entry))
    return restore(partial, record, cache or Cache(streams=None, processes=processes), observer)


def _held(partial: Path, record: Record, held: Held, rows: list[dict[str, str]]) -> Prepared | None:
    """Prepare from split.csv and the cache's entry; None where that is gone, or is of other images."""
    recipe, request = record.recipe, record.request
    decoded = open_entry(Path(held.entry), recipe.size)
    if decoded is None:
        return None
    kept = [row for row in range(len(decoded.digests)) if row not in decoded.unreadable]
    if decoded.unreadable:
        decoded = decoded.take(kept)
    names, labels = [row["path"] for row in rows], [row["label"] for row in rows]
    if len(decoded.digests) != len(rows) or fingerprint(names, labels, decoded.digests) != record.fingerprint:
        return None
    choose_device(recipe.device)
    return _assemble(partial, record, held, rows, decoded, _posix(request.source))


def _posix(source: str) -> str:
    return source if is_remote(source) else Path(source).as_posix()


def _assemble(
    partial: Path, record: Record, held: Held, rows: list[dict[str, str]], decoded: Decoded, root: str
) -> Prepared:
    names = tuple(row["path"] for row in rows)
    table = make_table(
        [(f"{root}/{row['path']}", row["label"], row["split"], row["group"] or None, None) for row in rows]
    )
    layout = Layout(held.layout)
    source = Source(
        root=root,
        layout=layout,
        table=table,
        classes=held.classes,
        is_gtsrb=held.is_gtsrb,
        origin=root,
        roi_image_wh=(None,) * len(rows),
    )
    plan = Plan(
        source=replace(source, reading=record.request.reading),
        recipe=record.recipe,
        arch=architectures.find_architecture(record.recipe.arch),
        reasons={},
    )
    split = Split(table=table, held_out_here=False, not_evaluated=(), groups_in_both_splits=0)
    return Prepared(
        plan=plan,
        split=split,
        names=names,
        decoded=decoded,
        skipped=tuple(_read_skipped(partial).items()),
        fingerprint=record.fingerprint,
        n_seen_by_teacher=seen_by_teachers(record.recipe, held.classes, split, decoded),
    )


def _read_rows(partial: Path) -> list[dict[str, str]]:
    path = partial / modelfolder.RUN / "split.csv"
    if not path.exists():
        # A bare run that was killed at its very end: the source alone tells.
        return []
    rows = _read_csv(path)
    if not rows or not rows[0].keys() >= {"path", "label", "group", "split", "input"}:
        raise ModelError(f"{path}: damaged; start the training anew")
    return rows


def _read_skipped(partial: Path) -> dict[str, str]:
    path = partial / modelfolder.RUN / "skipped.csv"
    return {row["path"]: row["reason"] for row in _read_csv(path)} if path.is_file() else {}


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ModelError(f"{path}: cannot be read ({error}); start the training anew") from error
