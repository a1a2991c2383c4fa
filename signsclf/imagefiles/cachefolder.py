"""The cache folder: entries with decoded images, or with copies of archives, bounded together.

An entry is a folder named by a hash. Nothing else in the cache folder is touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

MAX_CACHE_BYTES = 20 * 1024**3
"""The cache keeps the most recently used entries up to this size, and always the newest; writing one evicts others."""
PIXELS, INDEX = "pixels.bin", "index.json"
DIGESTS, COPY, FEATURES = "digests.json", "archive.bin", "features.npy"
"""The files that an entry may have: decoded images and their index, or the index of streamed images alone, or a copy of
an archive, or what a frozen network makes of images."""
_FILES = (PIXELS, INDEX, DIGESTS, COPY, FEATURES)
_TAG = "CACHEDIR.TAG"
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Images decoded by signsclf; may be deleted.\n"
_NAME = re.compile(r"[0-9a-f]{32}(\.[0-9a-f]{8}\.tmp)?")
_ABANDONED_SECONDS = 24 * 3600


def users_folder() -> Path | None:
    """Return the user's cache folder; None for a user who has none."""
    import platformdirs

    # With an empty HOME it would lie in the root folder; without HOME its name would start with "~".
    if os.environ.get("HOME") == "" and not os.environ.get("XDG_CACHE_HOME"):
        return None
    try:
        folder = Path(platformdirs.user_cache_dir("signsclf", False)).expanduser()
    except (RuntimeError, KeyError, OSError):
        return None
    return folder if folder.is_absolute() else None


def measure(folder: Path) -> tuple[int, int]:
    """Count a cache's entries, unfinished ones included, and their bytes."""
    entries = _entries(folder)
    return len(entries), sum(_bytes(entry) for entry in entries)


def clear(folder: Path) -> tuple[int, int]:
    """Delete all entries of a cache, and nothing else in its folder.

    Returns:
        The bytes freed, and how many entries remain because they are in use or cannot be deleted.
    """
    freed = 0
    for entry in _entries(folder):
        n_bytes = _bytes(entry)
        if delete(entry):
            freed += n_bytes
    return freed, len(_entries(folder))


def make_space(folder: Path, wanted: int) -> None:
    """Create the cache folder, with the tag by which backups leave it out, and evict entries for ``wanted`` bytes.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _evict(folder, wanted)
    with contextlib.suppress(FileExistsError), (folder / _TAG).open("x") as tag:
        tag.write(_TAG_TEXT)


def _evict(cache: Path, wanted: int) -> None:
    """Delete unfinished entries over a day old, and the least recently used ones beyond `MAX_CACHE_BYTES`."""
    kept = []
    total = wanted
    for entry in _entries(cache):
        with contextlib.suppress(OSError):
            n_bytes = _bytes(entry)
            if entry.suffix != ".tmp":
                used = next((path for name in _FILES[1:] if (path := entry / name).exists()), entry)
                kept.append((used.stat().st_mtime, n_bytes, entry))
            elif time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
            else:
                total += n_bytes
    for _, n_bytes, entry in sorted(kept, reverse=True):
        total += n_bytes
        if total > MAX_CACHE_BYTES:
            delete(entry)


def delete(entry: Path) -> bool:
    """Delete an entry atomically: rename it to a name that no process opens, then delete that.

    Windows cannot rename a folder that holds a mapped file, and without the rename would delete its other file.
    """
    doomed = entry.with_name(f"{entry.name[:32]}.{secrets.token_hex(4)}.tmp")
    try:
        entry.rename(doomed)
        shutil.rmtree(doomed)
    except OSError:
        return False
    return True


def _entries(folder: Path) -> list[Path]:
    """List the entries, recognised by their names and by the files in them; links are not entries."""
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
        return [
            path
            for path in sorted(found)
            if path.is_dir() and not path.is_symlink() and {part.name for part in path.iterdir()} <= set(_FILES)
        ]
    except OSError:
        return []


def _bytes(entry: Path) -> int:
    total = 0
    for name in _FILES:
        with contextlib.suppress(OSError):
            total += (entry / name).stat().st_size
    return total
