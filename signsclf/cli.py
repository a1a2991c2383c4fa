"""The command line: parses, calls one function, prints. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from signsclf import __version__
from signsclf.choices import Format, Layout, Part, Provider
from signsclf.errors import SignsclfError, SourceError
from signsclf.options import recipe_options
from signsclf.recipe import Recipe
from signsclf.terminal import Bar, Stopped, TerminalObserver, quiet_pipe, stop_on_signals, tell

DOWNLOAD_MB = 366
DEFAULT_OUT = Path("models/default")

# Usage errors; newer Typers carry click inside themselves, older ones import it.
_ClickException = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class _Group(TyperGroup):
    """All commands, run so that a reader who closes the pipe early is no failure."""

    def invoke(self, ctx: typer.Context) -> Any:
        invoke = super().invoke
        return quiet_pipe(lambda: invoke(ctx))


app = typer.Typer(
    name="signsclf",
    cls=_Group,
    help="Train, judge and export image classifiers; at home on German traffic signs.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    # Rich's own help takes longer to import than the rest of `signsclf --help`.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at, fetch and draw labelled images.", no_args_is_help=True)
app.add_typer(data_app, name="data")

SOURCE_HELP = "A folder, a .zip, a .csv or .parquet table, or synthetic; none means GTSRB."
OptionalSource = Annotated[str | None, typer.Argument(help=SOURCE_HELP, metavar="SOURCE")]
Source = Annotated[str, typer.Argument(help="A folder, a .zip, a .csv or .parquet table, or synthetic.")]
ModelDir = Annotated[Path, typer.Argument(help="A model folder.", metavar="MODEL")]
LayoutOption = Annotated[Layout | None, typer.Option("--layout", help="How the source lies; unset: recognised.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out, and list them.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where GTSRB lies when no SOURCE is given.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Download GTSRB without asking.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DeviceOption = Annotated[Provider, typer.Option("--device", help="auto takes CUDA where the extra gpu brought it.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"signsclf {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    pass


@app.command("train")
@recipe_options
def train_command(
    recipe: Recipe,
    source: OptionalSource = None,
    out: Annotated[Path | None, typer.Option("--out", help="Model folder to write.  [default: models/default]")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the interrupted run of this model folder.")
    ] = None,
    layout: LayoutOption = None,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    accept_error: Annotated[
        float, typer.Option("--accept-error", help="Share of accepted-but-wrong to aim the reject threshold at.")
    ] = 0.005,
    data_dir: DataDir = None,
    yes: Yes = False,
) -> None:
    """Train a classifier, judge it, and export it to a model folder."""
    from signsclf.runfolder import final_folder, partial_folder, read_record, refuse_taken

    observer = TerminalObserver()
    # What can be wrong is looked at before torch is imported, which takes seconds.
    if resume is not None:
        if source or out or layout or skip_bad or recipe != Recipe():
            raise SignsclfError("--resume: the run has its own SOURCE, --out and recipe; give --resume DIR alone")
        read_record(partial_folder(final_folder(resume.expanduser().absolute())))
        from signsclf import train

        outcome = train.resume(resume, overwrite=overwrite, observer=observer)
    else:
        target = out or DEFAULT_OUT
        refuse_taken(target.expanduser().absolute(), overwrite)
        found = _read_source(source, layout, data_dir, yes)
        from signsclf import train

        outcome = train.train(
            found,
            target,
            recipe,
            overwrite=overwrite,
            skip_bad=skip_bad,
            accept_error=accept_error,
            observer=observer,
        )
    folder = _shown(final_folder(outcome.folder))
    if outcome.stopped:
        tell(f"stopped; go on with: signsclf train --resume {folder}")
        raise typer.Exit(128 + (observer.signal or 2))
    if outcome.metrics:
        typer.echo(headline(outcome.metrics))
    typer.echo(f"model: {folder}")
    origin = source or _shown(Path(outcome.source))
    tell(f"evaluate it: signsclf evaluate {folder} {_quoted(origin)}")
    tell(f"predict with it: signsclf predict --model {folder} image.png")


@app.command("lr-find")
@recipe_options
def lr_find_command(
    recipe: Recipe,
    source: OptionalSource = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for lr_find.png and lr_find.json.")] = Path("lr_find"),
    layout: LayoutOption = None,
    skip_bad: SkipBad = False,
    data_dir: DataDir = None,
    yes: Yes = False,
) -> None:
    """Search for a learning rate: a plot, its numbers, and four suggestions."""
    found = _read_source(source, layout, data_dir, yes)
    _writable_folder(out)
    from signsclf import train

    observer = TerminalObserver()
    search = train.search_lr(found, recipe, skip_bad=skip_bad, observer=observer)
    observer.bar.close()
    train.write_search(search, out)
    for name, rate in search.suggestions.items():
        typer.echo(f"{name:8} {'none: the curve is too short' if rate is None else f'{rate:.2e}'}")
    if search.diverged_early:
        tell(f"the loss diverged after {len(search.lrs)} rates; trust the suggestions less")
    tell(f"written: {out / 'lr_find.png'}, {out / 'lr_find.json'}")


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
    from signsclf.modelfolder import read_config

    classes = read_config(model).classes
    if report is not None:
        _writable_folder(report)
    observer = TerminalObserver()
    judgement = evaluate.evaluate(
        model, source, part=split, layout=layout, skip_bad=skip_bad, device=_provider(device), observer=observer
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
) -> None:
    """Predict the classes of images, with the exported model."""
    from signsclf import writers
    from signsclf.listing import expand
    from signsclf.predict import Classifier, find_model, stream

    form = form or (Format.JSON if as_json else Format.TABLE)
    if form is Format.PARQUET and out is None:
        raise SignsclfError("--format parquet: a binary file, which needs --out FILE")
    folder, found_by = find_model(model, os.environ, Path.cwd())
    tell(f"model: {folder} ({found_by})")
    classifier = Classifier(folder, threads, device=_provider(device))
    if classifier.config.crop == "roi":
        tell("note: this model expects images cropped to the object's box")
    failures = 0
    bar = Bar()

    def watched() -> Any:
        nonlocal failures
        paths = expand(image, recursive, sys.stdin if "-" in image else None)
        for number, prediction in enumerate(stream(classifier, paths, top_k=top_k), 1):
            failures += prediction.error is not None
            if out is not None and number % 16 == 0:
                bar("predicting", number, None)
            if explain is not None and prediction.error is None:
                _explain(classifier, prediction.path, explain, number)
            yield prediction

    if explain is not None:
        _writable_folder(explain)
    if out is None:
        writers.write(watched(), sys.stdout, form)
    else:
        _write_file(out, form, watched)
    bar.close()
    if failures:
        tell(
            "one image could not be read; its row says why"
            if failures == 1
            else f"{failures:,} images could not be read; their rows say why"
        )
        raise typer.Exit(1)


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(help="A .partial folder, or a finished model folder.", metavar="RUN")],
    out: Annotated[Path, typer.Option("--out", help="Model folder to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Export the best weights of a run, through the parity gate, to a model folder."""
    from signsclf.modelfolder import RECORD, read_config
    from signsclf.runfolder import refuse_taken

    refuse_taken(out.expanduser().absolute(), overwrite)
    if not (run / RECORD).is_file():
        read_config(run)
    from signsclf import train

    observer = TerminalObserver()
    outcome = train.export_run(run, out, overwrite=overwrite, observer=observer)
    observer.bar.close()
    if outcome.metrics:
        typer.echo(headline(outcome.metrics))
    typer.echo(f"model: {_shown(outcome.folder)}")


@app.command("reload")
def reload_command(
    model: ModelDir,
    learner: Annotated[
        bool, typer.Option("--learner", help="Open learner.pkl too: a pickle, it can run code.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify a model folder, replay its stored images, and show its card."""
    from signsclf.reload import reload, reload_learner

    found = reload(model)
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
        tell("warning: learner.pkl is a pickle, and opening it can run code; do so only with files that you trust")
        result["learner_difference"] = reload_learner(model)
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    typer.echo(found.card.rstrip())
    typer.echo("")
    typer.echo(f"checksums: in order; replayed images differ by {found.difference:.1e}")
    if learner:
        typer.echo(f"learner.pkl: opened; replayed images differ by {result['learner_difference']:.1e}")
    typer.echo(
        f"size: {found.bytes / 1e6:.1f} MB; speed here: {found.milliseconds:.1f} ms an image, "
        f"{found.images_per_second:,.0f} images/s in batches"
    )


@data_app.command("check")
def check_command(
    source: Source,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for class_counts.csv and .png.")] = None,
    as_json: AsJson = False,
    layout: LayoutOption = None,
) -> None:
    """Decode every image; list the unreadable, the tiny and the duplicates; count the classes."""
    from signsclf.data import check
    from signsclf.data.table import read_source

    if out is not None:
        _writable_folder(out)
    observer = TerminalObserver()
    found = read_source(source, layout)
    observer.source(found)
    result = check.check(found, progress=lambda done, total: observer.progress("checking", done, total))
    observer.bar.close()
    if out is not None:
        for path in check.write_counts(result, out):
            tell(f"written: {path}")
    if as_json:
        typer.echo(json.dumps(result.to_dict(), ensure_ascii=False))
    else:
        _print_check(result, check.bars(result))
    if not result.ok:
        raise typer.Exit(1)


@data_app.command("download")
def download_command(
    what: Annotated[str, typer.Argument(help="gtsrb.", metavar="gtsrb")],
    folder: Annotated[Path, typer.Argument(help="Where to.", metavar="DIR")],
    url: Annotated[str | None, typer.Option("--url", help="Another place that holds the three archives.")] = None,
) -> None:
    """Fetch the three official archives of a benchmark, checked and unpacked; a broken transfer is resumed."""
    if what != "gtsrb":
        raise SignsclfError(f"data download: {what!r} is not known; gtsrb is")
    _download(folder, url)
    typer.echo(str(folder))


@data_app.command("draw")
def draw_command(
    folder: Annotated[Path | None, typer.Argument(help="New folder for the images.", metavar="DIR")] = None,
    per_class: Annotated[int, typer.Option("--per-class", help="Images of each class.", min=1)] = 60,
    size: Annotated[str, typer.Option("--size", help="Smallest and largest side in pixels, LOW:HIGH.")] = "24:96",
    seed: Annotated[int, typer.Option("--seed", help="Of everything drawn.", min=0)] = 0,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="PNG that shows every class.")] = None,
) -> None:
    """Draw the 43 German traffic signs, as a source to train on, as a contact sheet, or both."""
    from signsclf.data import synthetic

    if folder is None and sheet is None:
        raise SignsclfError("data draw: nothing to draw to; give a DIR, --sheet FILE.png, or both")
    if sheet is not None:
        _writable_folder(sheet.absolute().parent)
        synthetic.contact_sheet().save(sheet, "PNG")
        typer.echo(str(sheet))
    if folder is not None:
        low, _, high = size.partition(":")
        if not (low.isdigit() and high.isdigit()):
            raise SignsclfError(f"--size: {size!r} is not LOW:HIGH in pixels, such as 24:96")
        bar = Bar()
        synthetic.write(folder, per_class, (int(low), int(high)), seed, lambda done, n: bar("drawing", done, n))
        bar.close()
        typer.echo(str(folder))


def _read_source(source: str | None, layout: Layout | None, data_dir: Path | None, yes: bool) -> Any:
    from signsclf.data.table import read_source

    return read_source(source or gtsrb_source(data_dir, yes), layout)


def headline(figures: dict[str, Any]) -> str:
    """Accuracy with interval and n, top-5 and macro-F1 of a `Report.to_dict`, in one line."""
    low, high = 100 * figures["accuracy_low"], 100 * figures["accuracy_high"]
    return (
        f"accuracy {100 * figures['accuracy']:.2f} % (95 % interval {low:.2f} to {high:.2f}, n = {figures['n']:,}), "
        f"top-5 {100 * figures['top5']:.2f} %, macro-F1 {100 * figures['macro_f1']:.2f} % "
        f"({figures['n_classes_present']} classes)"
    )


def gtsrb_source(data_dir: Path | None, yes: bool) -> str:
    """The folder that GTSRB lies in, downloaded first where the user agrees.

    Raises:
        SourceError: it is not there and was not fetched; the message names the ways on.
    """
    from platformdirs import user_data_path

    environment = os.environ.get("SIGNSCLF_DATA_DIR")
    folder = data_dir or (Path(environment) if environment else user_data_path("signsclf", False) / "gtsrb")
    # A broken download leaves its .part.
    if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob("*.zip.part")):
        return str(folder)
    ways = (
        f"GTSRB is not in {folder}: fetch it with `signsclf data download gtsrb {folder}`, give a SOURCE, "
        "or train on drawn signs with `signsclf train synthetic`"
    )
    asked = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    if not yes and not (asked and typer.confirm(f"Download GTSRB ({DOWNLOAD_MB} MB) to {folder}?", err=True)):
        raise SourceError(ways)
    try:
        _download(folder, None)
    except SignsclfError as error:
        raise SourceError(f"{error}; {ways}") from error
    return str(folder)


def _download(folder: Path, url: str | None) -> None:
    from signsclf.data.download import download_gtsrb
    from signsclf.data.gtsrb import BASE_URL

    bar = Bar("bytes")
    download_gtsrb(folder, url or BASE_URL, lambda done, total: bar("downloading", done, total))
    bar.close()


def _print_check(result: Any, bars: list[str]) -> None:
    for line in bars:
        typer.echo(line)
    for path, reason in result.unreadable:
        typer.echo(f"unreadable: {path}: {reason}")
    for path, width, height in result.tiny:
        typer.echo(f"tiny: {path}: {width}×{height}")
    for found in result.duplicates:
        typer.echo(f"duplicates ({found.kind.value}): {', '.join(found.paths)}")
    typer.echo(
        f"{result.n:,} images: {len(result.unreadable):,} unreadable, {len(result.tiny):,} tiny, "
        f"{len(result.duplicates):,} sets of duplicates"
    )


def _explain(classifier: Any, path: str, folder: Path, number: int) -> None:
    from signsclf.explain import heat_map

    heat_map(classifier, path).save(folder / f"{number:06}-{Path(path).stem}.png")


def _write_file(out: Path, form: Format, predictions: Callable[[], Any]) -> None:
    """Writes to a new name first, so that the file is there whole or not at all."""
    from signsclf import writers

    new = out.with_name(out.name + ".partial")
    try:
        try:
            if form is Format.PARQUET:
                writers.write_parquet(predictions(), new)
            else:
                with new.open("w", encoding="utf-8", newline="") as sink:
                    writers.write(predictions(), sink, form)
            new.replace(out)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise SignsclfError(f"--out {out}: cannot be written ({error.strerror or error}); name another file") from error


def _writable_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SignsclfError(f"{folder}: cannot be made ({error.strerror or error}); name another folder") from error
    if not os.access(folder, os.W_OK):
        raise SignsclfError(f"{folder}: cannot be written to; name another folder")


def _provider(device: Provider) -> str:
    if device is Provider.CPU:
        return device.value
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return Provider.CUDA.value
    if device is Provider.CUDA:
        tell("note: CUDA needs the extra gpu (pip install 'signsclf[gpu]'); running on the processor")
    return Provider.CPU.value


def _shown(folder: Path) -> str:
    """A path as the user would write it: relative where it lies below the working directory."""
    try:
        return _quoted(str(folder.relative_to(Path.cwd())))
    except ValueError:
        return _quoted(str(folder))


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def main() -> None:
    """The console script: exit codes 0 done, 1 found trouble, 2 wrong use, 130 and 143 stopped by a signal."""
    debug = "--debug" in sys.argv[1:] or bool(os.environ.get("SIGNSCLF_DEBUG"))
    if not debug:
        # Other libraries' warnings are theirs to mend; a user can do nothing about them.
        warnings.filterwarnings("ignore")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    stop_on_signals()
    try:
        # Typer gives back the code of an Exit; the commands themselves give back nothing.
        code = app(args=[a for a in sys.argv[1:] if a != "--debug"], standalone_mode=False) or 0
        sys.stdout.flush()
    except (Stopped, KeyboardInterrupt, typer.Abort) as error:
        tell("stopped")
        code = getattr(error, "exit_code", 130)
    except Exception as error:
        if debug:
            raise
        code = _explain_failure(error)
    raise SystemExit(code)


def _explain_failure(error: Exception) -> int:
    """Tells in one line of what went wrong, and gives the exit code for it."""
    code = 1
    if isinstance(error, SignsclfError):
        line, code = str(error), error.exit_code
    elif type(error).__name__ == "NoArgsIsHelpError":
        tell(error.format_message())
        return 2
    elif isinstance(error, _ClickException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "signsclf"
        line, code = f"{error.format_message().rstrip('.')}; see `{command} --help`", 2
    elif isinstance(error, MemoryError):
        line = "out of memory; try a smaller --batch-size or --size"
    elif isinstance(error, OSError):
        line = f"{error.filename or 'standard output'}: {error.strerror or error}"
    else:
        line = f"unexpected {type(error).__name__}: {error}; run again with --debug, and report it"
    tell(f"signsclf: {' '.join(line.split())}")
    return code
