"""Small tables of images for tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from signsclf.choices import Reading
from signsclf.data.table import Source, read_source
from signsclf.errors import SourceError


def images(root: Path, *names: str) -> Path:
    """Draws images below a folder, and gives the folder."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (10 * i % 256, 80, 120)).save(root / name)
    return root


def text(path: Path, content: str | bytes) -> Path:
    """Writes a file, as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def labels(source: Source) -> dict[str, str]:
    """The label of each image, by its name below the source."""
    return {source.relative(row["path"]): row["label"] for row in source.table}


def splits(source: Source) -> dict[str, str]:
    """The split of each image."""
    return {source.relative(row["path"]): row["split"] for row in source.table}


def refusal(path: Path, **reading: object) -> str:
    """The one line that a source is refused with."""
    with pytest.raises(SourceError) as caught:
        read_source(path, Reading(**reading))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noted(source: Source, words: str) -> str:
    """The one note that holds some words."""
    (found,) = [note for note in source.notes if words in note]
    return found
