"""What training starts from: the recipe resolved for a source, then its images decoded and split."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from signsclf import images
from signsclf.choices import Layout, Reading
from signsclf.data.cache import Cache, Decoded, decode_all, fingerprint
from signsclf.data.copies import contradictions, group_named_copies, group_repeats, same_files
from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.data.labels import refuse_labels
from signsclf.data.nearduplicates import describe_all, group_near_duplicates, names_of_groups
from signsclf.data.rows import is_missing, with_columns
from signsclf.data.split import Split, hold_out
from signsclf.data.table import Source, apply_crop, describe, read_source
from signsclf.errors import BadImageError, SignsclfError, SourceError
from signsclf.export.int8 import CALIBRATION_IMAGES
from signsclf.export.onnx import PARITY_IMAGES
from signsclf.files import user_path
from signsclf.metrics.classification import evenly_spaced
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.recipe import NAMED_WEIGHTS, Crop, Device, Flip, Recipe, Solver, SplitBy
from signsclf.runs.resolve import Facts, choose_arch, resolve
from signsclf.runs.teachers import say_seen, seen_by_teachers
from signsclf.training import architectures
from signsclf.training.learner import choose_device, has_bf16
from signsclf.training.teachers import find_teachers

_SYNTHETIC_LOOKED_AT = 100


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe with every field set, for a source.

    Attributes:
        source: without its test images.
        reasons: of the recipe's fields that were chosen here.
        test_paths: of the source's test images, of which only copies of the others are counted.
    """

    source: Source
    recipe: Recipe
    arch: architectures.Architecture
    reasons: dict[str, str]
    test_paths: tuple[str, ...] = ()

    @property
    def solver(self) -> Solver:
        """How the network is fitted."""
        return Solver.PROBE if self.recipe.freeze else self.arch.solver


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan with its images decoded and split: ready to train.

    Attributes:
        split: the plan's table without unreadable images, with every row in a split.
        names: relative path of each row of that table: what it is called wherever the source lies.
        decoded: pixels, row for row of that table; zero for synthetic images that training renders itself.
        skipped: unreadable images that were left out, (relative path, reason).
        fingerprint: of the data.
        n_seen_by_teacher: see `signsclf.runs.teachers.seen_by_teachers`.
        cache: how the images, and features of them, are kept.
    """

    plan: Plan
    split: Split
    names: tuple[str, ...]
    decoded: Decoded
    skipped: tuple[tuple[str, str], ...]
    fingerprint: str
    n_seen_by_teacher: int | None = 0
    cache: Cache | None = None

    @property
    def recipe(self) -> Recipe:
        """The plan's recipe."""
        return self.plan.recipe

    @property
    def arch(self) -> architectures.Architecture:
        """The plan's architecture."""
        return self.plan.arch

    @property
    def source(self) -> Source:
        """The plan's source."""
        return self.plan.source

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels in index order."""
        return self.plan.source.classes

    @property
    def targets(self) -> np.ndarray:
        """Class index of each row of the table, int64 (n,)."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index[label] for label in self.split.table["label"]], np.int64)

    @property
    def decoded_rows(self) -> np.ndarray:
        """Rows of the table that have pixels."""
        return np.flatnonzero(np.array(self.decoded.digests, dtype=object) != "")


def plan(source: Source, recipe: Recipe, processes: int = 1) -> Plan:
    """Resolve the recipe for a source and so many processes, before any image is decoded.

    Raises:
        SourceError: the source cannot be trained on, or has no boxes where the recipe wants them.
        SignsclfError: the recipe does not suit the source or the machine.
        ModelError: there is no such architecture, or a teacher cannot teach these classes.
    """
    if recipe.search:
        raise SignsclfError("--search: for train alone; leave it out")
    is_synthetic = source.layout is Layout.SYNTHETIC
    test_paths = tuple(source.table["path"][source.table["split"] == "test"])
    source = apply_crop(source, recipe.crop is Crop.ROI)
    table = source.table[source.table["split"] != "test"]
    if not len(table):
        raise SourceError(f"{source.root}: it has test images only; give a source with training images")
    if (table["split"] == "valid").all():
        raise SourceError(f"{source.root}: it has validation images only; give a source with training images")
    if len(source.classes) < 2:
        raise SourceError(f"{source.root}: one class only ({source.classes[0]!r}); a classifier needs two or more")
    refuse_labels(source.classes, lambda label: source.root, "rename it")
    modelfolder.check_classes(source.classes)
    paths = table["path"].tolist()
    # Each synthetic image looked at is rendered.
    side = images.median_side(paths[:: max(1, len(paths) // _SYNTHETIC_LOOKED_AT)] if is_synthetic else paths)
    recipe, reasons = choose_arch(recipe, is_synthetic, len(table), side)
    if recipe.weights not in (None, *NAMED_WEIGHTS) and user_path(recipe.weights).is_dir():
        # A folder of weights decides the architecture where the user did not.
        config = modelfolder.read_config(user_path(recipe.weights))
        if "arch" in reasons:
            recipe, reasons["arch"] = recipe.replace(arch=config.architecture), "that of --weights"
    arch = architectures.find_architecture(recipe.arch)
    device = choose_device(recipe.device)
    own = int((table["split"] == "valid").sum())
    if own and recipe.fold:
        raise SourceError(f"--fold {recipe.fold}: {source.root} has validation images of its own; leave --fold out")
    n_train = len(table) - own if own else max(1, round(len(table) * (1 - recipe.valid_fraction)))
    facts = Facts(
        n_train=n_train,
        n_classes=len(source.classes),
        is_gtsrb=source.is_gtsrb,
        is_synthetic=is_synthetic,
        median_side=side,
        native_size=arch.native_size,
        device=device,
        has_bf16=has_bf16(device),
        smallest_size=arch.smallest_size,
        largest_size=arch.largest_size,
        is_normalised=architectures.is_normalised(arch),
        solver=Solver.PROBE if recipe.freeze and arch.solver is Solver.GRADIENT else arch.solver,
        processes=processes,
    )
    recipe, more = resolve(recipe, facts)
    _refuse_flip(recipe.flip, source.classes)
    if arch.fixed_size and recipe.size != arch.native_size:
        if "size" not in more:
            raise SignsclfError(f"--size {recipe.size}: {arch.name} runs at {arch.native_size} only; leave it out")
        recipe, more["size"] = recipe.replace(size=arch.native_size), f"all that {arch.name} runs at"
    if recipe.teacher:
        recipe = recipe.replace(teacher=tuple(teacher.pinned for teacher in find_teachers(recipe, source.classes)))
    source = replace(source, table=table, roi_image_wh=(None,) * len(table))
    return Plan(source=source, recipe=recipe, arch=arch, reasons={**reasons, **more}, test_paths=test_paths)


def read_plan(
    source: str | Path | Source,
    reading: Layout | Reading | None,
    recipe: Recipe,
    observer: Observer,
    processes: int = 1,
) -> Plan:
    """Read a source, unless it was read already, and make the plan for it; raises as `plan` and `read_source` do."""
    found = source if isinstance(source, Source) else read_source(source, reading)
    observer.source_read(partial(describe, found))
    planned = plan(found, recipe, processes)
    if planned.recipe.device is Device.MPS:
        observer.say("note: training on Apple's GPU is not tested; where it fails, --device cpu does the same")
    return planned


def prepare(
    planned: Plan,
    skip_bad: bool,
    observer: Observer,
    cache: Cache | None = None,
    split: Split | None = None,
    leave: int = 0,
) -> Prepared:
    """Decode and split.

    Args:
        cache, leave: see `signsclf.data.cache.decode_all`.
        split: of the same source and ``skip_bad``, to be kept to; None splits here.

    Raises:
        BadImageError: images are unreadable and ``skip_bad`` is off.
        SourceError: a class has no training image.
    """
    source, recipe, table = planned.source, planned.recipe, planned.source.table
    if source.missing and not skip_bad:
        raise BadImageError(f"{source.missing}; correct the table, or give --skip-bad to leave them out")

    skipped: tuple[tuple[str, str], ...] = ()
    if source.layout is Layout.SYNTHETIC:
        split = split or _hold_out(table, recipe)
        decoded = _decode_synthetic(split, recipe.size, observer)
    else:
        decoded = decode_all(table, recipe.size, cache, observer, leave)
        if decoded.unreadable:
            skipped = _unreadable(source, decoded, skip_bad)
            kept = [row for row in range(len(table)) if row not in decoded.unreadable]
            observer.say(f"left out {len(skipped):,} unreadable images: {', '.join(name for name, _ in skipped[:5])}")
            table, decoded = table[kept], decoded.take(kept)
            if lost := set(source.classes) - set(table["label"]):
                raise SourceError(f"{source.root}: no image of class {min(lost)!r} can be read; add some")
        if split is None:
            split = _split(planned, table, decoded, observer)
    _say_split(split, recipe, observer)
    if recipe.add_synthetic:
        observer.say(f"synthetic signs: {recipe.add_synthetic:,} a class train too, new ones every epoch")
    n_seen = seen_by_teachers(recipe, source.classes, split, decoded, cache)
    say_seen(n_seen, len(split.rows("valid")), observer)
    names = tuple(source.relative(path) for path in table["path"])
    return Prepared(
        plan=planned,
        split=split,
        names=names,
        decoded=decoded,
        skipped=skipped,
        fingerprint=fingerprint(list(names), table["label"].tolist(), decoded.digests),
        n_seen_by_teacher=n_seen,
        cache=cache,
    )


def spread(rows: np.ndarray, n: int) -> np.ndarray:
    """Choose at most ``n`` of the rows, evenly spaced."""
    return rows[evenly_spaced(len(rows), n)]


def _unreadable(source: Source, decoded: Decoded, skip_bad: bool) -> tuple[tuple[str, str], ...]:
    paths = source.table["path"]
    skipped = tuple(
        (source.relative(paths[i]), reason.removeprefix(f"{paths[i]}: ")) for i, reason in decoded.unreadable.items()
    )
    if not skip_bad:
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        more = f" and {len(skipped) - 3:,} more" if len(skipped) > 3 else ""
        raise BadImageError(
            f"{source.root}: {len(skipped):,} of {len(source.table):,} images cannot be read ({shown}{more}); mend or "
            "remove them, or give --skip-bad to leave them out"
        )
    return skipped


def _hold_out(table: np.ndarray, recipe: Recipe) -> Split:
    return hold_out(table, recipe.split_by, recipe.valid_fraction, recipe.seed, recipe.fold)


def _split(planned: Plan, table: np.ndarray, decoded: Decoded, observer: Observer) -> Split:
    _say_copies(table, decoded, planned.test_paths, observer)
    names = [planned.source.relative(path) for path in table["path"]]
    grouped, n_images, n_photos = group_named_copies(table, names)
    grouped = group_repeats(grouped, decoded.inputs)
    if planned.recipe.split_by is SplitBy.GROUP:
        grouped = _group_found(table, grouped, decoded, observer)
    split = _hold_out(grouped, planned.recipe)
    if n_images:
        apart = "a photo's stay together; --split-by random takes them one by one"
        if planned.recipe.split_by is SplitBy.RANDOM:
            apart = "taken one by one, they flatter the validation figures; --split-by group keeps them together"
        observer.say(f"by their names, {n_images:,} images are versions of {n_photos:,} photos: {apart}")
    return split


def hold_out_again(prepared: Prepared) -> Prepared:
    """Hold images out, as the recipe says by now, of the training images of what was prepared without any."""
    table = prepared.split.table
    table = with_columns(table, split=np.full(len(table), None, object))
    split = _hold_out(table, prepared.recipe)
    decoded = prepared.decoded
    if prepared.source.layout is Layout.SYNTHETIC:
        decoded = _decode_synthetic(split, prepared.recipe.size, Observer())
    n_seen = seen_by_teachers(prepared.recipe, prepared.classes, split, decoded)
    return replace(prepared, split=split, decoded=decoded, n_seen_by_teacher=n_seen)


def _group_found(table: np.ndarray, grouped: np.ndarray, decoded: Decoded, observer: Observer) -> np.ndarray:
    """Group the near-duplicates among the images of which the source does not tell the object; say how many."""
    rows = np.flatnonzero(is_missing(table["group"]))
    labels, first, done = table["label"][rows], np.arange(len(rows)), 0
    # One class after the other: what describes an image takes a kilobyte.
    for label in dict.fromkeys(labels.tolist()):
        places = np.flatnonzero(labels == label)
        first[places] = places[group_near_duplicates(describe_all(decoded.pixels, rows[places]), labels[places])]
        done += len(places)
        observer.progress("comparing", done, len(rows))
    keys = [""] * len(table)
    for row, key in zip(rows.tolist(), names_of_groups(first), strict=True):
        keys[row] = key
    n_images = sum(map(bool, keys))
    # Copies with the same pixels or a photo's name in theirs are told of elsewhere.
    found = group_repeats(grouped, keys)
    if n_images and (found["group"] != grouped["group"]).any():
        observer.say(
            f"by their pixels, {n_images:,} images are near-duplicates of others of their class, in "
            f"{len(set(keys) - {''}):,} groups: a group stays together; --split-by known looks for none"
        )
    return found


def _decode_synthetic(split: Split, size: int, observer: Observer) -> Decoded:
    """Render the validation images and some training ones for the parity check; training renders its own."""
    some = spread(split.rows("train"), max(PARITY_IMAGES, CALIBRATION_IMAGES))
    rows = np.sort(np.concatenate([split.rows("valid"), some]))
    return decode_all(split.table[rows], size, None, observer).placed(rows, len(split.table))


def training_rows(prepared: Prepared) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """Give the labels of all rows, the rows that train, and for each row the ClassId of the sign to render, or -1.

    All training rows of synthetic signs are rendered anew; ``add_synthetic`` has rows of its own, after those of the
    table. Without any sign to render, the last is None.
    """
    classes, added = prepared.source.classes, prepared.recipe.add_synthetic
    labels = prepared.split.table["label"].tolist()
    train_rows = prepared.split.rows("train")
    if not added and prepared.source.layout is not Layout.SYNTHETIC:
        return labels, train_rows, None
    rendered = np.full(len(labels), -1)
    if prepared.source.layout is Layout.SYNTHETIC:
        rendered[train_rows] = [CLASS_NAMES.index(labels[row]) for row in train_rows]
    more = [name for name in classes for _ in range(added)]
    train_rows = np.concatenate([train_rows, len(labels) + np.arange(len(more))])
    rendered = np.concatenate([rendered, np.array([CLASS_NAMES.index(name) for name in more], np.int64)])
    return labels + more, train_rows, rendered


def _refuse_flip(flip: Flip, classes: tuple[str, ...]) -> None:
    if flip is not Flip.ALWAYS:
        return
    # The words of "turn_left", "KeepRight" or "left turn", but not of "bright".
    sided = [c for c in classes if {"left", "right"} & {w.lower() for w in re.findall("[A-Z]?[a-z]+|[A-Z]+", c)}]
    if sided:
        raise SignsclfError(
            f"--flip always: class {sided[0]!r} tells left from right, and mirroring would mislabel it; use never"
        )


def _say_copies(table: np.ndarray, decoded: Decoded, test_paths: tuple[str, ...], observer: Observer) -> None:
    splits = [split or "train" for split in table["split"]]
    in_classes, in_splits = contradictions(table["label"], splits, decoded.digests)
    in_test = same_files(test_paths, table["path"].tolist())
    found = (
        (in_classes, "in two classes"),
        (in_splits, "in training and validation"),
        (in_test, "of the test set in training or validation too"),
    )
    if told := ", ".join(f"{n:,} {where}" for n, where in found if n):
        observer.say(f"warning: identical images: {told}; signsclf data check lists them")


def _say_split(split: Split, recipe: Recipe, observer: Observer) -> None:
    train, valid = len(split.rows("train")), len(split.rows("valid"))
    if not valid:
        observer.say(f"split: all {train:,} images train; nothing is held out, so nothing is evaluated or chosen")
        return
    how = "the source's own"
    if split.held_out_here:
        how = "by single images" if recipe.split_by is SplitBy.RANDOM else "by whole groups"
        how += f", fold {recipe.fold}" if recipe.fold else ""
        how += f", seed {recipe.seed}"
    observer.say(f"split: {train:,} train, {valid:,} valid ({how})")
    if split.groups_in_both_splits:
        observer.say(
            f"warning: {split.groups_in_both_splits:,} groups are on both sides of the split, so the figures flatter"
        )
    if split.in_no_fold:
        observer.say(
            f"{split.in_no_fold:,} images are in none of the folds: held out, they would leave a class without any to "
            "train on"
        )
    if split.not_evaluated:
        shown = ", ".join(split.not_evaluated[:10]) + (", …" if len(split.not_evaluated) > 10 else "")
        why = "they have but one group each" if split.held_out_here else "no validation image is of them"
        observer.say(f"not evaluated, as {why}: {shown}")
