"""The plan of a batch job: what is to be predicted, by which model, with which options."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from signsclf import images
from signsclf.errors import ModelError, SignsclfError
from signsclf.files import absolute_source, file_hash, is_remote, json_bytes, make_folder, write_atomic
from signsclf.imagefiles import remote
from signsclf.imagefiles.hidden import hidden_text
from signsclf.imagefiles.kinds import skipped_text
from signsclf.inference.listing import expand, why_no_image
from signsclf.model.folder import folder_digest, read_config
from signsclf.scale.manifest import TABLES, listed_in, write_manifest
from signsclf.text import count

PLAN, MANIFEST, SUCCESS = "plan.json", "manifest.parquet", "_SUCCESS"
FORMAT = 1
SHARD_ROWS = 10_000
_MAX_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A batch job, as plan.json has it.

    Attributes:
        folder: of the plan and of its results.
        model: the model folder when it was planned.
        model_digest: of that model; another one is refused.
        top_k: classes for each image.
        max_pixels: of an image; larger ones are not decoded.
        shard_rows: images in a shard; the last one has fewer.
        rows: images in all.
        manifest: "sha256:" and the hash of manifest.parquet.
        sources: that were listed, for people.
    """

    folder: Path
    model: str
    model_digest: str
    top_k: int
    max_pixels: int
    shard_rows: int
    rows: int
    manifest: str
    sources: tuple[str, ...]

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.rows // self.shard_rows)

    @property
    def digest(self) -> str:
        """Name all that decides the results: "sha256:" and a hash. Where the model's folder lies does not."""
        deciding = {k: v for k, v in asdict(self).items() if k not in ("folder", "model", "sources")}
        return f"sha256:{hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()}"

    def rows_of(self, shard: int) -> int:
        """Count the images of a shard."""
        return min(self.shard_rows, self.rows - shard * self.shard_rows)


def make_plan(
    sources: Sequence[str],
    folder: Path,
    model: Path,
    *,
    shard_rows: int = SHARD_ROWS,
    top_k: int = 5,
    recursive: bool = False,
    path_column: str | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Plan:
    """List the images and write the plan.

    Args:
        sources: image files, folders, zip archives and patterns as `signsclf.inference.listing.expand` takes them, and
            tables with a column of paths, whose images are not looked for.
        folder: for the plan and the results; new or empty.
        shard_rows: images in a shard, 1 or more.
        path_column: of the tables; None finds it by its name.
        tell: is given a line on each kind of what was left out.

    Raises:
        SignsclfError: a source has no images, or the folder holds something.
        ModelError: the model cannot be opened.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SignsclfError(
            f"{folder}: exists and is not empty; name a new folder, or resume its batch with `signsclf batch run`"
        )
    read_config(model)
    digest = folder_digest(model)
    make_folder(folder)
    skipped: Counter[str] = Counter()
    hidden: Counter[str] = Counter()
    paths = _listed([absolute_source(source) for source in sources], recursive, path_column, skipped, hidden)
    try:
        rows, repeated = write_manifest(paths, folder / MANIFEST, shard_rows)
    except BaseException:
        folder.rmdir()
        raise
    plan = Plan(
        folder=folder, model=str(model.absolute()), model_digest=digest, top_k=top_k, max_pixels=images.max_pixels(),
        shard_rows=shard_rows, rows=rows, manifest=f"sha256:{file_hash(folder / MANIFEST)}",
        sources=tuple(str(source) for source in sources),
    )  # fmt: skip
    values = asdict(plan)
    del values["folder"]
    write_atomic(folder / PLAN, json_bytes({"format": FORMAT, **values}))
    if repeated:
        tell(f"{count(repeated, 'image was', 'images were')} named more than once; each is predicted once")
    if skipped:
        tell(f"left out: {skipped_text(skipped.elements())}")
    if hidden:
        tell(f"left out, since hidden: {hidden_text(hidden)}")
    return plan


def _listed(
    sources: Sequence[str], recursive: bool, path_column: str | None, skipped: Counter[str], hidden: Counter[str]
) -> Iterator[str]:
    for source in sources:
        if source.lower().endswith(TABLES) and (is_remote(source) or Path(source).is_file()):
            yield from listed_in(source, path_column)
            continue
        for path in expand([source], recursive, skipped=skipped, hidden=hidden):
            # What has no images is given back as it is, and would be one row with an error.
            if path == source and (why := why_no_image(path) or _why_not_there(path)):
                raise SignsclfError(f"{path}: {why}")
            yield path


def _why_not_there(path: str) -> str | None:
    if images.has_scheme(path) or images.split_archive(path) is not None:
        return None
    if not is_remote(path):
        return None if Path(path).exists() else "no such file or folder; check the path"
    try:
        found = remote.look(path)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return "no images at this address; check it" if found is None or found.is_folder else None


def open_plan(folder: str | Path, model: Path | None = None) -> Plan:
    """Read a plan and check that its manifest is the one that was written.

    Args:
        model: where the model lies now; None is where it lay.

    Raises:
        SignsclfError: there is no plan, or it is damaged.
    """
    folder = Path(folder).absolute()
    try:
        with (folder / PLAN).open("rb") as file:
            values = json.loads(file.read(_MAX_BYTES))
        if values.pop("format") != FORMAT:
            raise SignsclfError(f"{folder / PLAN}: of another version of signsclf; make the plan again")
        plan = Plan(folder=folder, **{**values, "sources": tuple(values["sources"])})
        intact = plan.shard_rows > 0 and plan.manifest == f"sha256:{file_hash(folder / MANIFEST)}"
    except FileNotFoundError as error:
        raise SignsclfError(f"{folder}: no plan there; make one with `signsclf batch plan`") from error
    except OSError as error:
        raise SignsclfError(f"{error.filename}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SignsclfError(f"{folder / PLAN}: damaged ({error}); make the plan again in a new folder") from error
    if not intact:
        raise SignsclfError(f"{folder / MANIFEST}: not the one of the plan; make the plan again in a new folder")
    return plan if model is None else replace(plan, model=str(model.absolute()))


def check_model(plan: Plan) -> None:
    """Check that the model is the one of the plan.

    Raises:
        ModelError: it is another one, or is not there.
    """
    found = folder_digest(plan.model)
    if found != plan.model_digest:
        raise ModelError(
            f"{plan.model}: another model than the plan's ({found[:19]}… in place of {plan.model_digest[:19]}…); name "
            "the folder of that model with --model, or make a new plan"
        )
