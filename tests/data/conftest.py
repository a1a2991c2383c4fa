from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from smalltables import zipped


@pytest.fixture(params=["folder", "zip"])
def packed(request: pytest.FixtureRequest) -> Callable[[Path], Path]:
    """A folder as it is, or the zip archive of it: both must give the same."""
    return (lambda folder: folder) if request.param == "folder" else zipped
