"""Commands and options by the names they had in the version before: they still work, and a line tells the new name."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from typer.core import TyperCommand, TyperGroup

from signsclf.cli.terminal import eprint

RENAMED = {
    "reload": "verify",
    "draw": "render",
    "--accept-error": "--max-accepted-error",
}
"""Old name to new name, of commands and of options. Entries are removed one version after they were added."""


def current_name(name: str, known: Container[str], group: str = "") -> str:
    """Return the new name of a command or option of the version before, after a line about it; else the name itself.

    Args:
        name: a word of the command line; an option may have ``=VALUE`` after its name.
        known: names that are valid where the word stands; an old name that is among them is a name like any other.
        group: of a command, what stands before it.
    """
    old, equals, value = name.partition("=")
    new = RENAMED.get(old)
    if new is None or old in known or new not in known:
        return name
    before = f"{group} " if group else ""
    eprint(f"note: `{before}{old}` is now called `{before}{new}`; the next version knows the new name only")
    return new + equals + value


class RenamingCommand(TyperCommand):
    """A command that also takes its options by the names they had before."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; see click."""
        known = {name for parameter in self.params for name in parameter.opts}
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*(current_name(word, known) for word in args[:end]), *args[end:]])


class RenamingGroup(TyperGroup):
    """A group that also finds its commands by the names they had before."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first argument names; see click."""
        return super().resolve_command(ctx, [current_name(args[0], self.commands, ctx.command_path), *args[1:]])
