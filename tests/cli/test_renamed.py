"""What was renamed still works for one version, and a line on standard error tells the new name."""

from __future__ import annotations

import json

import pytest
import typer

from signsclf.cli import renamed
from signsclf.cli.app import app


def leaves(group, path=()):
    """Every command below a group: (its names, the command)."""
    for name, command in dict(group.commands).items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))


def test_an_old_command_does_what_the_new_one_does(cli, model):
    old, new = cli("reload", model, "--json"), cli("verify", model, "--json")
    assert (old.code, new.code) == (0, 0)
    assert json.loads(old.out)["figures"] == json.loads(new.out)["figures"]
    assert (
        old.err == "note: `signsclf reload` is now called `signsclf verify`; the next version knows the new name only\n"
    )
    assert new.err == ""
    assert "reload" not in cli("--help").out


@pytest.mark.parametrize("words", [("--accept-error", "7"), ("--accept-error=7",)])
def test_an_old_option_does_what_the_new_one_does(cli, source, tmp_path, words):
    ran = cli("train", source, "--out", tmp_path / "m", *words)
    assert ran.code == 2
    assert ran.err.splitlines()[0] == (
        "note: `--accept-error` is now called `--max-accepted-error`; the next version knows the new name only"
    )
    assert "--max-accepted-error: 7" in ran.complaint
    assert "--accept-error" not in cli("train", "--help").out


def test_an_old_name_is_taken_only_where_the_new_one_stands(cli, model):
    assert "No such option: --accept-error" in cli("verify", model, "--accept-error", "7").complaint
    assert renamed.current_name("reload", {"reload", "verify"}) == "reload"
    # Behind -- all words are values.
    assert "note" not in cli("predict", "--model", model, "--", "--accept-error").err


@pytest.mark.parametrize(("old", "new"), renamed.RENAMED.items())
def test_each_new_name_exists_and_no_old_one_does(old, new):
    names = {path[-1] for path in COMMANDS}
    options = {name for command in COMMANDS.values() for parameter in command.params for name in parameter.opts}
    assert new in names | options
    assert old not in names | options
