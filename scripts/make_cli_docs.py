"""Writes docs/cli.md: the ``--help`` of every command, as plain text of 100 columns.

Run it after a change of the command line: ``.venv/bin/python scripts/make_cli_docs.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from signsclf.cli.app import app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
INTRODUCTION = f"""\
# The command line

Made by `scripts/make_cli_docs.py` with typer {typer.__version__}; a test holds it to the program.

- A result goes to standard output, all else to standard error.
- Exit codes: 0 done, 1 found trouble (bad images, a check not passed), 2 wrong use, 130 and 143 stopped by SIGINT and
  SIGTERM.
- Without a SOURCE, `train` and `lr-find` take GTSRB from `--data-dir`, else `$SIGNSCLF_DATA_DIR`, else the user's data
  folder.
- Without `--model`, `predict` takes `$SIGNSCLF_MODEL`, else `models/default` below the working directory, else the
  model for German traffic signs that comes with the package.
- `synthetic` as a SOURCE is a keyword for rendered signs; `./synthetic` is a path.
"""


def walk(command: Any, name: str = "signsclf", parent: Any = None) -> Iterator[tuple[str, Any, Any]]:
    """(name, command, context) of a command and, depth first, of all below it that are not hidden."""
    settings = {**command.context_settings, "terminal_width": 100}
    context = command.context_class(command, info_name=name, parent=parent, **settings)
    yield context.command_path, command, context
    for below, inner in dict(getattr(command, "commands", {})).items():
        if not inner.hidden:
            yield from walk(inner, below, context)


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for path, command, context in walk(typer.main.get_command(app)):
        lines = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        parts.append(f"## {path}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
