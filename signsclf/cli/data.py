"""The commands of ``signsclf data``."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from signsclf.choices import Reading
from signsclf.cli.options import AsJson, MaxPixels, OverwriteFiles, SourceArg, new_app, reading_options, writable_folder
from signsclf.cli.terminal import Bar, TerminalObserver, block, echo, echo_json, eprint
from signsclf.errors import SignsclfError, has_extra, install_command, require_extra
from signsclf.files import write_atomic
from signsclf.outputs import COUNT_FILES, mark_png, refuse_replacing

_MOST_NAMED = 20
"""Of images that are the same, so many are named in a line."""
_NEAR_NAMED = 10
"""Of near-duplicates, so many groups are listed, those in two splits and the largest first."""
_NEAR_SHOWN = 5
"""Of such a group, so many images are named."""

app = new_app()
data_app = new_app(
    name="data",
    help="Check, download and render labelled images.\n\nExample: signsclf data check photos",
    no_args_is_help=True,
)
app.add_typer(data_app)


@data_app.command("check")
@reading_options
def check_command(
    reading: Reading,
    source: SourceArg,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for class_counts.csv and .png.")] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="PNG file for a sheet of the near-duplicates, to look at.")
    ] = None,
    overwrite: OverwriteFiles = False,
    as_json: AsJson = False,
    max_pixels: MaxPixels = None,
) -> None:
    """List broken, tiny, duplicate and near-duplicate images.

    Decodes all and counts the classes. Near-duplicates, such as frames of a burst and re-encoded copies, are looked for
    within each class, among images without a group; some may only look alike.

    The exit code is 1 if images cannot be read, or if identical ones are in two classes or in two splits.

    Example: signsclf data check photos --out counts
    """
    from signsclf import images
    from signsclf.data import check
    from signsclf.data.table import describe, read_source

    if out is not None:
        writable_folder(out)
        for name in COUNT_FILES:
            refuse_replacing(out / name, overwrite, [source])
    if sheet is not None:
        _refuse_sheet(sheet, overwrite, [source])
        require_extra("plots", "--sheet")
    observer = TerminalObserver()
    found = read_source(source, reading)
    observer.source_read(lambda: describe(found))
    result = check.check(found, observer=observer)
    if out is not None:
        for path in check.write_counts(result, out):
            eprint(f"written: {path}")
        if not has_extra("plots"):
            eprint(f"left out: class_counts.png; for it, {install_command('plots')}")
    if sheet is not None:
        from signsclf.report.sheets import near_duplicates

        shown = [found_set.paths for found_set in _worst(result)]
        full = {found.relative(path): path for path in found.table["path"]}
        near_duplicates(shown, lambda name: images.thumbnail(full[name]), sheet)
        eprint(f"written: {sheet}")
    if as_json:
        echo_json(result.to_dict())
    else:
        _print_check(result, check.bars(result, block=block()))
    if not result.ok:
        raise typer.Exit(1)


@data_app.command("download")
def download_command(
    what: Annotated[str, typer.Argument(help="Benchmark to download: gtsrb.", metavar="gtsrb")],
    folder: Annotated[Path, typer.Argument(help="Folder to download to.", metavar="DIR")],
    url: Annotated[
        str | None, typer.Option("--url", help="Base URL of another server that holds the three archives.")
    ] = None,
) -> None:
    """Download, check and unpack the archives of a benchmark.

    An interrupted download is resumed.

    Example: signsclf data download gtsrb data/gtsrb
    """
    if what != "gtsrb":
        raise SignsclfError(f"data download: {what!r} is not known; gtsrb is")
    _download(folder, url)
    echo(str(folder))


@data_app.command("render")
def render_command(
    folder: Annotated[
        Path | None, typer.Argument(help="New folder for the images, one folder for each class.", metavar="DIR")
    ] = None,
    per_class: Annotated[int, typer.Option("--per-class", help="Number of images of each class.", min=1)] = 60,
    size: Annotated[
        str, typer.Option("--size", help="Smallest and largest side of the images, in pixels, LOW:HIGH.")
    ] = "24:96",
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of everything random; another seed renders other signs.", min=0)
    ] = 0,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="PNG file for a contact sheet of all classes.")] = None,
    overwrite: OverwriteFiles = False,
) -> None:
    """Render the 43 German traffic signs.

    They become a source to train on, a contact sheet, or both.

    Example: signsclf data render signs --per-class 60 --sheet signs.png
    """
    from signsclf.data import synthetic

    if folder is None and sheet is None:
        raise SignsclfError("data render: nowhere to write to; give a DIR, --sheet FILE.png, or both")
    if sheet is not None:
        _refuse_sheet(sheet, overwrite)
    if folder is not None:
        low, _, high = size.partition(":")
        if not (low.isdigit() and high.isdigit()):
            raise SignsclfError(f"--size: {size!r} is not LOW:HIGH in pixels, such as 24:96")
        bar = Bar()
        synthetic.write(folder, per_class, (int(low), int(high)), seed, lambda done, n: bar("rendering", done, n))
        echo(str(folder))
    if sheet is not None:
        writable_folder(sheet.absolute().parent)
        data = io.BytesIO()
        synthetic.contact_sheet().save(data, "PNG")
        write_atomic(sheet, mark_png(data.getvalue()))
        echo(str(sheet))


def _crossing(groups: Sequence[Any]) -> str:
    n_images = sum(len(found.paths) for found in groups)
    across = sum(len(set(found.splits)) > 1 for found in groups)
    told = [f"{n_images:,} images"] * bool(n_images) + [f"{across:,} across splits"] * bool(across)
    return f" ({', '.join(told)})" if told else ""


def _refuse_sheet(sheet: Path, overwrite: bool, sources: Sequence[Path] = ()) -> None:
    if sheet.suffix.lower() not in ("", ".png"):
        raise SignsclfError(f"--sheet {sheet}: a PNG file is written, so name it .png")
    refuse_replacing(sheet, overwrite, sources, option="--sheet")


def _worst(result: Any) -> list[Any]:
    """Order near-duplicates: those in two splits first, then the largest."""
    return sorted(result.near_duplicates, key=lambda found: (len(set(found.splits)) < 2, -len(found.paths)))


def _download(folder: Path, url: str | None) -> None:
    from signsclf.data.download import download_gtsrb
    from signsclf.data.gtsrb import BASE_URL

    bar = Bar("bytes")
    download_gtsrb(folder, url or BASE_URL, lambda done, total: bar("downloading", done, total))


def _print_check(result: Any, bars: list[str]) -> None:
    for line in bars:
        echo(line)
    for path, reason in result.unreadable:
        echo(f"unreadable: {path}: {reason}")
    for path, width, height in result.tiny:
        echo(f"tiny: {path}: {width}×{height}")
    for found in result.duplicates:
        told = {"across classes": found.labels, "across splits": found.splits}.get(found.kind.value)
        names = found.paths if told is None else [f"{path} ({of})" for path, of in zip(found.paths, told, strict=True)]
        more = f" and {len(names) - _MOST_NAMED:,} more (--json names all)" if len(names) > _MOST_NAMED else ""
        echo(f"duplicates ({found.kind.value}): {', '.join(names[:_MOST_NAMED])}{more}")
    for found in _worst(result)[:_NEAR_NAMED]:
        names = list(found.paths)
        if len(set(found.splits)) > 1:
            names = [f"{path} ({of})" for path, of in zip(found.paths, found.splits, strict=True)]
        more = f" and {len(names) - _NEAR_SHOWN:,} more" if len(names) > _NEAR_SHOWN else ""
        echo(f"near-duplicates ({found.kind.value}): {', '.join(names[:_NEAR_SHOWN])}{more}")
    if (left := len(result.near_duplicates) - _NEAR_NAMED) > 0:
        echo(f"near-duplicates: {left:,} more groups (--json names all, --sheet FILE.png shows the worst)")
    harmful = Counter(found.kind.value for found in result.duplicates if found.kind.value != "within class")
    kinds = f" ({', '.join(f'{n:,} {kind}' for kind, n in sorted(harmful.items()))})" if harmful else ""
    echo(
        f"{result.n:,} images: {len(result.unreadable):,} unreadable, {len(result.tiny):,} tiny, "
        f"{len(result.duplicates):,} sets of duplicates{kinds}, {len(result.near_duplicates):,} groups of "
        f"near-duplicates{_crossing(result.near_duplicates)}"
    )
