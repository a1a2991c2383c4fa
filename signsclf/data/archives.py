"""Archives that cannot be read in place: recognised by name, with instructions to turn each into a source."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import shlex
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from signsclf import images
from signsclf.data.tree import some
from signsclf.text import count

_TARS = {
    "gz": gzip.open,
    "tgz": gzip.open,
    "bz2": bz2.open,
    "tbz": bz2.open,
    "tbz2": bz2.open,
    "xz": lzma.open,
    "txz": lzma.open,
    "lzma": lzma.open,
}
_OTHERS = frozenset(
    ("7z", "rar", "zst", "tzst", "gz", "bz2", "xz", "lzma", "z", "lz4", "br", "cab", "lzh", "iso", "dmg")
)
_MAX_SAMPLED_BYTES = 8 * 1024 * 1024


def is_archive_name(name: str) -> bool:
    """Tell whether a file's name has the suffix of an archive, readable in place or not."""
    return name.lower().endswith(".zip") or _is_tar(name) or _suffix(name) in _OTHERS


def how_to_read(path: str | Path) -> str | None:
    """Describe an archive on disk that cannot be read in place, and how to turn it into a source; None for others."""
    path = Path(path)
    if _is_tar(path.name):
        sample = _web_dataset_sample(path)
        unpack = f"mkdir photos && tar -xf {shlex.quote(path.name)} -C photos"
        if sample is None:
            return f"a tar archive, which is not read in place: unpack it ({unpack}) and give the folder, or a .zip"
        image, label = sample
        pair = f'echo "${{f%.cls}}{posixpath.splitext(image)[1]},$(cat "$f")"'
        table = f"cd photos && (echo path,label; for f in *.cls; do {pair}; done) > labels.csv"
        steps = "unpack all shards into one folder, list their labels in a table and give that"
        return f"a WebDataset shard, with samples such as {image} and {label}: {steps}: {unpack} && {table}"
    if _suffix(path.name) in _OTHERS:
        return f"a {path.suffix} archive, which is not read: unpack it and give the folder"
    return None


def inner_archives(names: Iterable[str], is_archive: bool, root: str) -> str | None:
    """Say what to do with archives in a folder or archive that has no images; None where there are none.

    Args:
        names: of the files below ``root``.
    """
    found = [name for name in names if is_archive_name(name)]
    if not found:
        return None
    what = f"no images, but {count(len(found), 'archive')} in it ({some(found)})"
    if not is_archive and (remedy := how_to_read(f"{root}/{found[0]}")):
        return f"{what}; {posixpath.basename(found[0])} is {remedy}"
    return f"{what}; unpack {'it, and them in it' if is_archive else 'them'}, and give the folder"


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1][1:].lower()


def _is_tar(name: str) -> bool:
    stem, suffix = posixpath.splitext(name.lower())
    return suffix in (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst") or stem.endswith(".tar")


def _web_dataset_sample(path: Path) -> tuple[str, str] | None:
    """Find an image and its label file in the first megabytes of a tar archive."""
    opener = _TARS.get(_suffix(path.name))
    images_by_key: dict[str, str] = {}
    labels_by_key: dict[str, str] = {}
    try:
        with opener(path) if opener else path.open("rb") as file:
            head = io.BytesIO(file.read(_MAX_SAMPLED_BYTES))
        with tarfile.open(fileobj=head, mode="r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key = f"{folder}/{name.partition('.')[0]}"
                if images.is_image_name(name):
                    images_by_key[key] = name
                elif name.endswith(".cls"):
                    labels_by_key[key] = name
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError):
        pass  # cut off after the sampled bytes, or not a tar archive
    key = next((key for key in images_by_key if key in labels_by_key), None)
    return None if key is None else (images_by_key[key], labels_by_key[key])
