"""The package speaks the field's language: other words for the same stay out of its names, texts and comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import signsclf

ROOT = Path(signsclf.__file__).parent

TEXT = {
    r"draw(s|n|ing)?|drew": "render (pictures), sample (images)",
    r"judg(e|es|ed|ing|ement|ements)": "evaluate",
    r"cross-?validat\w*": "repeated hold-out",
    r"gates?": "parity check",
    r"replay(s|ed|ing)?": "golden outputs, verify",
    r"arithmetics?": "precision, mixed precision",
    r"processors?": "CPU",
    r"no numbers": "NaN",
    r"(go|goes|going|gone|went) on with": "resume",
    r"room": "free memory, space",
    r"how sure|least sure|so sure": "confidence",
    r"(pictures of )?other things|other pictures": "out-of-distribution images",
    r"how often \w+ classes": "class-balanced sampling",
    r"numbers that training fits": "trainable parameters",
    r"whole or not( at all)?|whole or no": "atomic",
    r"ladders?|rungs?|climb\w*": "comparison, architecture, model",
    r"accept-error|accepted-but-wrong": "selective risk, --max-accepted-error",
}
"""What no string, docstring or comment says, whatever its case; and what it says instead."""

WORDS = {
    **dict.fromkeys(("draw", "draws", "drawn", "drawing"), "render, sample"),
    **dict.fromkeys(("judge", "judged", "judges", "judging", "judgement"), "evaluate"),
    **dict.fromkeys(("gate", "gates", "replay", "replayed"), "parity, golden, verify"),
    "arithmetic": "precision",
    "processor": "CPU",
    **dict.fromkeys(("ladder", "rung", "rungs", "climb"), "comparison, result"),
    "units": "groups, clusters",
    **dict.fromkeys(("average", "averages"), "ema"),
}
"""What no name contains as a word of its own."""

NAMES = {
    "there": "exists",
    "aside": "backup",
    "beside": "tmp",
    "above": "parent",
    "accept_error": "max_accepted_error",
    "reload": "verify",
}
"""What nothing is called."""

_TEXT = re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in TEXT), re.IGNORECASE)

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("cli/renamed.py", "draw"): "the old name of `data render`",
    ("cli/renamed.py", "accept-error"): "the old name of an option",
    ("data/synthetic/__init__.py", "draw"): "PIL's ImageDraw",
    ("data/synthetic/backgrounds.py", "draw"): "PIL's ImageDraw",
    ("data/synthetic/pictograms.py", "draw"): "lines and shapes on a canvas, which make a pictogram",
    ("data/synthetic/pictograms.py", "draws"): "lines and shapes on a canvas, which make a pictogram",
    ("data/synthetic/shapes.py", "draw"): "lines and shapes on a canvas",
    ("data/synthetic/shapes.py", "drawn"): "lines and shapes on a canvas",
    ("data/synthetic/signs.py", "draw"): "lines and shapes on a canvas",
    ("data/synthetic/signs.py", "drawing"): "a function that draws a pictogram on a canvas",
    ("export/golden.py", "replay"): "the name of the files in a model folder",
    ("imagefiles/kinds.py", "drawing"): "what an SVG is",
    ("outputs.py", "ladder"): "files of compare that the version before wrote",
    ("training/checkpoint.py", "draws"): "the key of checkpoints that earlier versions wrote",
}
"""(file, word) that are right as they are, and why."""


def instead(word: str) -> str:
    """What to say in place of a word."""
    by_pattern = (say for pattern, say in TEXT.items() if re.fullmatch(pattern, word, re.IGNORECASE))
    return WORDS.get(word) or NAMES.get(word) or next(by_pattern)


def words_of(name: str) -> list[str]:
    """The words of an identifier, in lower case: ``DrawnSigns`` and ``drawn_signs`` are drawn and signs."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def names(tree: ast.AST) -> Iterator[str]:
    """Every name that a module gives: to functions, classes, parameters, variables, attributes and imports."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case ast.alias(asname=str(name)):
                yield name


def texts(source: str) -> Iterator[str]:
    """Every string and every comment of a module, and what an f-string says around its values."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def found_in(source: str) -> set[str]:
    """The words of a module that the tables above do without."""
    found = set()
    for name in names(ast.parse(source)):
        found |= {word for word in words_of(name) if word in WORDS}
        found |= {name} & NAMES.keys()
    for text in texts(source):
        found |= {match[0].lower() for match in _TEXT.finditer(" ".join(text.split()))}
    return found


FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
TEMPLATES = sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.suffix in (".html", ".css", ".j2")
)


@pytest.mark.parametrize("file", FILES)
def test_a_module_speaks_the_fields_language(file):
    used = found_in((ROOT / file).read_text("utf-8"))
    used |= {word for part in Path(file).with_suffix("").parts for word in words_of(part) if word in WORDS}
    wrong = sorted(word for word in used if (file, word) not in EXCEPTIONS)
    assert not wrong, f"{file}: " + "; ".join(f"{word!r}: say {instead(word)}" for word in wrong)


@pytest.mark.parametrize("file", TEMPLATES)
def test_a_page_speaks_the_fields_language(file):
    text = " ".join((ROOT / file).read_text("utf-8").split())
    assert not [match[0] for match in _TEXT.finditer(text)]


@pytest.mark.parametrize(("file", "word"), EXCEPTIONS)
def test_an_exception_is_still_needed(file, word):
    assert word in found_in((ROOT / file).read_text("utf-8"))


def test_words_are_found_wherever_they_stand():
    source = (
        '"""Gone on  with."""\nclass DrawnSigns:\n    def judge(self, units):\n        self.there = "room"  # a rung\n'
    )
    assert found_in(source) == {"gone on with", "drawn", "judge", "units", "there", "room", "rung"}
    assert found_in('"""Renders a withdrawn drawer, three units."""\nunit = therefore = mushroom = 1\n') == set()
    assert instead("judge") == "evaluate" and instead(["the", "processor"][1]) == "CPU"
