"""A small batch: images of three colours, some of which cannot be read, and a tiny model."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tinymodel import write_folder

from signsclf.scale import worker
from signsclf.scale.plan import Plan, make_plan

SHARD_ROWS = 16


def write_images(folder: Path, n: int = 70) -> Path:
    """Write n images of random colours, and one that is none."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(n):
        pixels = np.broadcast_to(generator.integers(0, 256, 3, dtype=np.uint8), (9, 7, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{number:03}.png")
    (folder / "033b.png").write_bytes(b"no image")
    return folder


def write_batch(folder: Path, images: Path | None = None, **options: object) -> Plan:
    """Write a model, images and a plan."""
    folder.mkdir(exist_ok=True)
    model = folder / "model"
    if not model.exists():
        write_folder(model)
    if images is None:
        images = folder / "images"
        if not images.exists():
            write_images(images)
    return make_plan([str(images)], folder / "out", model, **{"shard_rows": SHARD_ROWS, **options})


def parts_of(plan: Plan) -> dict[str, str]:
    """The names of all parts, and the hashes of their bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(plan.folder.glob("part-*"))}


def crash_at_killers(plan: Plan, threads: int, connection: object) -> None:
    """Work as a worker's child does, with a decoder that crashes at images called killer, and hangs at slow ones."""
    from signsclf.scale import shards

    plain = shards.open_image

    def open_image(path: str) -> Image.Image:
        if "killer" in path:
            os.kill(os.getpid(), signal.SIGKILL)
        if "slow" in path:
            time.sleep(600)
        return plain(path)

    shards.open_image = open_image
    plain_work(plan, threads, connection)


plain_work = worker._work
