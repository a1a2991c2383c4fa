"""The command ``signsclf export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from signsclf.cli.options import (
    Bare,
    CacheOption,
    ForceInt8Option,
    Int8Option,
    LearnerOption,
    MaxAcceptedError,
    MaxPixels,
    Overwrite,
    Pictures,
    chosen_int8,
    given_options,
    new_app,
)
from signsclf.cli.terminal import TerminalObserver, echo, shown_path
from signsclf.errors import require_extra

app = new_app()


@app.command("export")
def export_command(
    run: Annotated[
        Path,
        typer.Argument(help="The .partial folder of an interrupted run, or a finished model folder.", metavar="RUN"),
    ],
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="Model folder to write.")],
    overwrite: Overwrite = False,
    int8: Int8Option = False,
    force_int8: ForceInt8Option = False,
    holdout: Annotated[
        list[Path] | None,
        typer.Option(
            "--holdout",
            help="Model of the same recipe with some images held out, to evaluate a model trained on all; repeatable.",
            metavar="MODEL",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            help="Images that the models of --holdout were trained on; or where the images of RUN are now.",
            metavar="SOURCE",
        ),
    ] = None,
    max_accepted_error: MaxAcceptedError = 0.005,
    learner: LearnerOption = False,
    pictures: Pictures = False,
    bare: Bare = False,
    cache: CacheOption = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Export a run or a finished model to a new model folder.

    Of a run, the last epoch is taken, with --patience the best. What is exported passes a parity check first.

    Example: signsclf export models/pets --out models/pets-int8 --int8
    """
    require_extra("train", "export")
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
        max_accepted_error=max_accepted_error if "max_accepted_error" in given_options(context) else None,
        learner=learner or None,
        pictures=pictures or None,
        bare=bare,
        cache=cache,
        observer=observer,
    )
    if outcome.metrics:
        echo(headline(outcome.metrics))
    echo(f"model: {shown_path(outcome.folder)}")
