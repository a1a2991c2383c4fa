"""The set-up that scripts/demo and scripts/test share: which Python it takes, and what it says where none will do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "scripts" / "setup.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def pythons(folder: Path, **versions: str) -> None:
    """Programs that answer scripts/setup.sh as Pythons of these versions would; "no venv" lacks that module."""
    for name, version in versions.items():
        number = version.split()[0]
        in_range = "310 <= {}{:02} <= 313".format(*map(int, number.split(".")[:2]))
        program = folder / name.replace("_", ".")
        program.write_text(
            f"#!{sys.executable}\nimport sys\ncode = sys.argv[2]\n"
            f"if 'platform' in code: print({number!r})\n"
            f"elif 'version_info' in code: sys.exit(not {in_range})\n"
            f"else: sys.exit({'no venv' in version})\n"
        )
        program.chmod(0o755)


def find_python(folder: Path) -> subprocess.CompletedProcess:
    command = [shutil.which("bash"), "-c", f"set -euo pipefail; source '{SETUP}'; find_python"]
    return subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("versions", "taken"),
    [
        ({"python3": "3.12.1"}, "python3"),
        ({"python3": "3.9.18", "python3_11": "3.11.2"}, "python3.11"),
        ({"python3": "3.14.0", "python3_13": "3.13.0"}, "python3.13"),
        ({"python3": "3.12.1 no venv", "python3_10": "3.10.0"}, "python3.10"),
    ],
)
def test_the_first_python_that_will_do_is_taken(tmp_path: Path, versions: dict[str, str], taken: str):
    pythons(tmp_path, **versions)
    assert find_python(tmp_path).stdout.split() == [taken]


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({}, "no Python found"),
        ({"python3": "3.9.18"}, "python3 is Python 3.9.18, but 3.10 to 3.13 is needed"),
        ({"python3": "3.12.1 no venv"}, "python3 has no venv module"),
    ],
)
def test_where_none_will_do_one_line_says_why(tmp_path: Path, versions: dict[str, str], said: str):
    pythons(tmp_path, **versions)
    done = find_python(tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/test", ".ci/run"])
def test_scripts_have_no_syntax_error(script: str):
    assert subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True).returncode == 0
