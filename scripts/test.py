"""Sets .venv up and runs the whole test suite, without network: python scripts/test.py [PYTEST OPTIONS]

With SIGNSCLF_TEST_DATA naming a folder of real images, the tests marked realdata run too.
"""

from __future__ import annotations

import os
import subprocess
import sys

from environment import ROOT, answers, prepare


def main() -> None:
    """Run the tests; the exit code is pytest's."""
    python = prepare("dev")
    # A process a core with one thread each: most of the tests' networks are too small to be shared out. Tests of one
    # file stay together, since they share what they train, and files in the order of tests/conftest.py.
    cores = answers(python, "from signsclf.machine import usable_cores; print(usable_cores())")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command = [str(python), "-m", "pytest", "-n", cores if cores.isdigit() else "1"]
    command += ["--dist", "loadfile", "--no-loadscope-reorder"]
    sys.exit(subprocess.run([*command, *sys.argv[1:]], cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
