"""Small tables of images for tests."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from signsclf.choices import Layout, Reading
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


def refusal(source: str | Path, reading: Reading | Layout | None = None, **readings: object) -> str:
    """The one line that a source is refused with, read as ``reading`` or `Reading` of the other arguments says."""
    with pytest.raises(SourceError) as caught:
        read_source(source, reading or Reading(**readings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zipped(folder: Path, archive: Path | None = None) -> Path:
    """The zip archive of a folder, beside it unless told otherwise."""
    archive = archive or folder.with_name(f"{folder.name}-packed.zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder).as_posix())
    return archive


def noted(source: Source, words: str) -> str:
    """The one note that holds some words."""
    (found,) = [note for note in source.notes if words in note]
    return found
