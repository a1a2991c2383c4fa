"""The command ``signsclf predict``."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from signsclf.choices import FORMATS, Format, Provider
from signsclf.cli.options import DeviceOption, MaxPixels, OverwriteFiles, new_app, provider_name, writable_folder
from signsclf.cli.terminal import Bar, byte_input, eprint, machine_output, no_garbage
from signsclf.errors import SignsclfError
from signsclf.files import open_output, write_atomic, writes_directly
from signsclf.outputs import mark_png, refuse_input, refuse_replacing
from signsclf.text import count

app = new_app()

# Most file systems allow names of 255 bytes, encrypted ones 143, some of which the number and the suffix take.
_NAME_BYTES = 120


@app.command("predict")
def predict_command(
    image: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, patterns, .zip archives; -: read paths from standard input.", metavar="IMAGE…"
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="Model folder; unset: $SIGNSCLF_MODEL, else models/default, else the model of German traffic signs "
            "that comes with signsclf.",
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", help="Number of classes to show for each image.", min=1)] = 5,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Format of the answers; unset: by the suffix of --out, else table."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write: .txt (a table), .json, .jsonl, .csv or .parquet."),
    ] = None,
    overwrite: OverwriteFiles = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Include images in folders further down.")
    ] = False,
    explain: Annotated[Path | None, typer.Option("--explain", help="Folder for a heat map over each image.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads to use; unset: all cores.", min=1)
    ] = None,
    device: DeviceOption = Provider.AUTO,
    max_pixels: MaxPixels = None,
) -> None:
    """Predict the classes of images.

    Example: signsclf predict image.png photos --model models/pets
    """
    with no_garbage():
        from signsclf.imagefiles.hidden import hidden_text
        from signsclf.imagefiles.kinds import skipped_text
        from signsclf.images import split_archive
        from signsclf.inference import writers
        from signsclf.inference.classifier import Classifier, find_model, stream
        from signsclf.inference.listing import expand, listed_names

    if out is not None:
        # A list on standard input may be a file that the shell has opened.
        refuse_replacing(out, overwrite, [*image, *([0] if "-" in image else [])])
    form = form or (Format.JSON if as_json else _format_of(out))
    if form is Format.PARQUET and out is None:
        raise SignsclfError("--format parquet: a binary file, which needs --out FILE")
    # Patterns and lists name their files only while they are read, so the check of --out is repeated then.
    replaced = out if overwrite and out is not None and not writes_directly(out) else None
    folder, found_by = find_model(model, os.environ, Path.cwd())
    eprint(f"model: {folder} ({found_by})")
    classifier = Classifier(folder, threads, device=provider_name(device))
    if classifier.config.crop == "roi":
        eprint("note: this model expects images cropped to the object's box")
    columns = min(top_k, len(classifier.labels))
    failures = 0
    skipped: Counter[str] = Counter()
    hidden: Counter[str] = Counter()
    left_out: list[str] = []
    bar = Bar()
    # On a terminal the rows themselves show the progress.
    shows_bar = out is not None or not sys.stdout.isatty()

    def watched() -> Any:
        nonlocal failures
        listed = listed_names(byte_input()) if "-" in image else None
        paths = expand(image, recursive, listed, skipped, hidden, left_out.append)
        for number, prediction in enumerate(stream(classifier, paths, top_k=top_k), 1):
            failures += prediction.error is not None
            if replaced is not None:
                refuse_input(prediction.path, replaced)
                if archive := split_archive(prediction.path):
                    refuse_input(archive[0], replaced)
            if shows_bar and number % 16 == 0:
                bar("predicting", number, None)
            if explain is not None and prediction.error is None:
                _explain(classifier, prediction.path, explain / picture_name(number, prediction.path), overwrite)
            yield prediction
            if out is None:
                # A live pipe gets each row at once; the next one may take long.
                sys.stdout.flush()

    if explain is not None:
        from signsclf.inference.explain import check_explains

        check_explains(classifier)
        writable_folder(explain)
    if out is None:
        writers.write(watched(), sys.stdout if form is Format.TABLE else machine_output(), form, columns)
    else:
        _write_file(out, form, columns, watched())
    if left_out:
        eprint(f"left out what signsclf wrote: {count(len(left_out), 'picture')}, such as {left_out[0]}")
    if skipped:
        eprint(f"left out: {skipped_text(skipped.elements())}")
    if hidden:
        eprint(f"left out, since hidden: {hidden_text(hidden)}")
    if failures:
        eprint(
            "one image could not be read; its row says why"
            if failures == 1
            else f"{failures:,} images could not be read; their rows say why"
        )
        raise typer.Exit(1)


def _format_of(out: Path | None) -> Format:
    """Choose the format by the suffix of a file; a device, a pipe or a file without a suffix gets a table."""
    if out is None or not out.suffix or writes_directly(out):
        return Format.TABLE
    form = FORMATS.get(out.suffix.lower())
    if form is None:
        raise SignsclfError(
            f"--out {out}: {out.suffix} is the suffix of no format; there are {' '.join(FORMATS)}, or give --format"
        )
    return form


def _explain(classifier: Any, path: str, picture: Path, overwrite: bool) -> None:
    from signsclf.inference.explain import heat_map

    refuse_replacing(picture, overwrite, [path], "--explain")
    data = io.BytesIO()
    heat_map(classifier, path).save(data, "PNG")
    write_atomic(picture, mark_png(data.getvalue()))


def picture_name(number: int, path: str) -> str:
    """Name the heat map of an image: its number, and as much of its name as any file system takes."""
    stem = os.fsencode(Path(path).stem)[:_NAME_BYTES].decode("utf-8", "ignore")
    return f"{number:06}-{stem}.png"


def _write_file(out: Path, form: Format, top_k: int, predictions: Iterable[Any]) -> None:
    from signsclf.inference import writers

    if form is Format.PARQUET:
        with open_output(out) as sink:
            writers.write_parquet(predictions, sink)
    else:
        with open_output(out, text=True) as sink:
            writers.write(predictions, sink, form, top_k)
