from __future__ import annotations

from collections.abc import Iterator

import pytest
from tinysource import one_thread


@pytest.fixture(autouse=True)
def thread() -> Iterator[None]:
    """Trainings here are compared bit for bit with those of processes that have one thread."""
    with one_thread():
        yield
