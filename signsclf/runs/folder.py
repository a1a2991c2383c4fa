"""The .partial folder of a run: where it works until its model folder is whole, and all that ``--resume`` needs.

No torch: what is in the way of a run is reported before it is imported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from signsclf.choices import Int8Policy, Layout, Reading, Tracker
from signsclf.errors import ModelError, SignsclfError
from signsclf.files import is_tmp_name, json_bytes, write_atomic
from signsclf.locks import locked
from signsclf.model.config import parse_json
from signsclf.model.folder import CONFIG, RECORD, RUN, read_text, refuse_to_delete, refuse_to_replace
from signsclf.outputs import delete_own
from signsclf.recipe import Recipe
from signsclf.runs.tracking import TrackedRun

_SUFFIX = ".partial"
ERROR_LOG = "error.log"
"""Below run/: the traceback of an unexpected error, while the run is unfinished."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run was asked for besides its recipe.

    Attributes:
        source: absolute path of the source, or "synthetic".
        reading: how the source is read.
        skip_bad: leave unreadable images out instead of stopping.
        max_accepted_error: largest share of wrong answers among the accepted ones, that the reject threshold is chosen
            for, 0 to 1.
        overwrite: replace a model folder, or an interrupted run, that exists.
        int8: whether model.int8.onnx is written as well; the result is reported and is in the figures.
        learner: write learner.pkl as well, a pickle for fastai's users.
        pictures: keep pictures of training and validation images: golden images, a training batch, the mistakes.
        bare: leave out the tables that name the images.
        rehearsal: train again with images held out where the recipe holds none out, see `signsclf.runs.rehearsal`.
        track: where the run is reported to; None is nowhere.

    Raises:
        SignsclfError: ``max_accepted_error`` is no share.
    """

    source: str
    reading: Reading
    skip_bad: bool = False
    max_accepted_error: float = 0.005
    overwrite: bool = False
    int8: Int8Policy = Int8Policy.NONE
    learner: bool = False
    pictures: bool = False
    bare: bool = False
    rehearsal: bool = True
    track: TrackedRun | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_accepted_error <= 1:
            raise SignsclfError(f"--max-accepted-error: {self.max_accepted_error:g} is no share from 0 to 1")

    @classmethod
    def of(cls, source: str | Path, layout: Layout | Reading | None = None, **options: Any) -> RunRequest:
        """Make a request for a source, read as ``layout`` says; ``options`` are the other fields by name.

        Raises:
            SignsclfError: an option is out of its range.
            TypeError: there is no such option.
        """
        reading = layout if isinstance(layout, Reading) else Reading(layout)
        return cls(source=str(source), reading=reading, **options)


CHANGEABLE = frozenset({"max_accepted_error", "overwrite", "int8", "learner", "pictures", "bare", "rehearsal"})
"""Fields of a request that decide no weights: a resumed run may have others."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a run can be resumed from where its source is gone, beside the rows in run/split.csv.

    Attributes:
        entry: absolute path of the cache's entry that its images were decoded to.
        layout: what the source was recognised as.
        classes: in index order.
        is_gtsrb: whether they are GTSRB's.
    """

    entry: str
    layout: str
    classes: tuple[str, ...]
    is_gtsrb: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """run.json: a request, its resolved recipe, the fingerprint of its data, and what is held of these."""

    request: RunRequest
    recipe: Recipe
    fingerprint: str
    held: Held | None = None


def partial_folder(out: Path) -> Path:
    """Name the folder in which the run of a model folder works until it is whole.

    Raises:
        ModelError: the folder is the root of a disk.
    """
    if not out.name:
        raise ModelError(f"{out}: the root of a disk, which is no model folder; name a folder in it")
    return out.with_name(out.name + _SUFFIX)


def final_folder(path: Path) -> Path:
    """Name the model folder that a run is to write, given that folder itself or its .partial folder."""
    is_partial = path.name.endswith(_SUFFIX) and path.name != _SUFFIX
    return path.with_name(path.name.removesuffix(_SUFFIX)) if is_partial else path


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep other processes from writing the model folder ``out`` and its .partial folder within the context.

    Raises:
        LockedError: another one does.
        ModelError: nothing can be written there.
    """
    _refuse_unwritable(out)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(out))
        except OSError as error:
            raise ModelError(
                f"{out}: cannot be written ({error.strerror or error}); give --out a folder that can be"
            ) from error
        yield


def refuse_taken(out: Path, overwrite: bool, resuming: bool = False) -> None:
    """Raise ModelError where something is in the way of a new model folder, before any work is done.

    Args:
        resuming: an interrupted run in the folder is allowed.
    """
    if out.exists() or out.is_symlink():
        refuse_to_replace(out, overwrite)
    partial = partial_folder(out)
    if (partial / RECORD).exists():
        if not overwrite and not resuming:
            raise ModelError(f"{partial} is an interrupted run: --resume {out} continues it, --overwrite starts anew")
        if not resuming:
            refuse_to_delete(partial)
    elif partial.exists() and not _is_barely_begun(partial):
        raise ModelError(f"{partial} exists and is no run: move it away, or choose another --out")
    _refuse_unwritable(out)


def refuse_images_inside(out: Path, paths: Iterable[str]) -> None:
    """Raise ModelError where images to train on lie in what a new model folder would replace.

    Args:
        out: absolute path of the model folder.
        paths: of the images, absolute, with forward slashes.
    """
    folders = tuple(f"{folder.as_posix()}/" for folder in (out, partial_folder(out)))
    if inside := next((path for path in paths if path.startswith(folders)), None):
        raise ModelError(f"{out}: {inside} is trained on and lies in what would be replaced: choose another --out")


def make_partial(out: Path, overwrite: bool) -> Path:
    """Make the .partial folder of a model folder, empty but for run/; what is in the way is replaced, or refused.

    Raises:
        ModelError: see `refuse_taken`; or it cannot be created.
    """
    refuse_taken(out, overwrite)
    partial = partial_folder(out)
    try:
        if partial.is_dir():
            delete_own(partial)
        partial.mkdir(parents=True)
        (partial / RUN).mkdir()
    except OSError as error:
        raise ModelError(
            f"{partial}: cannot be created ({error.strerror or error}); give --out a folder that can be written to"
        ) from error
    return partial


def write_record(partial: Path, record: Record) -> None:
    """Write run.json, which makes the folder a run that can be resumed."""
    request = record.request
    values = {
        "source": request.source,
        "layout": request.reading.layout and request.reading.layout.value,
        "class_level": request.reading.class_level,
        "zip_encoding": request.reading.zip_encoding,
        "path_column": request.reading.path_column,
        "label_column": request.reading.label_column,
        "merge_case": request.reading.merge_case,
        "skip_bad": request.skip_bad,
        "max_accepted_error": request.max_accepted_error,
        "overwrite": request.overwrite,
        "int8": request.int8.value,
        "learner": request.learner,
        "pictures": request.pictures,
        "bare": request.bare,
        "track": request.track and asdict(request.track),
        "recipe": record.recipe.to_dict(),
        "fingerprint": record.fingerprint,
        "held": record.held and asdict(record.held),
    }
    write_atomic(partial / RECORD, json_bytes(values), ModelError)


def read_record(partial: Path) -> Record:
    """Read what `write_record` wrote.

    Raises:
        ModelError: there is no such run, or its run.json is damaged.
    """
    path = partial / RECORD
    if not path.is_file():
        out = final_folder(partial)
        if (out / CONFIG).is_file():
            raise ModelError(f"{out} is finished already; there is nothing to resume")
        raise ModelError(f"{partial}: no interrupted run there, it has no {RECORD}; start the training anew")
    try:
        values = parse_json(read_text(path), str(path))
        request = RunRequest(
            source=str(values["source"]),
            reading=_reading(values),
            skip_bad=bool(values["skip_bad"]),
            # Runs of the version before call it accept_error.
            max_accepted_error=float(values.get("max_accepted_error", values.get("accept_error"))),
            overwrite=bool(values["overwrite"]),
            int8=Int8Policy(values["int8"]),
            learner=bool(values.get("learner")),
            pictures=bool(values.get("pictures")),
            bare=bool(values.get("bare")),
            track=_tracked(values.get("track")),
        )
        # Runs of the versions before know whole batches alone.
        recipe = Recipe.from_dict({"shards": 1, **values["recipe"]})
        return Record(
            request=request,
            recipe=recipe,
            fingerprint=str(values["fingerprint"]),
            held=_held(values.get("held")),
        )
    except (ValueError, KeyError, TypeError, SignsclfError) as error:
        raise ModelError(f"{path}: damaged ({error}); start the training anew") from error


def _tracked(values: dict[str, Any] | None) -> TrackedRun | None:
    if not values:
        return None
    return TrackedRun(tracker=Tracker(values["tracker"]), place=str(values["place"]), run=str(values["run"]))


def _held(values: dict[str, Any] | None) -> Held | None:
    if not values:
        return None
    classes = tuple(str(name) for name in values["classes"])
    return Held(
        entry=str(values["entry"]),
        layout=Layout(values["layout"]).value,
        classes=classes,
        is_gtsrb=bool(values["is_gtsrb"]),
    )


def _reading(values: dict[str, Any]) -> Reading:
    layout = Layout(values["layout"]) if values["layout"] else None
    if "class_level" not in values and layout is Layout.FOLDERS:
        # Earlier versions recorded what was recognised, under which folders 0 to 42 still are GTSRB's classes.
        return Reading()
    level = values.get("class_level")
    names = {name: values.get(name) for name in ("zip_encoding", "path_column", "label_column")}
    texts = {name: text and str(text) for name, text in names.items()}
    return Reading(layout, level and int(level), **texts, merge_case=bool(values.get("merge_case")))


def _refuse_unwritable(out: Path) -> None:
    parent = next(folder for folder in partial_folder(out).parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ModelError(f"{out}: {parent} cannot be written to; give --out a folder that can be")


def _is_barely_begun(partial: Path) -> bool:
    """Tell whether a run was killed there before its run.json was written."""
    return partial.is_dir() and all(path.name == RUN or is_tmp_name(path.name) for path in partial.iterdir())
