"""The command ``signsclf diff``."""

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
    OverwriteFiles,
    SkipBad,
    SourceArg,
    SplitOption,
    new_app,
    provider_name,
    reading_options,
)
from signsclf.cli.terminal import TerminalObserver, echo, echo_json, eprint
from signsclf.errors import SignsclfError
from signsclf.files import writes_directly
from signsclf.outputs import refuse_replacing

if TYPE_CHECKING:
    from signsclf.evaluation.diff import Difference

app = new_app()

_SHOWN = 20


@app.command("diff")
@reading_options
def diff_command(
    reading: Reading,
    a: Annotated[Path, typer.Argument(help="The model folder to compare with.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="The model folder to compare.", metavar="B")],
    source: SourceArg,
    split: SplitOption = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="CSV file for the images on which the two models differ.", metavar="FILE"),
    ] = None,
    overwrite: OverwriteFiles = False,
    fail_under: Annotated[
        float | None,
        typer.Option("--fail-under", help="Exit with code 1 if B's accuracy is lower than this.", min=0, max=1),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", help="Exit with code 1 if B's accuracy is lower than A's by more than this.", min=0, max=1
        ),
    ] = 0.01,
    skip_bad: SkipBad = False,
    device: DeviceOption = Provider.AUTO,
    cache: CacheOption = "auto",
    max_pixels: MaxPixels = None,
) -> None:
    """Compare two models on the same labelled images.

    Images that either model was trained on are left out.

    Example: signsclf diff models/old models/new photos
    """
    from signsclf.model.folder import read_config

    for model in (a, b):
        read_config(model)
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise SignsclfError(f"--out {out}: name a file in a folder that exists")
    if out is not None:
        if out.suffix.lower() not in ("", ".csv") and not writes_directly(out):
            raise SignsclfError(f"--out {out}: CSV is written, so name it .csv")
        refuse_replacing(out, overwrite, [source])
    from signsclf.evaluation.diff import diff, write_disagreements

    observer = TerminalObserver()
    found = diff(
        a,
        b,
        source,
        split=split,
        layout=reading,
        skip_bad=skip_bad,
        device=provider_name(device),
        cache=cache,
        observer=observer,
    )
    if out is not None:
        write_disagreements(found, out)
        eprint(f"written: {out}")
    if as_json:
        echo_json(found.to_dict())
    else:
        _tell_difference(found, a, b)
    failures = []
    if fail_under is not None and found.paired.accuracy_b < fail_under:
        failures.append(f"B's accuracy is under --fail-under {fail_under:g}")
    if -found.paired.difference > tolerance:
        failures.append(f"B is worse than A by more than --tolerance {tolerance:g}")
    for failure in failures:
        eprint(f"failed: {failure}")
    if failures:
        raise typer.Exit(1)


def _tell_difference(found: Difference, a: Path, b: Path) -> None:
    pair = found.paired
    for name, folder, accuracy in (("A", a, pair.accuracy_a), ("B", b, pair.accuracy_b)):
        echo(f"{name}: {100 * accuracy:.2f} %  {folder}")
    echo(
        f"B less A: {100 * pair.difference:+.2f} points (95 % interval {100 * pair.difference_low:+.2f} to "
        f"{100 * pair.difference_high:+.2f}, n = {pair.n:,})"
    )
    if pair.by_groups is not None:
        low, high = pair.by_groups
        echo(f"  with whole groups resampled: {100 * low:+.2f} to {100 * high:+.2f}")
    echo(f"McNemar's exact test: p = {pair.p_value:.3g} ({pair.n_only_b:,} right in B alone, {pair.n_only_a:,} in A)")
    if pair.p_value_by_groups is not None:
        echo(f"permutation test over whole groups: p = {pair.p_value_by_groups:.3g}")
    if found.n_left_out:
        echo(f"left out: {found.n_left_out:,} images that one of them was trained on or did not evaluate")
    if not found.has_records:
        echo("seen in training: unknown, since a model folder has no run/split.csv")
    echo(f"they differ on {len(found.disagreements):,} images")
    for row in found.disagreements[:_SHOWN]:
        echo(f"  {row.path}: {row.label}; A {row.predicted_a}, B {row.predicted_b}")
    if len(found.disagreements) > _SHOWN:
        echo("  …  (--out FILE.csv has them all)")
