"""Shared by all tests: a tiny source, a model folder trained on it once, and the command line in this process."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from tinysource import TINY, Ran, draw_source, one_thread

from signsclf import machine

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests import onnxruntime as other readers do


@pytest.fixture(scope="session", autouse=True)
def _configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this run's configuration changes, see scripts/test_matrix; and a cache of its own for decoded images."""
    with pytest.MonkeyPatch.context() as patch:
        # Else a training would choose its threads by the machine's load, and with them the last bits of the weights.
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", str(machine.usable_cores())))
        if "CORE_USERS_CACHE" not in os.environ:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        if "CORE_NO_HOME" in os.environ:
            forget_home(patch)
        if "CORE_CLOCK" in os.environ:
            turn_back_clock(patch)
        if "CORE_CGROUP" in os.environ:
            patch.setattr(machine, "CGROUP_MOUNT", Path(os.environ["CORE_CGROUP"]))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end, short ones keep all processes busy."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def forget_home(patch: pytest.MonkeyPatch) -> None:
    """Neither HOME nor an entry in the password file, as in a container with a user of its own number."""

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    patch.delenv("HOME", raising=False)
    patch.delenv("XDG_CACHE_HOME", raising=False)
    if sys.platform != "win32":
        import pwd

        patch.setattr(pwd, "getpwuid", unknown)


def turn_back_clock(patch: pytest.MonkeyPatch) -> None:
    """The clock of the day jumps back by an hour at every tenth look."""
    real, looks = time.time, itertools.count()
    patch.setattr(time, "time", lambda: real() - 3600 * (next(looks) // 10))


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny source. Read only: a test that changes it copies it first."""
    return draw_source(tmp_path_factory.mktemp("tiny") / "shapes of three")


@pytest.fixture(scope="session")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder trained on the tiny source, with all that can be asked for. Read only."""
    from signsclf.recipe import Recipe
    from signsclf.runs.train import train

    with one_thread():
        return train(
            source, tmp_path_factory.mktemp("trained") / "tiny", Recipe(**TINY), learner=True, pictures=True
        ).folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """Runs the console script in this process: ``cli("predict", path)``."""
    from signsclf.cli.app import main

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("SIGNSCLF_MODEL", "SIGNSCLF_DATA_DIR", "SIGNSCLF_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object, stdin: str | bytes = "") -> Ran:
        monkeypatch.setattr(sys, "argv", ["signsclf", *map(str, arguments)])
        given = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(given), encoding="utf-8"))
        capsys.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return Ran(stop.value.code, out, err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may harm."""
    return Path(shutil.copytree(model, tmp_path / "own model"))
