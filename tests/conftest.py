"""Shared by all tests: a tiny source, a model folder trained on it once, and the command line in this process."""

from __future__ import annotations

import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from tinysource import TINY, Ran, draw_source, one_thread


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images are cached in a folder of the test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny source. Read only: a test that changes it copies it first."""
    return draw_source(tmp_path_factory.mktemp("tiny") / "shapes of three")


@pytest.fixture(scope="session")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder trained on the tiny source. Read only."""
    from signsclf.recipe import Recipe
    from signsclf.train import train

    with one_thread():
        return train(source, tmp_path_factory.mktemp("trained") / "tiny", Recipe(**TINY)).folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """Runs the console script in this process: ``cli("predict", path)``."""
    from signsclf.cli import main

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
