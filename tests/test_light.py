"""What an installation without the extras can do, and what it says of the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_readers import BLOCKER

import signsclf
from signsclf.data.synthetic import write
from signsclf.errors import EXTRAS, MissingExtraError, has_extra, require_extra

MODEL = Path(signsclf.__file__).parents[1] / "models" / "gtsrb-signnet"
ABSENT = {module for modules in EXTRAS.values() for module in modules} | {"pandas", "fastcore", "scipy", "sklearn"}
RUN = """
import contextlib, io, json
from signsclf.cli.app import main

def run(words):
    sys.argv[1:] = words
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()

answers = [run(words) for words in json.loads(sys.stdin.read())]
print(json.dumps(answers))
"""


def without_extras(folder: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit code, output and messages of each command, in one process to which the extras' modules are absent."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER.format(names=ABSENT) + RUN],
        input=json.dumps(commands),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(answer) for answer in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def signs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("light") / "signs"
    write(folder, 1, (40, 50))
    return folder


def test_the_base_predicts_evaluates_compares_verifies_and_checks(signs, tmp_path):
    source, model = str(signs), str(MODEL)
    image = str(signs / "00014" / "00000_00000.png")
    answers = without_extras(
        tmp_path,
        ["--help"],
        ["predict", image, "--model", model, "--json"],
        ["evaluate", model, source, "--json", "--report", "report", "--cache", "off"],
        ["diff", model, model, source, "--cache", "off", "--json"],
        ["data", "check", source, "--out", "counts"],
        ["cache", "--cache", "cache"],
    )
    assert [code for code, _, _ in answers] == [0] * 6, answers
    assert json.loads(answers[1][1])[0]["label"] == "Stop"
    assert json.loads(answers[2][1])["n"] == 43
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.html", "report.json", "per_class.csv"} <= written
    assert not {"confusion.png", "mistakes.png"} & written
    assert 'left out: confusion.png and mistakes.png; for them, pip install "signsclf[plots]"' in answers[2][2]
    assert [path.name for path in (tmp_path / "counts").iterdir()] == ["class_counts.csv"]


def test_what_needs_an_extra_names_the_command_that_installs_it(signs, tmp_path):
    source, model = str(signs), str(MODEL)
    train = [
        ["train", source],
        ["lr-find", source],
        ["compare", source, "--out", "models"],
        ["export", model, "--out", "anew"],
    ]
    answers = without_extras(
        tmp_path,
        *train,
        ["evaluate", model, source, "--audit"],
        ["predict", source, "--model", model, "--format", "parquet", "--out", "p.parquet"],
    )
    for (code, out, err), (command, *_) in zip(answers, train, strict=False):
        wanted = f'{command} needs torch, which is not installed; install it with: pip install "signsclf[train]"\n'
        assert (code, out, err) == (2, "", f"signsclf: {wanted}")
    for (code, _, err), extra in zip(answers[4:], ("audit", "parquet"), strict=True):
        assert code == 2
        assert err.endswith(f'which is not installed; install it with: pip install "signsclf[{extra}]"\n')
    assert list(tmp_path.iterdir()) == []


def test_the_python_interface_says_it_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not has_extra("train")
    with pytest.raises(MissingExtraError, match=r'^signsclf\.load_learner needs torch.*"signsclf\[train\]"$'):
        signsclf.load_learner(MODEL)


def test_what_is_installed_is_no_trouble():
    require_extra("train", "this")
