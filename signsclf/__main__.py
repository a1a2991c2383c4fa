"""``python -m signsclf`` is the command line."""

from signsclf.cli import main

main()
