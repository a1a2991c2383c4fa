"""What long work tells whoever started it. The base class keeps silent; the command line draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signsclf.data.table import Source
    from signsclf.runs.prepare import Prepared
    from signsclf.training.callbacks import BatchDone, EpochDone
    from signsclf.training.direct import DirectFit
    from signsclf.training.fit import Fit


class Observer:
    """Override what is of interest; every method may be called often and should return at once."""

    def say(self, line: str) -> None:
        """One line of news for a person."""

    def progress(self, task: str, done: int, total: int) -> None:
        """How far a task of known length is."""

    def source(self, source: Source) -> None:
        """A source was read."""

    def plan(self, prepared: Prepared, seconds: float) -> None:
        """Training is about to begin and is estimated to take so long; 0 where a resumed run is not estimated."""

    def fitting(self, fit: Fit | DirectFit | None) -> None:
        """Training begins, and ``fit.stop()`` would end it in good order; None when it is over."""

    def progressed(self, event: BatchDone | EpochDone) -> None:
        """A batch or an epoch is done."""
