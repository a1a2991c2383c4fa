"""The scripts with a Python that only notes what it is asked for, and the set-up that they share."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_docs

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "scripts" / "setup.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def pythons(folder: Path, **versions: str) -> None:
    """Programs that answer scripts/setup.sh as Pythons of these versions would; "no venv" lacks that module."""
    for name, version in versions.items():
        number = version.split()[0]
        in_range = "310 <= {}{:02} <= 313".format(*map(int, number.split(".")[:2]))
        program = folder / name.replace("_", ".")
        program.write_text(
            f"#!{sys.executable}\nimport sys\ncode = sys.argv[2]\n"
            f"if 'platform' in code: print({number!r})\n"
            f"elif 'version_info' in code: sys.exit(not {in_range})\n"
            f"else: sys.exit({'no venv' in version})\n"
        )
        program.chmod(0o755)


def find_python(folder: Path) -> subprocess.CompletedProcess:
    command = [shutil.which("bash"), "-c", f"set -euo pipefail; source '{SETUP}'; find_python"]
    return subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("versions", "taken"),
    [
        ({"python3": "3.12.1"}, "python3"),
        ({"python3": "3.9.18", "python3_11": "3.11.2"}, "python3.11"),
        ({"python3": "3.14.0", "python3_13": "3.13.0"}, "python3.13"),
        ({"python3": "3.12.1 no venv", "python3_10": "3.10.0"}, "python3.10"),
    ],
)
def test_the_first_python_that_will_do_is_taken(tmp_path: Path, versions: dict[str, str], taken: str):
    pythons(tmp_path, **versions)
    assert find_python(tmp_path).stdout.split() == [taken]


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({}, "no Python found"),
        ({"python3": "3.9.18"}, "python3 is Python 3.9.18, but 3.10 to 3.13 is needed"),
        ({"python3": "3.12.1 no venv"}, "python3 has no venv module"),
    ],
)
def test_where_none_will_do_one_line_says_why(tmp_path: Path, versions: dict[str, str], said: str):
    pythons(tmp_path, **versions)
    done = find_python(tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Notes what it is asked for, and draws the one file that a script goes on with.
PYTHON = """#!/bin/bash
printf '%s\\n' "$*" >> "$CALLS"
case "$*" in *"data draw"*) mkdir -p "$5/00014"; touch "$5/00014/00000_00000.png";; esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the scripts in a folder with a space in its name, whose Python only notes its arguments in calls."""
    root = tmp_path / "a checkout"
    for name in ("scripts", ".ci"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "models").mkdir()
    (root / ".venv" / "bin").mkdir(parents=True)
    for program in (root / ".venv" / "bin" / "python", root / "chromium"):
        program.write_text(PYTHON)
        program.chmod(0o755)
    return root


def calls_of(checkout: Path, script: str, *arguments: str) -> list[str]:
    calls = checkout / "calls"
    environment = {"PATH": f"{checkout}:{os.environ['PATH']}", "CALLS": str(calls)}
    done = subprocess.run(
        ["bash", str(checkout / script), *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return calls.read_text().splitlines()


def test_the_demo_gives_commands_that_there_are(checkout: Path):
    calls = calls_of(checkout, "scripts/demo", "2")
    commands = [shlex.split(call)[2:] for call in calls if call.startswith("-m signsclf ")]
    assert [words[0] for words in commands] == ["train", "evaluate", "data", "predict"]
    assert "--epochs 2" in " ".join(commands[0])
    for words in commands:
        test_docs.test_every_command_line_parses(words)
    assert (checkout / "models" / "demo.png").exists()


def test_the_tests_are_run_with_what_is_given(checkout: Path):
    last = calls_of(checkout, "scripts/test", "-m", "not slow")[-1]
    assert last.startswith("-m pytest -n ") and last.endswith(" -m not slow")
    first = (checkout / "calls").read_text()
    assert "install" in first
    calls_of(checkout, "scripts/test")
    assert "install" not in (checkout / "calls").read_text().removeprefix(first), "installed a second time"


def test_ci_looks_at_style_and_types_and_runs_the_matrix_and_the_tests(checkout: Path):
    calls = calls_of(checkout, ".ci/run")
    for wanted in (
        "-m ruff check .",
        "-m ruff format --check .",
        "-m mypy",
        "scripts/test_matrix --quick",
        "-m pytest",
    ):
        assert any(call.startswith(wanted) for call in calls), wanted


def test_a_failure_ends_ci(checkout: Path):
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(PYTHON + 'case "$*" in *ruff*) exit 3;; esac\n')
    with pytest.raises(AssertionError):
        calls_of(checkout, ".ci/run")
    assert "-m pytest" not in (checkout / "calls").read_text()
