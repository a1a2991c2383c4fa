"""Servers on free ports of the loopback address."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import FIXED, Running, end, run_in_thread, write_model

from signsclf.serve.models import Models, load_model
from signsclf.serve.service import Service
from signsclf.serve.settings import ServeSettings


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder, which no test changes."""
    return write_model(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture
def serve(tiny: Path) -> Iterator[Callable[..., Running]]:
    """Start a server with these settings and model folders, `tiny` without any."""
    started: list[tuple[Running, threading.Thread]] = []

    def start(*folders: Path, **settings: Any) -> Running:
        models = Models(load_model(folder, folder.name, max_batch=8) for folder in folders or (tiny,))
        running, thread = run_in_thread(Service(models, ServeSettings(**{**FIXED, **settings})))
        started.append((running, thread))
        return running

    yield start
    for running, thread in started:
        end(running, thread)


@pytest.fixture(scope="session")
def server(tiny: Path) -> Iterator[Running]:
    """One server of `tiny` with the settings by default, for tests that change nothing in it."""
    running, thread = run_in_thread(Service(Models([load_model(tiny, "tiny", max_batch=8)]), ServeSettings(**FIXED)))
    yield running
    end(running, thread)
