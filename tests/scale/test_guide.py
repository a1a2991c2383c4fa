"""The guide's example for another engine, as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from batches import parts_of, write_batch
from tinysource import environment

from signsclf.scale.batch import run

pytestmark = [pytest.mark.scale, pytest.mark.slow]

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "batch.md").read_text("utf-8")


def test_daft_makes_the_same_bytes(tmp_path):
    pytest.importorskip("daft")
    (program,) = re.findall(r"^```py\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    plan = write_batch(tmp_path)
    alone = write_batch(tmp_path / "alone", images=tmp_path / "images")
    run(alone)
    file = tmp_path / "job.py"
    file.write_text(program)
    command = [sys.executable, file]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert parts_of(plan) == parts_of(alone) and len(parts_of(plan)) == 5
