"""The examples of the guide and of /docs, by other people's programs, against a server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import png, write_model

from signsclf.serve.protocols.docs import OPENAPI

pytestmark = pytest.mark.serve

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text("utf-8")
PROGRAMS = {
    "bash": ["bash", "-euo", "pipefail", "-c"],
    "py": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
}
NEEDS = {"tritonclient": "tritonclient.http", "huggingface_hub": "huggingface_hub"}


def blocks():
    found = re.findall(r"^```(bash|py|js)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    paths = json.loads(OPENAPI.read_text("utf-8"))["paths"].values()
    samples = [
        sample
        for item in paths
        for one in item.values()
        if isinstance(one, dict)
        for sample in one.get("x-codeSamples", [])
    ]
    return [*found, *((sample["lang"], sample["source"].replace("MODEL", "pets")) for sample in samples)]


def test_the_guide_has_an_example_in_each_language():
    assert {language for language, _ in blocks()} == set(PROGRAMS)
    assert len(blocks()) == 11


@pytest.mark.parametrize(("language", "text"), blocks())
def test_an_example_runs(serve, tmp_path, language, text):
    program = PROGRAMS[language]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    for module in re.findall("|".join(NEEDS), text):
        pytest.importorskip(NEEDS[module])
    server = serve(write_model(tmp_path / "pets"))
    (tmp_path / "image.png").write_bytes(png("blue"))
    text = text.replace("127.0.0.1:8000", server.url.removeprefix("http://"))
    assert server.url.removeprefix("http://") in text
    done = subprocess.run([*program, text], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "blue" in done.stdout
