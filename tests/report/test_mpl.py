from __future__ import annotations

import subprocess
import sys

import pytest
from tinysource import environment

NOWHERE = "module://matplotlib_inline.nowhere"


def runs(script: str, backend: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(MPLBACKEND=backend), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", [NOWHERE, "nonsense", ""])
def test_pictures_are_drawn_whatever_backend_a_notebook_wants(backend, tmp_path):
    runs(
        f"""
import os
before = dict(os.environ)
from signsclf.report.plots import class_counts
class_counts(["a", "b"], [1, 2], {str(tmp_path / "a.png")!r})
assert dict(os.environ) == before
""",
        backend,
    )
    assert (tmp_path / "a.png").is_file()


def test_a_backend_that_there_is_stays_the_callers():
    script = """
from signsclf.report.mpl import import_matplotlib
import_matplotlib()
import matplotlib
print(matplotlib.get_backend())
"""
    assert runs(script, "svg").strip().lower() == "svg"
    runs(script, "nonsense")


def test_training_is_imported_whatever_backend_a_notebook_wants():
    runs("import signsclf.runs.train", NOWHERE)


def test_matplotlib_that_is_there_is_left_alone(monkeypatch):
    import matplotlib

    from signsclf.report.mpl import import_matplotlib

    monkeypatch.setenv("MPLBACKEND", "pdf")
    before = dict(matplotlib.rcParams)
    import_matplotlib()
    assert dict(matplotlib.rcParams) == before
