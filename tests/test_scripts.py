"""The scripts with a Python that only notes what it is asked for, and the environment that they share."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import test_docs
import tinysource

ROOT = Path(__file__).parent.parent

needs_bash = pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="there is no bash")


@pytest.fixture
def environment():
    """The module scripts/environment.py, loaded anew."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / "scripts" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench_recipes():
    """The module scripts/bench_recipes.py."""
    spec = importlib.util.spec_from_file_location("bench_recipes", ROOT / "scripts" / "bench_recipes.py")
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks its module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def pythons(folder: Path, **versions: str) -> None:
    """Programs that answer scripts/environment.py as Pythons of these versions would; "no venv" lacks that module."""
    for name, version in versions.items():
        program = folder / name.replace("_", ".")
        program.write_text(
            f"#!{sys.executable}\nimport sys\ncode = sys.argv[2]\n"
            f"if 'platform' in code: print({version.split()[0]!r})\n"
            f"elif {'no venv' in version}: sys.exit(1)\n"
            "else: print('yes')\n"
        )
        program.chmod(0o755)


@needs_bash
@pytest.mark.parametrize(
    ("versions", "taken"),
    [
        ({"python3": "3.12.1"}, "python3"),
        ({"python3": "3.9.18", "python3_11": "3.11.2"}, "python3.11"),
        ({"python3": "3.14.0", "python3_13": "3.13.0"}, "python3.13"),
        ({"python3": "3.12.1 no venv", "python3_10": "3.10.0"}, "python3.10"),
    ],
)
def test_the_first_python_that_will_do_is_taken(environment, tmp_path, monkeypatch, versions, taken):
    pythons(tmp_path, **versions)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "")
    assert environment.find_python() == str(tmp_path / taken)


@needs_bash
@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({}, "no Python found"),
        ({"python3": "3.9.18"}, "python3 is Python 3.9.18, but 3.10 to 3.13 is needed"),
        ({"python3": "3.12.1 no venv"}, "python3 has no venv module"),
    ],
)
def test_where_none_will_do_one_line_says_why(environment, tmp_path, monkeypatch, versions, said):
    pythons(tmp_path, **versions)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(SystemExit) as end:
        environment.find_python()
    assert said in end.value.code
    assert "\n" not in end.value.code


def test_the_python_that_runs_the_script_comes_first(environment):
    assert environment.find_python() == sys.executable


@pytest.mark.parametrize(
    ("platform", "gpu", "status", "taken"),
    [
        ("linux", False, 200, True),
        ("linux", True, 200, False),
        ("linux", False, 404, False),
        ("win32", False, 200, False),
    ],
)
def test_torch_comes_without_cuda_where_no_gpu_is_and_its_index_answers(
    environment, monkeypatch, platform, gpu, status, taken
):
    class Index(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(environment, "CPU_INDEX", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(environment, "has_nvidia_gpu", lambda: gpu)
        monkeypatch.setattr(sys, "platform", platform)
        assert environment.takes_cpu_wheels() is taken
        server.shutdown()


def test_an_index_that_cannot_be_reached_is_left_out(environment, monkeypatch):
    monkeypatch.setattr(environment, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(environment, "CPU_INDEX", "http://127.0.0.1:9")
    monkeypatch.setattr(sys, "platform", "linux")
    assert environment.takes_cpu_wheels() is False


# Notes what it is asked for.
PYTHON = """#!/bin/bash
printf '%s\\n' "$*" >> "$CALLS"
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
    # Where no index is looked for.
    environment["https_proxy"] = "http://127.0.0.1:9"
    done = subprocess.run(
        ["bash", str(checkout / script), *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return calls.read_text().splitlines()


def test_the_demo_gives_commands_that_there_are(checkout: Path):
    calls = calls_of(checkout, "scripts/demo", "3")
    commands = [shlex.split(call)[2:] for call in calls if call.startswith("-m signsclf ")]
    assert [words[0] for words in commands] == ["data", "train", "data", "evaluate", "predict"]
    assert "--epochs 3" in " ".join(commands[1])
    for words in commands:
        test_docs.test_every_command_line_parses(words)


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


def test_recipes_are_compared_by_group_and_by_image(bench_recipes):
    names, groups = tuple(f"0 {i}" for i in range(300)), tuple(str(i // 30) for i in range(300))
    lost = np.ones(300, bool)
    lost[:30] = False
    base = bench_recipes.Answers(names=names, right=np.ones(300, bool), groups=groups, seconds=10.0)
    other = bench_recipes.Answers(names=names, right=lost, groups=groups, seconds=5.0)
    found = bench_recipes.compare(base, other)
    assert found["difference"] == -10 and found["low"] <= -10 <= found["high"]
    # All frames of one track: much by the image, nothing by the track.
    assert found["p_mcnemar"] < 1e-8 and found["p_groups"] == 1
    shown = bench_recipes.row("other", {"base": base, "other": other})
    assert "90.000 %  n = 300 in 10 groups  -10.000" in shown and "p = 1 by group" in shown
    with pytest.raises(SystemExit, match="different images"):
        bench_recipes.compare(base, bench_recipes.Answers(names=names[::-1], right=lost, groups=groups, seconds=5.0))


def test_recipes_are_read_with_a_reason_where_they_cannot_be(bench_recipes):
    read = bench_recipes.read_recipes("# two\nplain: --recipe fast\n\nlong: --recipe fast --samples 100 # more\n")
    assert read == {"plain": "--recipe fast", "long": "--recipe fast --samples 100"}
    for wrong in ("", "--recipe fast", "a: --x\na: --y", "a b: --x"):
        with pytest.raises(SystemExit):
            bench_recipes.read_recipes(wrong)


@pytest.mark.slow
def test_recipes_are_trained_once_and_every_experiment_is_logged(bench_recipes, tmp_path, monkeypatch, capsys):
    source = tinysource.draw_source(tmp_path / "shapes", tracks=6)
    options = " ".join(tinysource.flags(epochs=1))
    lines = f"base: {options}\nlonger: {options} --epochs 2\nwrong: --arch none\nafter: --weights {{wrong}}\n"
    lines += "theirs: fastai tf_efficientnet_lite0 32 1\n"
    (tmp_path / "recipes.txt").write_text(lines)
    log = tmp_path / "log.jsonl"
    monkeypatch.chdir(tmp_path)

    def run(*options: str) -> list[dict]:
        arguments = ["recipes.txt", str(source), "--folds", "2", "--log", "log.jsonl", "--page", "page.md", *options]
        monkeypatch.setattr(sys, "argv", ["bench_recipes.py", *arguments])
        bench_recipes.main()
        return [json.loads(line) for line in log.read_text().splitlines()]

    logged = run("--only-folds", "1")
    assert [line["outcome"] for line in logged] == ["holds", "not taken", "failed", "failed", "not taken"]
    assert all(set(line) == test_docs.FIELDS for line in logged)
    assert [line["n"] for line in logged] == [45, 45, None, None, 45]
    assert "difference" not in logged[0]["figures"] and "p_groups" in logged[1]["figures"]
    assert "--arch: 'none' is not known" in logged[2]["note"] and "there is no model of 'wrong'" in logged[3]["note"]
    assert str(tmp_path) not in log.read_text()
    assert "longer" in capsys.readouterr().out
    (first,) = (tmp_path / "bench").glob("base-*/config.json")
    written = first.stat().st_mtime_ns
    (tmp_path / "recipes.txt").write_text(lines.partition("\n")[0])
    assert run()[-1]["n"] == 90
    assert first.stat().st_mtime_ns == written
    assert len(list((tmp_path / "bench").glob("base-*/config.json"))) == 2
