"""The command ``signsclf evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from signsclf.choices import Provider, Reading
from signsclf.cli.options import (
    AsJson,
    CacheOption,
    DeviceOption,
    MaxPixels,
    ModelDir,
    OverwriteFiles,
    SkipBad,
    SourceArg,
    SplitOption,
    new_app,
    provider_name,
    reading_options,
    writable_folder,
)
from signsclf.cli.terminal import TerminalObserver, echo, echo_json, eprint
from signsclf.errors import SignsclfError, has_extra, install_command, require_extra
from signsclf.outputs import REPORT_FILES, refuse_replacing

if TYPE_CHECKING:
    from signsclf.evaluation.evaluate import Evaluation
    from signsclf.metrics.findings import Findings

app = new_app()


@app.command("evaluate")
@reading_options
def evaluate_command(
    reading: Reading,
    model: ModelDir,
    source: SourceArg,
    split: SplitOption = None,
    as_json: AsJson = False,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for report.html and its tables.")] = None,
    overwrite: OverwriteFiles = False,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also evaluate corrupted images: noise, fog, rotation and eight more.")
    ] = False,
    unknown: Annotated[
        Path | None,
        typer.Option("--unknown", help="Folder or .zip of out-of-distribution images; measures how many are accepted."),
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Also look for wrong labels and for repeated images; needs signsclf[audit].")
    ] = False,
    skip_bad: SkipBad = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the corruptions of --robustness.", min=0)] = 0,
    device: DeviceOption = Provider.AUTO,
    cache: CacheOption = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Evaluate a model on labelled images, with intervals.

    Example: signsclf evaluate models/pets photos --report report
    """
    from signsclf.model.folder import read_config

    # All checks come before the images are read.
    read_config(model)
    if report is not None:
        writable_folder(report)
        for name in REPORT_FILES:
            refuse_replacing(report / name, overwrite, [source, *([unknown] if unknown else [])], "--report")
    if unknown is not None and not unknown.exists():
        raise SignsclfError(f"--unknown {unknown}: does not exist; name a folder or a .zip archive of images")
    if audit:
        require_extra("audit", "--audit")
    from signsclf.evaluation.evaluate import evaluate

    observer = TerminalObserver()
    provider = provider_name(device)
    evaluation = evaluate(
        model,
        source,
        split=split,
        layout=reading,
        skip_bad=skip_bad,
        device=provider,
        cache=cache,
        observer=observer,
    )
    examined = None
    if report is not None or robustness or unknown is not None or audit:
        from signsclf.evaluation import report as evalreport

        examined = evalreport.examine(
            evaluation,
            robust=robustness,
            unknown=unknown,
            audit=audit,
            seed=seed,
            observer=observer,
        )
        if report is not None:
            for path in evalreport.write_evaluation(examined, report):
                eprint(f"written: {path}")
            if not has_extra("plots"):
                eprint(f"left out: confusion.png and mistakes.png; for them, {install_command('plots')}")
    if as_json:
        echo_json((examined or evaluation).to_dict())
        return
    _tell_evaluation(evaluation)
    if examined is not None:
        _tell_findings(examined.found, sum(p.error is not None for p in examined.unknown))


def _tell_evaluation(evaluation: Evaluation) -> None:
    from signsclf.metrics.breakdown import by_track, worst_groups
    from signsclf.metrics.classification import headline
    from signsclf.metrics.intervals import group_numbers

    echo(f"{evaluation.split}: {headline(evaluation.to_dict())}")
    if not evaluation.has_record:
        echo("seen in training: unknown, the model folder has no run/split.csv")
    elif evaluation.seen_in_training:
        names = ", ".join(evaluation.seen_in_training[:5])
        more = ", …" if len(evaluation.seen_in_training) > 5 else ""
        echo(f"seen in training: {len(evaluation.seen_in_training):,} of these images ({names}{more})")
    weakest = sorted((c for c in evaluation.report.per_class if c.n and c.f1 < 1), key=lambda c: c.f1)[:5]
    for figures in weakest:
        echo(f"  weak: {figures.label}, F1 {100 * figures.f1:.1f} %, n = {figures.n}")
    if evaluation.report.n_groups is not None:
        right = evaluation.probabilities.argmax(axis=1) == evaluation.targets
        worst = worst_groups(right, evaluation.groups)
        lost = by_track(right, group_numbers(evaluation.groups)).all_wrong
        named = ", ".join(f"{group.label} ({group.right} of {group.n} right)" for group in worst[:5])
        tail = f"; worst: {named}" if named else ""
        echo(f"groups: {evaluation.report.n_groups:,}, {lost:,} of them wholly wrong{tail}")
    if evaluation.unreadable:
        echo(f"left out: {len(evaluation.unreadable):,} unreadable images")


def _tell_findings(found: Findings, n_unreadable: int) -> None:
    for kept in filter(None, (found.without_training_frames, found.without_near_training)):
        low, high = kept.interval
        echo(
            f"{kept.note}: accuracy {100 * kept.value:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}, "
            f"n = {kept.n:,})"
        )
    before, after = found.confidence.before, found.confidence.after
    how = ", cross-fitted" if found.confidence.cross_fitted else ""
    echo(f"calibration error: {100 * before.ece:.2f} % without temperature, {100 * after.ece:.2f} % with{how}")
    if (measured := found.robustness) is not None:
        means = {name: sum(values) / len(values) for name, values in measured.accuracy.items()}
        worst = min(means, key=means.get)
        echo(
            f"corrupted: mean accuracy {100 * measured.mean:.1f} % against {100 * measured.clean:.1f} % "
            f"(n = {measured.n:,}); hardest is {worst}, {100 * means[worst]:.1f} %"
        )
    if (unknown := found.unknown) is not None:
        accepted = "" if unknown.accepted is None else f"{unknown.accepted:,} of {unknown.n:,} accepted, "
        echo(f"out-of-distribution images: {accepted}AUROC {100 * unknown.auroc:.1f} %")
        if n_unreadable:
            echo(f"  left out: {n_unreadable:,} of them that cannot be read")
    if (audit := found.audit) is not None:
        echo(
            f"labels: {len(audit.issues):,} of {audit.n:,} suspected, {len(audit.duplicates):,} images are in training "
            "too"
        )
