"""Makes .venv, and installs the package into it: python scripts/environment.py [EXTRAS]

Standard library only, in words that any Python 3.7 understands: it runs before there is an environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "signsclf-installed"
LOG = VENV / "signsclf-install.log"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own packages without CUDA; on Linux PyPI's bring some gigabytes of NVIDIA's libraries."""
SECONDS_TO_ANSWER = 5
LOWEST, HIGHEST = (3, 10), (3, 13)


def prepare(extras: str) -> Path:
    """Make .venv with the package in place and these extras ("train", "dev"), unless that is already done.

    Returns:
        The environment's Python.
    """
    python = venv_python()
    # A copied or moved folder has an environment that points elsewhere, so the place is part of the state.
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    state = f"{digest} {ROOT} "
    done = STAMP.read_text(encoding="utf-8").split("\n") if STAMP.is_file() else []
    if python.exists() and {state + "dev", state + extras} & set(done):
        return python
    if not python.exists() or not answers(python, "import pip"):
        base = find_python()
        print(f"making .venv with {base}", file=sys.stderr)
        subprocess.run([base, "-m", "venv", str(VENV)], check=True)
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-e", f"{ROOT}[{extras}]"]
    size = "some gigabytes"
    if takes_cpu_wheels():
        command += ["--extra-index-url", CPU_INDEX]
        size = "more than a gigabyte"
    print(f"installing into .venv; the first time this fetches {size} and takes minutes", file=sys.stderr)
    with LOG.open("w", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(lines[-15:]), file=sys.stderr)
        sys.exit(f"setup: the install failed; all that pip said is in {LOG}")
    STAMP.write_text(f"{state}{extras}\n", encoding="utf-8")
    return python


def venv_python() -> Path:
    """Name the environment's Python, which need not exist."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_python() -> str:
    """Find the first Python that can make the environment, this one before others.

    Raises:
        SystemExit: there is none; the message says in one line what is wrong.
    """
    trouble = ""
    names = ["python3", *(f"python3.{minor}" for minor in range(HIGHEST[1], LOWEST[1] - 1, -1)), "python"]
    for name in [sys.executable, *names]:
        found = shutil.which(name)
        version = found and answers(found, "import platform; print(platform.python_version())")
        if not found or not version:
            continue
        if not LOWEST <= tuple(int(part) for part in version.split(".")[:2]) <= HIGHEST:
            trouble = trouble or f"{name} is Python {version}, but 3.10 to 3.13 is needed; install one of those"
        elif not answers(found, "import ensurepip, venv; print('yes')"):
            trouble = f"{name} has no venv module; install it (on Debian and Ubuntu: apt install python3-venv)"
        else:
            return found
    sys.exit(f"setup: {trouble or 'no Python found; install Python 3.10 to 3.13'}")


def answers(python: str | Path, code: str) -> str:
    """Run a line of code in a Python; what it prints, "yes" where that is nothing, and "" where it fails."""
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip() or "yes"


def takes_cpu_wheels() -> bool:
    """Tell whether to install torch without CUDA: on Linux without an NVIDIA GPU, where PyTorch's index answers."""
    return sys.platform == "linux" and not has_nvidia_gpu() and index_answers()


def has_nvidia_gpu() -> bool:
    """Tell whether NVIDIA's driver is loaded, or lists a GPU."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    program = shutil.which("nvidia-smi")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if program:
            return b"GPU 0" in subprocess.run([program, "-L"], capture_output=True, timeout=30, check=False).stdout
    return False


def index_answers() -> bool:
    """Tell whether PyTorch's index can be reached within a few seconds."""
    with contextlib.suppress(OSError):
        request = urllib.request.Request(f"{CPU_INDEX}/torch/", method="HEAD")
        with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER) as answer:
            return answer.status == 200
    return False


if __name__ == "__main__":
    prepare(sys.argv[1] if len(sys.argv) > 1 else "train")
