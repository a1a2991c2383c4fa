"""The help of each command stands for itself: an example that parses, and a text for each option."""

from __future__ import annotations

import shlex

import pytest
import typer
from test_renamed import COMMANDS

from signsclf.cli.app import app

ROOT = typer.main.get_command(app)
PAGES = {(): ROOT, **COMMANDS}
"""Every command and group of commands: its name's words, and what click knows of it."""


def parse(words: list[str]) -> tuple[str, ...]:
    """Parse a command line without running it; returns the name of its command, and raises click's usage errors."""
    command, name = ROOT, ()
    while hasattr(command, "commands"):
        name = (*name, words[0])
        command, words = command.commands[words[0]], words[1:]
    command.make_context(name[-1], words)
    return name


def example(command) -> list[str]:
    """The words of the one example in a help text, without the program's name."""
    lines = [line.strip() for line in command.help.splitlines()]
    (found,) = [line.removeprefix("Example: ") for line in lines if line.startswith("Example: ")]
    program, *words = shlex.split(found)
    assert program == "signsclf"
    return words


@pytest.mark.parametrize("name", PAGES, ids=" ".join)
def test_it_has_one_example_which_parses(name):
    assert parse(example(PAGES[name]))[: len(name)] == name


def test_an_example_that_is_wrong_would_not_parse():
    for words in (["train", "photos", "--nonsense"], ["predict"], ["train", "photos", "--size", "large"]):
        with pytest.raises(Exception, match=r"--nonsense|image|large"):
            parse(words)


@pytest.mark.parametrize("name", PAGES, ids=" ".join)
def test_every_option_says_what_it_is_for(name):
    context = PAGES[name].make_context("x", [], resilient_parsing=True)
    for parameter in PAGES[name].get_params(context):
        text = getattr(parameter, "help", None) or ""
        assert len(text.split()) >= 3, f"{parameter.name}: {text!r}"
        assert "docs/" not in text, f"{parameter.name}: who installs with pip has no docs/"


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_what_it_does_fits_a_line_in_the_list_of_commands(name):
    short = PAGES[name].get_short_help_str(limit=62)
    assert not short.endswith("..."), "longer than click shows on 80 columns"
    assert short[0].isupper()
