"""The command line: the module of each command, and the message and exit code of each failure.

A command's module is imported when the command is used.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, MutableMapping
from typing import Annotated, Any

import typer

from signsclf import __version__
from signsclf.cli.renamed import RenamingGroup
from signsclf.cli.terminal import Bar, Stopped, echo, eprint, open_streams, quiet_pipe, stop_on_signals
from signsclf.errors import LostContactError, SignsclfError, is_out_of_memory

MODULES = {
    "train": "train",
    "lr-find": "lr_find",
    "compare": "compare",
    "evaluate": "evaluate",
    "diff": "diff",
    "predict": "predict",
    "batch": "batch",
    "serve": "serve",
    "export": "export",
    "verify": "verify",
    "data": "data",
    "cache": "cache",
}
"""Each command, in the order of the help, and the module of this folder whose ``app`` holds it."""

# Usage errors; newer Typers carry click inside themselves, older ones import it.
_ClickException = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class _Commands(MutableMapping):
    """The commands by name, each made on its first look-up: a prediction need not wait for training's options."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module = importlib.import_module(f"signsclf.cli.{MODULES[name]}")
            self._made |= typer.main.get_group(module.app).commands
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]


class _Group(RenamingGroup):
    """The group of all commands; a pipe that its reader closes early is no failure."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()

    def invoke(self, ctx: typer.Context) -> Any:
        invoke = super().invoke
        return quiet_pipe(lambda: invoke(ctx))


app = typer.Typer(
    name="signsclf",
    cls=_Group,
    help="Train, evaluate and export image classifiers, for German traffic signs or any labelled images.\n\n"
    "Example: signsclf train photos --out models/pets",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    # Rich's own help takes longer to import than the rest of `signsclf --help`.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        echo(f"signsclf {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 found trouble, 2 wrong use, 128 + n stopped by signal n."""
    debug = asks_for_tracebacks()
    open_streams()
    stop_on_signals()
    try:
        # Typer returns the code of an Exit; the commands themselves return None.
        code = app(args=[a for a in sys.argv[1:] if a != "--debug"], prog_name="signsclf", standalone_mode=False) or 0
        sys.stdout.flush()
    except (Stopped, KeyboardInterrupt, typer.Abort) as error:
        eprint("stopped")
        code = getattr(error, "exit_code", 130)
    except Exception as error:
        if debug:
            raise
        code = _explain_failure(error)
    finally:
        Bar.close_shown()
    raise SystemExit(code)


def asks_for_tracebacks() -> bool:
    """Tell whether ``--debug`` is among the arguments or $SIGNSCLF_DEBUG is set."""
    return "--debug" in sys.argv[1:] or bool(os.environ.get("SIGNSCLF_DEBUG"))


def _explain_failure(error: Exception) -> int:
    """Print one line on what went wrong, and return the exit code for it."""
    code = 1
    if isinstance(error, LostContactError):
        from signsclf.scale.processes import LOST_CONTACT, is_started_here

        if is_started_here():
            # The process that has started this one tells of the cause.
            return LOST_CONTACT
    if isinstance(error, SignsclfError):
        line, code = str(error), error.exit_code
    elif type(error).__name__ == "NoArgsIsHelpError":
        for line in error.format_message().split("\n"):
            eprint(line)
        return 2
    elif isinstance(error, _ClickException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "signsclf"
        line, code = f"{error.format_message().rstrip('.')}; see `{command} --help`", 2
    elif is_out_of_memory(error):
        command = next((word for word in sys.argv[1:] if word in MODULES), "")
        smaller = command in ("train", "lr-find", "compare")
        line = "out of memory; " + (
            "try a smaller --batch-size or --size" if smaller else "end other programs, or take a machine with more"
        )
    elif isinstance(error, FileNotFoundError) and error.filename is None:  # of os.getcwd
        line = "the working directory exists no more; change to another one"
    elif isinstance(error, OSError):
        line = f"{error.filename or 'standard output'}: {error.strerror or error}"
    else:
        line = f"unexpected {type(error).__name__}: {error}; run again with --debug for its traceback, and report it"
    eprint(f"signsclf: {' '.join(line.split())}")
    return code
