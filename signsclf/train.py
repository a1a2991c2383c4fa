"""One command: from a source of labelled images to a judged, exported model folder; breakable and resumable."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from signsclf import images, modelfolder
from signsclf.choices import Layout
from signsclf.data.cache import Decoded, decode_all, fingerprint
from signsclf.data.gtsrb import class_names_mirror
from signsclf.data.split import Split, group_repeats, hold_out
from signsclf.data.table import Source, apply_crop, read_source
from signsclf.errors import BadImageError, ModelError, SignsclfError, SourceError
from signsclf.finish import Trained, finish
from signsclf.judging import plots
from signsclf.judging.canvas import write_whole
from signsclf.observer import Observer
from signsclf.recipe import Crop, Device, Facts, Flip, Recipe, SplitBy, choose_arch, resolve
from signsclf.training import architectures
from signsclf.training.augment import STRENGTHS, BatchAugment
from signsclf.training.callbacks import read_checkpoint
from signsclf.training.fit import Fit, FitResult, LrSearch, estimate_seconds, find_lr
from signsclf.training.learner import build_learner, choose_device, has_bf16
from signsclf.training.loaders import dataloaders, mix_seed, planned_draws

_SIZES_SAMPLED = 400


@dataclass(frozen=True)
class Order:
    """What a run was asked for besides its recipe: with the recipe, all that ``--resume`` needs.

    Attributes:
        source: absolute path of the source, or "synthetic".
        layout: forced layout, or None.
        skip_bad: leave unreadable images out instead of stopping.
        accept_error: share of accepted-but-wrong that the reject threshold is chosen for.
    """

    source: str
    layout: Layout | None = None
    skip_bad: bool = False
    accept_error: float = 0.005


@dataclass(frozen=True)
class Prepared:
    """A source read, decoded and split, with the recipe resolved: ready to train.

    Attributes:
        source: as read, unreadable images left out.
        split: its table with every row on a side.
        decoded: pixels, row for row of that table.
        skipped: unreadable images that were left out, (relative path, reason).
        reasons: of the recipe's fields that were chosen here.
        fingerprint: of the data.
    """

    order: Order
    recipe: Recipe
    arch: architectures.Architecture
    source: Source
    split: Split
    decoded: Decoded
    skipped: tuple[tuple[str, str], ...]
    reasons: dict[str, str]
    fingerprint: str


@dataclass(frozen=True)
class Outcome:
    """What `train` ended in.

    Attributes:
        folder: the model folder, or the .partial folder of a stopped run.
        stopped: whether it was interrupted; ``--resume`` goes on.
        metrics: figures on the validation images, from the exported file; None where there are none.
    """

    folder: Path
    stopped: bool
    metrics: dict[str, Any] | None


def partial_folder(out: Path) -> Path:
    """Where the run of a model folder works until it is whole."""
    return out.with_name(out.name + ".partial")


def train(
    source: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    layout: Layout | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    accept_error: float = 0.005,
    observer: Observer | None = None,
) -> Outcome:
    """Trains a classifier and writes a model folder.

    Args:
        source: a folder, a .zip, a table, or "synthetic"; see `signsclf.data.table.read_source`.
        out: the model folder to write.
        recipe: what is None in it is chosen from the data; None takes the default recipe.
        layout: forces how the source is read.
        overwrite: replaces a model folder, or an interrupted run, that is there.
        skip_bad: leaves unreadable images out, lists them in run/skipped.csv, and goes on.
        accept_error: share of accepted-but-wrong that the reject threshold is chosen for, 0 to 1.
        observer: told of everything that happens.

    Raises:
        SourceError, BadImageError, ModelError, GateError, SignsclfError: see their docstrings.
    """
    observer = observer or Observer()
    if not 0 <= accept_error <= 1:
        raise SignsclfError(f"--accept-error: {accept_error:g} is no share from 0 to 1")
    out = Path(out).expanduser().absolute()
    where = str(source) if str(source) == Layout.SYNTHETIC.value else str(Path(source).expanduser().absolute())
    order = Order(where, layout, skip_bad, accept_error)
    refuse_taken(out, overwrite)
    partial = partial_folder(out)
    prepared = prepare(order, recipe or Recipe(), observer)
    _make_partial(partial, overwrite)
    _record(partial, prepared)
    return _run(prepared, partial, out, overwrite, observer, None)


def resume(out: str | Path, *, overwrite: bool = False, observer: Observer | None = None) -> Outcome:
    """Goes on with an interrupted run; on a CPU it ends in the weights of the unbroken run, bit for bit.

    Args:
        out: the model folder that the run was to write, or its .partial folder.

    Raises:
        ModelError: there is no such run, or its checkpoint is damaged.
        SourceError: the source has changed since.
    """
    observer = observer or Observer()
    out = Path(out).expanduser().absolute()
    if out.name.endswith(".partial"):
        out = out.with_name(out.name.removesuffix(".partial"))
    partial = partial_folder(out)
    if not partial.is_dir():
        done = f"{out} is finished already" if (out / modelfolder.CONFIG).is_file() else f"no run in {partial}"
        raise ModelError(f"--resume: {done}; nothing to go on with")
    prepared = restore(partial, observer)
    checkpoint = read_checkpoint(partial) if (partial / modelfolder.CHECKPOINT).is_file() else None
    observer.say(f"resuming {partial}" + ("" if checkpoint else ": it has no checkpoint yet, so from the start"))
    return _run(prepared, partial, out, overwrite, observer, checkpoint)


def export_run(run: str | Path, out: str | Path, *, overwrite: bool = False, observer: Observer | None = None) -> Outcome:
    """Exports the best weights so far of a .partial folder to a model folder of its own; the run is left as it is.

    Raises:
        ModelError: the run has no checkpoint with a finished epoch.
    """
    observer = observer or Observer()
    run, out = Path(run).expanduser().absolute(), Path(out).expanduser().absolute()
    refuse_taken(out, overwrite)
    prepared = restore(run, observer)
    checkpoint = read_checkpoint(run)
    if checkpoint["best"] is None:
        raise ModelError(f"{run}: no epoch is finished yet, so there is nothing to export; --resume it first")
    partial = partial_folder(out)
    _make_partial(partial, overwrite)
    _record(partial, prepared)
    best = checkpoint["best"]
    draws = checkpoint["draws"].numpy()
    result = FitResult(
        best["state"], best["epoch"], checkpoint["history"], draws, checkpoint["lr"], checkpoint["seconds"], False
    )
    loaders = _loaders(prepared)
    return _finish(prepared, result, planned_draws(loaders, loaders.c), partial, out, overwrite, observer)


def search_lr(
    source: str | Path, recipe: Recipe | None = None, *, layout: Layout | None = None, skip_bad: bool = False,
    observer: Observer | None = None,
) -> LrSearch:  # fmt: skip
    """The learning-rate search of ``signsclf lr-find``: same arguments as `train`, nothing is kept."""
    observer = observer or Observer()
    where = str(source) if str(source) == Layout.SYNTHETIC.value else str(Path(source).expanduser().absolute())
    prepared = prepare(Order(where, layout, skip_bad), recipe or Recipe(), observer)
    model = _network(prepared, observer)
    learner = build_learner(_loaders(prepared), model, prepared.arch, prepared.recipe)
    return find_lr(learner, prepared.recipe, progress=lambda done, total: observer.progress("rates", done, total))


def prepare(order: Order, recipe: Recipe, observer: Observer) -> Prepared:
    """Reads, decodes and splits the source, and resolves the recipe.

    Raises:
        SourceError: the source cannot be used.
        BadImageError: images are unreadable and ``skip_bad`` is off.
    """
    source = read_source(order.source, order.layout)
    observer.source(source)
    source = apply_crop(source, recipe.crop is Crop.ROI)
    table = source.table[source.table["split"].ne("test")].reset_index(drop=True)
    if table.empty:
        raise SourceError(f"{source.root}: it has test images only; give a source with training images")
    if len(source.classes) < 2:
        raise SourceError(f"{source.root}: one class only ({source.classes[0]!r}); a classifier needs two or more")
    modelfolder.check_classes(source.classes)
    recipe, reasons = choose_arch(recipe, source.layout is Layout.SYNTHETIC)
    if Path(recipe.weights).expanduser().is_dir():
        # A folder of weights decides the architecture where the user did not.
        config = modelfolder.read_config(Path(recipe.weights).expanduser())
        if "arch" in reasons:
            recipe, reasons["arch"] = recipe.replace(arch=config.architecture), "that of --weights"
    arch = architectures.find(recipe.arch)
    device = choose_device(recipe.device)
    facts = Facts(
        n_train=max(1, round(len(table) * (1 - recipe.valid_fraction))) if "valid" not in set(table["split"]) else
        int(table["split"].ne("valid").sum()),
        is_gtsrb=source.is_gtsrb,
        is_drawn=source.layout is Layout.SYNTHETIC,
        median_side=_median_side(table["path"].tolist()),
        native_size=arch.native_size,
        device=device,
        has_bf16=has_bf16(device),
    )  # fmt: skip
    recipe, more = resolve(recipe, facts)
    _refuse_flip(recipe.flip, source.classes)
    if arch.fixed_size and recipe.size != arch.native_size:
        if "size" not in more:
            raise SignsclfError(f"--size {recipe.size}: {arch.name} runs at {arch.native_size} only; leave it out")
        recipe, more["size"] = recipe.replace(size=arch.native_size), f"all that {arch.name} runs at"
    decoded = decode_all(table, recipe.size, progress=lambda done, n: observer.progress("decoding", done, n))
    names = [source.relative(path) for path in table["path"]]
    skipped = tuple((names[i], reason) for i, reason in decoded.unreadable.items())
    if skipped and not order.skip_bad:
        shown = "; ".join(decoded.unreadable[i] for i in list(decoded.unreadable)[:3])
        more_bad = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        raise BadImageError(
            f"{len(skipped)} of {len(table):,} images cannot be read ({shown}{more_bad}); mend or remove them, or "
            "give --skip-bad to leave them out"
        )
    if skipped:
        observer.say(f"left out {len(skipped)} unreadable images: {', '.join(name for name, _ in skipped[:5])}")
        kept = np.setdiff1d(np.arange(len(table)), list(decoded.unreadable))
        table = table.iloc[kept].reset_index(drop=True)
        names = [names[i] for i in kept]
        decoded = Decoded(
            decoded.pixels[kept], [decoded.digests[i] for i in kept], [decoded.inputs[i] for i in kept], {}
        )
    mark = fingerprint(names, table["label"].tolist(), decoded.digests)
    grouped = group_repeats(table, decoded.inputs)
    split = hold_out(grouped, recipe.split_by, recipe.valid_fraction, recipe.seed)
    lost = [name for name in source.classes if name not in set(split.table["label"])]
    if lost:
        raise SourceError(f"{source.root}: class {lost[0]!r} has no training image that can be read; add some")
    _say_split(split, recipe, observer)
    prepared = replace(source, table=split.table, roi_sizes=(None,) * len(table))
    return Prepared(order, recipe, arch, prepared, split, decoded, skipped, {**reasons, **more}, mark)


def restore(partial: Path, observer: Observer) -> Prepared:
    """What an interrupted run was prepared from, read again.

    Raises:
        ModelError: the folder is no run.
        SourceError: the source has changed.
    """
    path = partial / modelfolder.RECORD
    if not path.is_file():
        raise ModelError(f"{partial}: not an interrupted run, it has no {modelfolder.RECORD}; start the training anew")
    try:
        record = json.loads(modelfolder.read_text(path))
        layout = Layout(record["layout"]) if record["layout"] else None
        order = Order(record["source"], layout, bool(record["skip_bad"]), float(record["accept_error"]))
        recipe, mark = Recipe.from_dict(record["recipe"]), record["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: damaged ({error}); start the training anew") from error
    prepared = prepare(order, recipe, observer)
    if prepared.fingerprint != mark:
        raise SourceError(f"{order.source}: its images have changed since the run began; start the training anew")
    return prepared


def refuse_taken(out: Path, overwrite: bool) -> None:
    """Raises ModelError where a model or an interrupted run is in the way, before any work is done."""
    if out.exists() and not overwrite:
        raise ModelError(f"{out} is there already: --overwrite replaces it, --out DIR writes elsewhere")
    partial = partial_folder(out)
    if (partial / modelfolder.RECORD).exists() and not overwrite:
        raise ModelError(f"{partial} is an interrupted run: --resume {out} goes on, --overwrite starts anew")


def _run(
    prepared: Prepared, partial: Path, out: Path, overwrite: bool, observer: Observer, checkpoint: dict[str, Any] | None
) -> Outcome:
    recipe = prepared.recipe
    torch.set_flush_denormal(True)
    model = _network(prepared, observer, fresh=checkpoint is None)
    loaders = _loaders(prepared)
    learner = build_learner(loaders, model, prepared.arch, recipe)
    observer.plan(prepared, 0.0 if checkpoint else estimate_seconds(learner, model, recipe))
    classes = prepared.source.classes
    shown, labels = loaders.train.augmented_batch(min(36, recipe.batch_size))
    _plots(partial).mkdir(parents=True, exist_ok=True)
    plots.batch(shown, [classes[i] for i in labels], _plots(partial) / "batch.png")
    fit = Fit(learner, model, recipe, partial, observer.progressed, checkpoint)
    observer.fitting(fit)
    result = fit.run(on_search=lambda search: write_search(search, _plots(partial).parent))
    observer.fitting(None)
    if result.stopped:
        return Outcome(partial, True, None)
    return _finish(prepared, result, planned_draws(loaders, loaders.c), partial, out, overwrite, observer)


def _finish(
    prepared: Prepared,
    result: FitResult,
    planned: np.ndarray,
    partial: Path,
    out: Path,
    overwrite: bool,
    observer: Observer,
) -> Outcome:
    trained = Trained(
        recipe=prepared.recipe,
        arch=prepared.arch,
        classes=prepared.source.classes,
        is_gtsrb=prepared.source.is_gtsrb,
        source_name=Path(prepared.order.source).name,
        fingerprint=prepared.fingerprint,
        split=prepared.split,
        names=tuple(prepared.source.relative(path) for path in prepared.split.table["path"]),
        decoded=prepared.decoded,
        skipped=prepared.skipped,
        result=result,
        planned_draws=planned,
        accept_error=prepared.order.accept_error,
    )
    metrics = finish(trained, partial, observer)
    modelfolder.publish(partial, out, overwrite)
    return Outcome(out, False, metrics)


def _network(prepared: Prepared, observer: Observer, fresh: bool = True) -> nn.Module:
    recipe, classes = prepared.recipe, prepared.source.classes
    torch.manual_seed(mix_seed(recipe.seed))
    model = architectures.create(prepared.arch, len(classes))
    architectures.refuse_size(model, prepared.arch, recipe.size)
    if fresh:
        told = architectures.load_weights(model, prepared.arch, len(classes), recipe.weights, classes)
        observer.say(f"start: {told}")
    return model


def _loaders(prepared: Prepared):
    recipe, classes = prepared.recipe, prepared.source.classes
    mirror = None
    if recipe.flip is Flip.MAP:
        index = {name: i for i, name in enumerate(classes)}
        mirror = np.array([index.get(class_names_mirror().get(name, ""), -1) for name in classes])
    return dataloaders(
        prepared.decoded.pixels,
        prepared.split.table["label"].tolist(),
        classes,
        prepared.split.rows("train"),
        prepared.split.rows("valid"),
        batch_size=recipe.batch_size,
        balance=recipe.balance,
        augment=BatchAugment(STRENGTHS[recipe.augment], recipe.flip, mirror),
        mean=prepared.arch.mean,
        std=prepared.arch.std,
        device=recipe.device.value,
        seed=recipe.seed,
    )


def write_search(search: LrSearch, folder: Path) -> None:
    """Writes lr_find.json and lr_find.png."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "lrs": search.lrs,
        "losses": search.losses,
        "suggestions": search.suggestions,
        "diverged_early": search.diverged_early,
    }
    write_whole(folder / "lr_find.json", (json.dumps(values, indent=1) + "\n").encode())
    found = {name: rate for name, rate in search.suggestions.items() if rate is not None}
    plots.lr_find(search.lrs, search.losses, found, folder / "lr_find.png")


def _make_partial(partial: Path, overwrite: bool) -> None:
    try:
        if partial.is_dir() and (overwrite or not (partial / modelfolder.RECORD).exists()):
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        (partial / modelfolder.RUN).mkdir()
    except OSError as error:
        raise ModelError(
            f"{partial}: cannot be made ({error.strerror or error}); give --out a folder that can be written to"
        ) from error


def _record(partial: Path, prepared: Prepared) -> None:
    order = prepared.order
    record = {
        "source": order.source,
        "layout": order.layout.value if order.layout else None,
        "skip_bad": order.skip_bad,
        "accept_error": order.accept_error,
        "recipe": prepared.recipe.to_dict(),
        "fingerprint": prepared.fingerprint,
    }
    write_whole(partial / modelfolder.RECORD, (json.dumps(record, indent=2) + "\n").encode())
    table = prepared.split.table
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["path", "label", "group", "split", "input"])
    for path, label, group, split, mark in zip(
        table["path"], table["label"], table["group"], table["split"], prepared.decoded.inputs, strict=True
    ):
        known = "" if group is None or group != group else group
        writer.writerow([prepared.source.relative(path), label, known, split, mark])
    run = partial / modelfolder.RUN
    write_whole(run / "split.csv", lines.getvalue().encode("utf-8", "backslashreplace"))
    shipped = prepared.recipe.replace(weights=Path(prepared.recipe.weights).name)
    write_whole(run / "recipe.json", shipped.to_json().encode())


def _plots(partial: Path) -> Path:
    return partial / modelfolder.RUN / "plots"


def _median_side(paths: list[str]) -> float:
    step = max(1, len(paths) // _SIZES_SAMPLED)
    sides = []
    for path in paths[::step]:
        try:
            width, height = images.size(path)
        # Told by name when everything is decoded.
        except BadImageError:
            continue
        sides.append((width * height) ** 0.5)
    return float(np.median(sides)) if sides else 224.0


def _refuse_flip(flip: Flip, classes: tuple[str, ...]) -> None:
    if flip is not Flip.ALWAYS:
        return
    sided = [name for name in classes if {"left", "right"} & set(name.lower().replace("_", " ").split())]
    if sided:
        raise SignsclfError(
            f"--flip always: class {sided[0]!r} tells left from right, and mirroring would mislabel it; use never"
        )


def _say_split(split: Split, recipe: Recipe, observer: Observer) -> None:
    train, valid = len(split.rows("train")), len(split.rows("valid"))
    if not valid:
        observer.say(f"split: all {train:,} images train; nothing is held out, so nothing is judged or chosen")
        return
    how = "the source's own" if not split.held_out_here else (
        "by whole groups" if recipe.split_by is SplitBy.GROUP else "by single images"
    )  # fmt: skip
    observer.say(f"split: {train:,} train, {valid:,} valid ({how}, seed {recipe.seed})")
    if split.groups_on_both_sides:
        observer.say(
            f"warning: {split.groups_on_both_sides:,} groups stand on both sides, so the validation figures flatter"
        )
    if split.not_judged:
        observer.say(f"not judged, as they have but one group each: {', '.join(split.not_judged[:10])}")


def describe_device(device: Device) -> str:
    """The device in words, for the plan."""
    if device is Device.CUDA:
        return torch.cuda.get_device_name()
    return f"{device.value}, {torch.get_num_threads()} threads"
