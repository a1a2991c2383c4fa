"""The commands ``signsclf export`` and ``signsclf reload``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from signsclf.cli.options import (
    AcceptError,
    AsJson,
    Bare,
    CacheOption,
    ForceInt8Option,
    Int8Option,
    MaxPixels,
    ModelDir,
    Overwrite,
    chosen_int8,
    given_options,
    new_app,
)
from signsclf.cli.terminal import TerminalObserver, echo, echo_json, eprint, shown_path
from signsclf.errors import require_extra

app = new_app()


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(help="A .partial folder, or a finished model folder.", metavar="RUN")],
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="Model folder to write.")],
    overwrite: Overwrite = False,
    int8: Int8Option = False,
    force_int8: ForceInt8Option = False,
    holdout: Annotated[
        list[Path] | None,
        typer.Option(
            "--holdout",
            help="Model of the same recipe with a part held out, which evaluates one trained on all; repeat.",
            metavar="MODEL",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help="What these models were trained on; or where a run's images lie now.", metavar="SOURCE"
        ),
    ] = None,
    accept_error: AcceptError = 0.005,
    bare: Bare = False,
    cache: CacheOption = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Export the best weights of a run, through the parity gate, to a model folder; or a finished model anew."""
    require_extra("train", "signsclf export")
    from signsclf.model.folder import RECORD, read_config
    from signsclf.runs.folder import claimed, refuse_taken

    with claimed(out.absolute()):
        refuse_taken(out.absolute(), overwrite)
    if not (run / RECORD).is_file():
        read_config(run)
    from signsclf.metrics.classification import headline
    from signsclf.runs.export import export_run

    observer = TerminalObserver()
    outcome = export_run(
        run,
        out,
        overwrite=overwrite,
        int8=chosen_int8(int8, force_int8),
        holdouts=holdout or (),
        source=source,
        accept_error=accept_error if "accept_error" in given_options(context) else None,
        bare=bare,
        cache=cache,
        observer=observer,
    )
    if outcome.metrics:
        echo(headline(outcome.metrics))
    echo(f"model: {shown_path(outcome.folder)}")


@app.command("reload")
def verify_command(
    model: ModelDir,
    learner: Annotated[
        bool, typer.Option("--learner", help="Open learner.pkl too: a pickle, it can run code.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify a model folder, replay its stored images, and show its card."""
    if learner:
        require_extra("train", "--learner")
    from signsclf.export.verify import verify, verify_learner

    found = verify(model)
    result: dict[str, Any] = {
        "architecture": found.config.architecture,
        "classes": len(found.config.classes),
        "size": list(found.config.input_size),
        "figures": found.config.figures,
        "replay_difference": found.difference,
        "bytes": found.bytes,
        "milliseconds": found.milliseconds,
        "images_per_second": found.images_per_second,
    }
    if learner:
        eprint("warning: learner.pkl is a pickle, and opening it can run code; do so only with files that you trust")
        result["learner_difference"] = verify_learner(model)
    if as_json:
        echo_json(result)
        return
    for line in [*found.card.rstrip().split("\n"), ""]:
        echo(line)
    echo(f"checksums: in order; replayed images differ by {found.difference:.1e}")
    if learner:
        echo(f"learner.pkl: opened; replayed images differ by {result['learner_difference']:.1e}")
    echo(
        f"size: {found.bytes / 1e6:.1f} MB; speed here: {found.milliseconds:.1f} ms an image, "
        f"{found.images_per_second:,.0f} images/s in batches"
    )
