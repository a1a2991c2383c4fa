"""The public names of the package, and how its functions are called."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import signsclf
from signsclf.errors import MissingExtraError, SignsclfError

FUNCTIONS = (
    "compare",
    "diff",
    "evaluate",
    "export_run",
    "finish",
    "learner",
    "load",
    "load_learner",
    "resume",
    "train",
)
ROOT = Path(signsclf.__file__).parent
FOLDERS = ("runs", "evaluation", "training")
FLOW = [path.relative_to(ROOT).as_posix() for name in FOLDERS for path in sorted((ROOT / name).glob("*.py"))]


def test_every_public_name_is_there_and_documented():
    assert {name for name in signsclf.__all__ if callable(getattr(signsclf, name))} == {
        *FUNCTIONS,
        "Prediction",
        "Recipe",
    }
    assert signsclf.errors.SignsclfError is SignsclfError
    assert set(signsclf.__all__) <= set(dir(signsclf))
    for name in FUNCTIONS:
        assert "Raises:" in inspect.getdoc(getattr(signsclf, name)), name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = signsclf.trian


@pytest.mark.parametrize("name", ["compare", "export_run", "finish", "learner", "resume", "train"])
def test_what_needs_the_extra_says_so_when_it_is_asked_for(monkeypatch, name):
    monkeypatch.setattr("signsclf.errors._missing_modules", lambda extra: ["torch"])
    with pytest.raises(MissingExtraError, match=f"signsclf.{name} needs torch, which is not installed"):
        getattr(signsclf, name)


def test_options_that_do_not_exist_are_refused_before_any_work(tmp_path):
    for call in (
        lambda: signsclf.train("none", tmp_path / "m", overwritte=True),
        lambda: signsclf.compare("none", tmp_path / "m", overwritte=True),
        lambda: signsclf.resume(tmp_path / "m", overwritte=True),
        lambda: signsclf.export_run(tmp_path / "r", tmp_path / "m", overwritte=True),
    ):
        with pytest.raises(TypeError, match="overwritte"):
            call()
    with pytest.raises(TypeError, match="'skip_bad' belongs to the run"):
        signsclf.resume(tmp_path / "m", skip_bad=True)
    with pytest.raises(SignsclfError, match=r"--max-accepted-error: 1\.5 is no share from 0 to 1"):
        signsclf.train("none", tmp_path / "m", max_accepted_error=1.5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", FLOW)
def test_functions_have_eight_parameters_at_most_and_dataclasses_take_keywords_only(file):
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            given = node.args
            named = [
                a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")
            ]
            assert len(named) + bool(given.kwarg) <= 8, node.name
        if isinstance(node, ast.ClassDef):
            made = [
                ast.unparse(decorator) for decorator in node.decorator_list if "dataclass" in ast.unparse(decorator)
            ]
            assert all("kw_only=True" in decorator for decorator in made), node.name
