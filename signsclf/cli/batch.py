"""The commands of ``signsclf batch``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from signsclf.choices import Engine
from signsclf.cli.options import AsJson, MaxPixels, new_app
from signsclf.cli.terminal import Bar, duration, echo, echo_json, eprint, no_garbage, shown_path
from signsclf.errors import SignsclfError, require_extra
from signsclf.text import count, visible

if TYPE_CHECKING:
    from signsclf.scale.results import Status

_LOOK_SECONDS = 1.0
_LABELS_SHOWN = 20

app = new_app()
batch_app = new_app(
    name="batch",
    help="Predict any number of images, on any number of machines.\n\n"
    "Example: signsclf batch plan photos out --model models/pets && signsclf batch run out",
    no_args_is_help=True,
)
app.add_typer(batch_app)

Out = Annotated[Path, typer.Argument(help="Folder of the plan and of its results.", metavar="OUT")]
ModelNow = Annotated[
    Path | None, typer.Option("--model", help="Where the plan's model lies now; unset: where it lay.", metavar="DIR")
]


@batch_app.command("plan")
def plan_command(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, patterns, archives, addresses (s3://…), and tables with a column of paths.",
            metavar="SOURCE…",
        ),
    ],
    out: Out,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Model folder; unset: as for predict.", metavar="DIR"),
    ] = None,
    shard: Annotated[int, typer.Option("--shard", help="Images in a shard.", min=1, max=1_000_000)] = 10_000,
    top_k: Annotated[int, typer.Option("--top-k", help="Number of classes to keep for each image.", min=1)] = 5,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Include images in folders further down.")
    ] = False,
    path_column: Annotated[
        str | None, typer.Option("--path-column", help="Column of a table that holds the paths.", metavar="NAME")
    ] = None,
    max_pixels: MaxPixels = None,
) -> None:
    """List the images, and fix all that decides their predictions.

    Example: signsclf batch plan photos out --model models/pets
    """
    require_extra("parquet", "batch")
    with no_garbage():
        from signsclf.inference.classifier import find_model
        from signsclf.scale.plan import make_plan

    folder, found_by = find_model(str(model) if model else None, os.environ, Path.cwd())
    eprint(f"model: {folder} ({found_by})")
    plan = make_plan(
        source, out, folder, shard_rows=shard, top_k=top_k, recursive=recursive, path_column=path_column, tell=eprint
    )
    eprint(f"planned: {count(plan.rows, 'image')} in {count(plan.shards, 'shard')}")
    echo(f"signsclf batch run {shown_path(plan.folder)}")


@batch_app.command("run")
def run_command(
    out: Out,
    engine: Annotated[Engine, typer.Option("--engine", help="What runs the workers.")] = Engine.LOCAL,
    workers: Annotated[int, typer.Option("--workers", help="Processes, which share the cores.", min=1, max=4096)] = 1,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Cores of each worker; unset: this machine's, shared among them.", min=1),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Of a Ray cluster; unset: $RAY_ADDRESS, else Ray is started here.", metavar="HOST:PORT"
        ),
    ] = None,
    shards_of: Annotated[
        str | None,
        typer.Option(
            "--shards-of",
            help="The I-th (from 0) of N shares of the shards; unset: as a Slurm array or an indexed job says, else "
            "all.",
            metavar="I/N",
        ),
    ] = None,
    image_seconds: Annotated[
        float, typer.Option("--image-seconds", help="Seconds to read one image; later it is given up.", min=0.1)
    ] = 60.0,
    model: ModelNow = None,
) -> None:
    """Predict what is not there yet.

    Any number of runs may work on one folder at a time, on any machines that share it. Running it again resumes a run
    that was ended, whatever ended it.

    The exit code is 1 if some images could not be read; their rows say why.

    Example: signsclf batch run out --workers 4
    """
    require_extra("parquet", "batch")
    with no_garbage():
        from signsclf.scale.batch import parse_share, run, share_from
        from signsclf.scale.plan import open_plan
        from signsclf.scale.results import Watcher

    if address is not None and engine is not Engine.RAY:
        raise SignsclfError("--address is of a Ray cluster; add --engine ray")
    share, variable = (parse_share(shards_of), "") if shards_of is not None else share_from(os.environ)
    plan = open_plan(out, model)
    if variable:
        eprint(f"share {share.index} of {share.count}, as ${variable} says")
    bar = Bar("shards")
    began = time.monotonic()
    options: dict[str, Any] = {
        "workers": workers, "threads": threads, "share": share, "image_seconds": image_seconds,
        "tell": lambda done, total: bar("predicting", done, total),
    }  # fmt: skip
    if engine is Engine.RAY:
        from signsclf.scale.on_ray import run_on_ray

        run_on_ray(plan, address=address, **options)
    else:
        run(plan, **options)
    status = Watcher(plan).status()
    eprint(
        f"done: {count(len(share.of(plan.shards)), 'shard')} in {duration(time.monotonic() - began)}; "
        f"{status.parts:,} of {status.shards:,} are there"
    )
    _tell_failures(status)


@batch_app.command("status")
def status_command(
    out: Out,
    once: Annotated[bool, typer.Option("--once", help="On a terminal too, tell once and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell how far a batch is; on a terminal until it is done.

    Example: signsclf batch status out
    """
    require_extra("parquet", "batch")
    from signsclf.scale.plan import open_plan
    from signsclf.scale.results import Watcher

    watcher = Watcher(open_plan(out))
    status = watcher.status()
    if not as_json and not once and sys.stderr.isatty():
        bar = Bar()
        while status.done < status.rows:
            bar.show("predicting", status.done, status.rows, _pace(status))
            time.sleep(_LOOK_SECONDS)
            status = watcher.status()
        bar.close_shown()
    if as_json:
        from dataclasses import asdict

        echo_json(asdict(status))
        return
    share = 100 * status.done / status.rows
    echo(f"{status.done:,} of {count(status.rows, 'image')} ({share:.1f} %), {_pace(status)}")
    echo(f"{status.parts:,} of {count(status.shards, 'shard')}; {status.claimed:,} in work")
    for kind, n in status.errors.items():
        echo(f"{n:,} not read: {visible(kind)}")


@batch_app.command("verify")
def verify_command(out: Out) -> None:
    """Check that each image has its row.

    Every part is compared with the plan; then _SUCCESS is written, with a hash of all parts. The exit code is 1 if some
    images could not be read, and 2 if something is missing or wrong.

    Example: signsclf batch verify out
    """
    require_extra("parquet", "batch")
    from signsclf.scale.plan import open_plan
    from signsclf.scale.results import verify

    bar = Bar("shards")
    status = verify(open_plan(out), lambda done, total: bar("verifying", done, total))
    echo(f"whole: {count(status.rows, 'image')} in {count(status.parts, 'part')}, each once")
    _tell_failures(status)


@batch_app.command("report")
def report_command(out: Out, as_json: AsJson = False, model: ModelNow = None) -> None:
    """Count what was predicted.

    Compares it with what the model's folder says of images that the model had not seen.

    Example: signsclf batch report out
    """
    require_extra("parquet", "batch")
    from signsclf.scale.plan import open_plan
    from signsclf.scale.results import summarise

    summary = summarise(open_plan(out, model))
    if as_json:
        echo_json(summary.to_dict())
        return
    echo(f"{count(summary.rows, 'image')} predicted, {summary.errors:,} not read")
    for label, n in list(summary.labels.items())[:_LABELS_SHOWN]:
        echo(f"{n:>12,}  {100 * n / summary.rows:5.1f} %  {visible(label)}")
    if len(summary.labels) > _LABELS_SHOWN:
        echo(f"{'':>12}  and {len(summary.labels) - _LABELS_SHOWN:,} more classes")
    reference = summary.reference or {}
    told = {"rejected": ("rejected", summary.rejected), "accuracy": ("mean confidence", summary.confidence)}
    for key, (name, value) in told.items():
        if value is not None:
            known = (
                f"; {100 * reference[key]:.1f} % {_OF[key]}" if key in reference else "; the model tells no reference"
            )
            echo(f"{name}: {100 * value:.1f} %{known}")


_OF = {
    "rejected": "of images that the model had not seen, when it was made",
    "accuracy": "were right of images that it had not seen",
}


def _pace(status: Status) -> str:
    if status.rate is None:
        return "rate not known yet" if status.done < status.rows else "done"
    left = f", {duration(status.seconds_left)} left" if status.seconds_left is not None else ""
    return f"{status.rate:,.0f} images/s{left}"


def _tell_failures(status: Status) -> None:
    if status.failures:
        eprint(f"{count(status.failures, 'image')} could not be read; their rows say why")
        raise typer.Exit(1)
