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

from signsclf.choices import Format, Provider
from signsclf.errors import SignsclfError
from signsclf.files import open_output, write_atomic
from signsclf.options import DeviceOption, MaxPixels, new_app, provider_name, writable_folder
from signsclf.terminal import Bar, byte_input, machine_output, no_garbage, tell

app = new_app()

# File systems take 255 bytes, of which the number, the suffix and a copy of the folder elsewhere need some.
_NAME_BYTES = 200


@app.command("predict")
def predict_command(
    image: Annotated[list[str], typer.Argument(help="Files, folders, globs, .zip archives; - reads a list.")],
    model: Annotated[Path | None, typer.Option("--model", help="Model folder; unset: see docs/cli.md.")] = None,
    top_k: Annotated[int, typer.Option("--top-k", help="How many classes to show an image.", min=1)] = 5,
    form: Annotated[Format | None, typer.Option("--format", help="Unset: table.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders with all below them.")] = False,
    explain: Annotated[Path | None, typer.Option("--explain", help="Folder for a heat map over each image.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Processor threads.", min=1)] = None,
    device: DeviceOption = Provider.AUTO,
    max_pixels: MaxPixels = None,
) -> None:
    """Predict the classes of images, with the exported model."""
    with no_garbage():
        from signsclf import writers
        from signsclf.hidden import hidden_text
        from signsclf.imagekinds import skipped_text
        from signsclf.listing import expand, listed_names
        from signsclf.predict import Classifier, find_model, stream

    form = form or (Format.JSON if as_json else Format.TABLE)
    if form is Format.PARQUET and out is None:
        raise SignsclfError("--format parquet: a binary file, which needs --out FILE")
    folder, found_by = find_model(model, os.environ, Path.cwd())
    tell(f"model: {folder} ({found_by})")
    classifier = Classifier(folder, threads, device=provider_name(device))
    if classifier.config.crop == "roi":
        tell("note: this model expects images cropped to the object's box")
    columns = min(top_k, len(classifier.labels))
    failures = 0
    skipped: Counter[str] = Counter()
    hidden: Counter[str] = Counter()
    bar = Bar()
    # On a terminal the rows themselves show how far it is.
    shows_bar = out is not None or not sys.stdout.isatty()

    def watched() -> Any:
        nonlocal failures
        paths = expand(image, recursive, listed_names(byte_input()) if "-" in image else None, skipped, hidden)
        for number, prediction in enumerate(stream(classifier, paths, top_k=top_k), 1):
            failures += prediction.error is not None
            if shows_bar and number % 16 == 0:
                bar("predicting", number, None)
            if explain is not None and prediction.error is None:
                _explain(classifier, prediction.path, explain, number)
            yield prediction
            if out is None:
                # Here it is written; the next one may be long in coming.
                sys.stdout.flush()

    if explain is not None:
        from signsclf.explain import check_explains

        check_explains(classifier)
        writable_folder(explain)
    if out is None:
        writers.write(watched(), sys.stdout if form is Format.TABLE else machine_output(), form, columns)
    else:
        _write_file(out, form, columns, watched())
    if skipped:
        tell(f"left out: {skipped_text(skipped.elements())}")
    if hidden:
        tell(f"left out, since hidden: {hidden_text(hidden)}")
    if failures:
        tell(
            "one image could not be read; its row says why"
            if failures == 1
            else f"{failures:,} images could not be read; their rows say why"
        )
        raise typer.Exit(1)


def _explain(classifier: Any, path: str, folder: Path, number: int) -> None:
    from signsclf.explain import heat_map

    data = io.BytesIO()
    heat_map(classifier, path).save(data, "PNG")
    write_atomic(folder / picture_name(number, path), data.getvalue())


def picture_name(number: int, path: str) -> str:
    """What the heat map of an image is called: its number, and as much of its name as any file system takes."""
    stem = os.fsencode(Path(path).stem)[:_NAME_BYTES].decode("utf-8", "ignore")
    return f"{number:06}-{stem}.png"


def _write_file(out: Path, form: Format, top_k: int, predictions: Iterable[Any]) -> None:
    from signsclf import writers

    if form is Format.PARQUET:
        with open_output(out) as sink:
            writers.write_parquet(predictions, sink)
    else:
        with open_output(out, text=True) as sink:
            writers.write(predictions, sink, form, top_k)
