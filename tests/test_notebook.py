"""The notebook for fastai users runs, and keeps the outputs of a run on photographs."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "fastai.ipynb"


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """What the last cell prints; a cell that fails is an error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notebook = nbformat.read(NOTEBOOK, 4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"][-1].outputs[-1].text


@pytest.mark.slow
def test_it_runs_on_rendered_signs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("SIGNSCLF_TEST_DATA", raising=False)
    assert "'accuracy':" in run(monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif("SIGNSCLF_TEST_DATA" not in os.environ, reason="needs $SIGNSCLF_TEST_DATA")
def test_it_runs_on_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    printed = run(monkeypatch, tmp_path)
    assert float(printed.split("'accuracy': ")[1].split(",")[0]) > 0.85


def test_its_outputs_are_whole_and_name_no_place_of_a_machine():
    notebook = nbformat.read(NOTEBOOK, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/jpeg" in output.get("data", {}) for cell in cells for output in cell.outputs) == 5
    text = NOTEBOOK.read_text("utf-8")
    assert not any(place in text for place in ("/home/", "/tmp/", "/Users/", "site-packages", "Traceback"))
    assert NOTEBOOK.stat().st_size < 400_000
