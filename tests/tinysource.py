"""A tiny source of drawn shapes that trains in a second, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from signsclf.files import file_hash
from signsclf.observer import BatchDone, EpochDone, Observer

CLASSES = ("blue disc", "green square", "red bar")
TINY = {"arch": "signnet", "size": 16, "epochs": 3, "batch_size": 16, "lr": 0.02, "precision": "fp32", "device": "cpu"}
"""Fields of the recipe that trains on the tiny source to no mistake in a second."""


def draw_shape(target: int, rng: np.random.Generator, side: int = 20) -> Image.Image:
    """A shape of one of `CLASSES`, somewhere on noise."""
    pixels = rng.integers(0, 120, (side, side, 3), dtype=np.uint8)
    ys, xs = np.mgrid[:side, :side]
    y, x = rng.integers(6, side - 6, 2)
    shape = [(ys - y) ** 2 + (xs - x) ** 2 <= 25, (abs(ys - y) <= 4) & (abs(xs - x) <= 4), abs(ys - y) <= 1][target]
    pixels[shape, (2, 1, 0)[target]] = rng.integers(150, 256)
    return Image.fromarray(pixels)


def draw_source(
    root: Path, tracks: int = 8, frames: int = 5, seed: int = 0, classes: tuple[str, ...] = CLASSES
) -> Path:
    """Class folders below ``root`` with TTTTT_FFFFF names: by default 120 images of 24 tracks."""
    rng = np.random.default_rng(seed)
    for target, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for track in range(tracks):
            for frame in range(frames):
                draw_shape(target, rng).save(root / name / f"{track:05}_{frame:05}.png")
    return root


def flags(**changes: object) -> list[str]:
    """`TINY`, with changes, as options of ``signsclf train``; None leaves one out."""
    values = {**TINY, **changes}
    return [
        part
        for name, value in values.items()
        if value is not None
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def weights(folder: Path) -> str:
    """The digest of a model folder's weights."""
    return file_hash(folder / "model.safetensors")


def loaded_by(code: str, *names: str) -> list[str]:
    """Which of the packages a fresh interpreter has loaded after it ran the code."""
    code = f"import sys\n{code}\nprint(*[name for name in {names} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


class one_thread:
    """What torch computes within is the same, bit for bit, as in `run_command`."""

    def __enter__(self) -> None:
        import torch

        self.threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_num_threads(self.threads)


class Watched(Observer):
    """Keeps what it is told.

    Attributes:
        stop: given to a training, it ends that once ``stop_after`` epochs are done; 0: after its first batch.
        lines, progressed, events: what was said; (task, done, total); batches and epochs.
    """

    def __init__(self, stop_after: int | None = None, before: Callable[[], object] | None = None) -> None:
        self.stop_after, self.before = stop_after, before
        self.stop = threading.Event()
        self.lines: list[str] = []
        self.progressed: list[tuple[str, int, int]] = []
        self.events: list[BatchDone | EpochDone] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, task: str, done: int, total: int) -> None:
        self.progressed.append((task, done, total))

    def training_began(self) -> None:
        if self.before is not None:
            self.before()
        if self.stop_after == 0:
            self.stop.set()

    def batch_done(self, event: BatchDone) -> None:
        self.events.append(event)

    def epoch_done(self, event: EpochDone) -> None:
        self.events.append(event)
        if event.row["epoch"] == self.stop_after:
            self.stop.set()


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """What was told of the failure: the last line, and not a traceback."""
        assert self.code != 0, self.out + self.err
        assert "Traceback" not in self.err, self.err
        lines = self.err.splitlines()
        assert lines, "nothing was said"
        assert lines[-1].startswith("signsclf: "), self.err
        assert "unexpected" not in lines[-1], self.err
        return lines[-1]


def environment(**changes: str) -> dict[str, str]:
    """For a process of its own: one thread, nothing of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIGNSCLF_")}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **changes}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "signsclf", *map(str, arguments)]


def run_command(*arguments: object, cwd: Path | None = None, stdin: str = "", timeout: float = 300) -> Ran:
    """The command line in a process of its own."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=timeout,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
