"""The command ``signsclf evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from signsclf.choices import Part, Provider
from signsclf.options import (
    AsJson,
    DeviceOption,
    LayoutOption,
    ModelDir,
    SkipBad,
    Source,
    new_app,
    provider_name,
    writable_folder,
)
from signsclf.terminal import TerminalObserver, tell

app = new_app()


@app.command("evaluate")
def evaluate_command(
    model: ModelDir,
    source: Source,
    split: Annotated[Part | None, typer.Option("--split", help="Unset: test if there is one, else valid.")] = None,
    as_json: AsJson = False,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for tables and pictures.")] = None,
    layout: LayoutOption = None,
    skip_bad: SkipBad = False,
    device: DeviceOption = Provider.AUTO,
) -> None:
    """Judge a model folder's exported file on labelled images."""
    from signsclf import evaluate
    from signsclf.judging.metrics import headline
    from signsclf.modelfolder import read_config

    classes = read_config(model).classes
    if report is not None:
        writable_folder(report)
    observer = TerminalObserver()
    judgement = evaluate.evaluate(
        model, source, part=split, layout=layout, skip_bad=skip_bad, device=provider_name(device), observer=observer
    )
    observer.bar.close()
    if report is not None:
        for path in evaluate.write_judgement(judgement, classes, report):
            tell(f"written: {path}")
    if as_json:
        typer.echo(json.dumps(judgement.to_dict(), ensure_ascii=False))
        return
    typer.echo(f"{judgement.part}: {headline(judgement.report.to_dict())}")
    if not judgement.has_record:
        typer.echo("seen in training: not known, the model folder has no run/split.csv")
    elif judgement.seen_in_training:
        names = ", ".join(judgement.seen_in_training[:5])
        more = ", …" if len(judgement.seen_in_training) > 5 else ""
        typer.echo(f"seen in training: {len(judgement.seen_in_training):,} of these images ({names}{more})")
    weakest = sorted((c for c in judgement.report.per_class if c.n and c.f1 < 1), key=lambda c: c.f1)[:5]
    for figures in weakest:
        typer.echo(f"  weak: {figures.label}, F1 {100 * figures.f1:.1f} %, n = {figures.n}")
    if judgement.unreadable:
        typer.echo(f"left out: {len(judgement.unreadable):,} unreadable images")
