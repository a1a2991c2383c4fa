"""The 43 classes of GTSRB rendered by the package itself, from shapes and a seed: no pictures, no fonts.

A synthetic image has a path, ``synthetic:SEED/CCCCC/TTTTT_FFFFF.ppm``, which `signsclf.images` reads like any file's;
nothing lies on the disk.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.data.rows import make_table
from signsclf.data.synthetic.frame import SIZES, render_frame
from signsclf.data.synthetic.signs import render_sign, variants
from signsclf.errors import BadImageError, SourceError

__all__ = [
    "FRAMES",
    "KEYWORD",
    "SIZES",
    "contact_sheet",
    "read",
    "render_frame",
    "render_sign",
    "table",
    "variants",
    "write",
]

KEYWORD = "synthetic"
"""What a user writes as the source, and how the path of a synthetic image begins."""
FRAMES = 6
"""Images of one physical sign, unless told otherwise."""

_PATH = re.compile(rf"{KEYWORD}:([0-9]{{1,18}})/([0-9]{{5}})/([0-9]{{5}})_([0-9]{{5}})\.ppm")
_NUMBERS = 100_000
"""Tracks of a class, and frames of a track, are numbered with five digits."""


def read(path: str) -> bytes:
    """Render the image of a path ``synthetic:SEED/CCCCC/TTTTT_FFFFF.ppm``, as a binary PPM file.

    Raises:
        BadImageError: the path is of another form, or its class does not exist.
    """
    parts = _PATH.fullmatch(path)
    if parts is None or int(parts[2]) >= len(CLASS_NAMES):
        raise BadImageError(
            f"{path}: no synthetic sign; such a path reads {KEYWORD}:SEED/CCCCC/TTTTT_FFFFF.ppm, "
            "with a class from 00000 to 00042"
        )
    seed, class_id, track, frame = (int(part) for part in parts.groups())
    pixels = render_frame(class_id, track, frame, seed)
    height, width = pixels.shape[:2]
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def table(per_class: int = 240, frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    """List synthetic images as a table, classes in the order of ClassId: path, label, group; split and roi are None.

    Args:
        per_class: images of each class.
        frames: images of one physical sign, which are one group; the last sign of a class may have fewer.
        seed: another seed gives other signs.

    Raises:
        SourceError: a number that is out of its range.
    """
    rows = []
    for class_id, name in enumerate(CLASS_NAMES):
        for track, frame in _numbering(per_class, frames, seed):
            path = f"{KEYWORD}:{seed}/{class_id:05d}/{track:05d}_{frame:05d}.ppm"
            rows.append((path, name, None, f"{class_id:05d}/{track:05d}", None))
    return make_table(rows)


def write(
    folder: str | Path,
    per_class: int,
    sizes: tuple[int, int] = SIZES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write synthetic images as PNG files ``CCCCC/TTTTT_FFFFF.png``: all of them, or none.

    Args:
        folder: to write to; new or empty.
        per_class: images of each class, `FRAMES` of each physical sign.
        sizes: least and most pixels of an image's longer side, 8 to 512.
        seed: another seed gives other signs.
        progress: called with (done, total) after each class.

    Returns:
        How many images were written.

    Raises:
        SourceError: the folder is not empty or cannot be written, or a number is out of its range.
    """
    folder = Path(folder).resolve()
    numbering = _numbering(per_class, FRAMES, seed)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SourceError(f"{folder}: exists and is not empty; give a new or an empty folder for the signs")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The temporary directory is private; the one inside it has the permissions of any new directory.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            complete = Path(temporary) / "signs"
            for class_id in range(len(CLASS_NAMES)):
                of_class = complete / f"{class_id:05d}"
                of_class.mkdir(parents=True)
                for track, frame in numbering:
                    pixels = render_frame(class_id, track, frame, seed, sizes)
                    Image.fromarray(pixels).save(of_class / f"{track:05d}_{frame:05d}.png")
                if progress:
                    progress((class_id + 1) * per_class, len(CLASS_NAMES) * per_class)
            if folder.exists():
                folder.rmdir()
            complete.replace(folder)
    except OSError as error:
        raise SourceError(f"{folder}: the signs cannot be written ({error.strerror or error})") from error
    return len(CLASS_NAMES) * per_class


def contact_sheet(names: bool = True) -> Image.Image:
    """Show every class on one RGB picture: the sign at 200 px, four images of it on its right, its name below."""
    sign, crop, line, columns = 200, 98, 22, 6
    width, height = sign + 2 * crop + 16, sign + 8 + (line if names else 0)
    rows = -(-len(CLASS_NAMES) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), (214, 219, 224))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for class_id, name in enumerate(CLASS_NAMES):
        x, y = class_id % columns * width + 4, class_id // columns * height + 4
        clean = render_sign(class_id, sign)
        sheet.paste(clean, (x, y), clean)
        for k in range(4):
            seen = Image.fromarray(render_frame(class_id, k, 2 * k, 0)).resize((crop, crop), Image.Resampling.BICUBIC)
            sheet.paste(seen, (x + sign + 4 + k % 2 * (crop + 2), y + k // 2 * (crop + 2)))
        if names:
            draw.text((x, y + sign + 1), f"{class_id} {name}", (20, 20, 20), font)
    return sheet


def _numbering(per_class: int, frames: int, seed: int) -> list[tuple[int, int]]:
    """(track, frame) of each image of a class."""
    if not (1 <= frames <= _NUMBERS and 1 <= per_class <= frames * _NUMBERS):
        raise SourceError(
            f"{per_class} images a class, {frames} of each sign, cannot be rendered: give at least 1 of each"
        )
    if not 0 <= seed < 10**18:
        raise SourceError(f"the seed {seed} cannot be used for synthetic signs: give 0 or more, at most 18 digits")
    return [divmod(i, frames) for i in range(per_class)]
