"""The command line: parses, calls one function, prints. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from signsclf import __version__
from signsclf.choices import Int8, Layout, Part, Provider
from signsclf.cli_data import data_app, gtsrb_source
from signsclf.cli_predict import predict_command
from signsclf.errors import SignsclfError
from signsclf.options import (
    AsJson,
    DataDir,
    DeviceOption,
    LayoutOption,
    OptionalSource,
    SkipBad,
    Source,
    Yes,
    provider_name,
    recipe_options,
    writable_folder,
)
from signsclf.recipe import Recipe
from signsclf.terminal import Stopped, TerminalObserver, quiet_pipe, stop_on_signals, tell

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
app.add_typer(data_app, name="data")

ModelDir = Annotated[Path, typer.Argument(help="A model folder.", metavar="MODEL")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Int8Option = Annotated[bool, typer.Option("--int8", help="Write model.int8.onnx as well, unless it loses too much.")]
ForceInt8 = Annotated[bool, typer.Option("--force-int8", help="Keep model.int8.onnx however much it loses.")]


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
    int8: Int8Option = False,
    force_int8: ForceInt8 = False,
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
            int8=chosen_int8(int8, force_int8),
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
    writable_folder(out)
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


app.command("predict")(predict_command)


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(help="A .partial folder, or a finished model folder.", metavar="RUN")],
    out: Annotated[Path, typer.Option("--out", help="Model folder to write.")],
    overwrite: Overwrite = False,
    int8: Int8Option = False,
    force_int8: ForceInt8 = False,
) -> None:
    """Export the best weights of a run, through the parity gate, to a model folder."""
    from signsclf.modelfolder import RECORD, read_config
    from signsclf.runfolder import refuse_taken

    refuse_taken(out.expanduser().absolute(), overwrite)
    if not (run / RECORD).is_file():
        read_config(run)
    from signsclf import train

    observer = TerminalObserver()
    outcome = train.export_run(run, out, overwrite=overwrite, int8=chosen_int8(int8, force_int8), observer=observer)
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


def _read_source(source: str | None, layout: Layout | None, data_dir: Path | None, yes: bool) -> Any:
    from signsclf.data.table import read_source

    return read_source(source or gtsrb_source(data_dir, yes), layout)


def chosen_int8(int8: bool, force: bool) -> Int8:
    """The two flags as one choice."""
    return Int8.FORCE if force else Int8.CHECKED if int8 else Int8.NONE


def headline(figures: dict[str, Any]) -> str:
    """Accuracy with interval and n, top-5 and macro-F1 of a `Report.to_dict`, in one line."""
    low, high = 100 * figures["accuracy_low"], 100 * figures["accuracy_high"]
    return (
        f"accuracy {100 * figures['accuracy']:.2f} % (95 % interval {low:.2f} to {high:.2f}, n = {figures['n']:,}), "
        f"top-5 {100 * figures['top5']:.2f} %, macro-F1 {100 * figures['macro_f1']:.2f} % "
        f"({figures['n_classes_present']} classes)"
    )


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
