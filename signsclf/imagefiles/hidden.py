"""Hidden files and folders: which are left out without a word, and how many images the others hide."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from signsclf.imagefiles.kinds import is_image_name, words

HIDDEN_FILES = ".*"
"""What hidden files of a folder are called together."""
_LOOKED_AT = 20_000
"""Files in a hidden folder beyond this are not counted."""
_OF_SYSTEMS = words("__macosx lost+found $recycle.bin #recycle @recycle #snapshot @tmp found.000") | {
    "system volume information",
    "@recently-snapshot",
}
"""What systems, drives and network storage keep in every folder that they serve, such as deleted photos."""
_NEVER_CLASSES = _OF_SYSTEMS | words("""
.git .svn .hg .bzr .github .gitlab .cache .thumbnails .thumb .ipynb_checkpoints .ds_store .appledouble
.lsoverride .spotlight-v100 .fseventsd .documentrevisions-v100 .temporaryitems .trash .trashes .recycle .venv
.tox .nox .idea .vscode .vs .settings .dvc .huggingface .mypy_cache .pytest_cache .ruff_cache .npm .local
.config .picasaoriginals .dropbox .dropbox.cache .sync .stfolder .stversions .nfs .snapshot .backup
""")
"""Hidden folders that tools and systems make: what lies in them is left out without a word."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    # '..' is among the names that start with a dot.
    return name.startswith((".", "@eaDir")) or name.casefold() in _OF_SYSTEMS


def hiding_part(parts: Sequence[str]) -> tuple[bool, str | None]:
    """Whether a file in an archive, by the parts of its name, is hidden, and what to count it for if it is an image.

    Returns:
        A hidden folder, or FOLDER/.* for hidden files; None where it is left out without a word.
    """
    place = next((depth for depth, part in enumerate(parts) if is_hidden(part)), None)
    if place is None:
        return False, None
    if is_nobodys(parts[place]) or ".." in parts or not is_image_name(parts[-1]):
        return True, None
    return True, "/".join(parts[: place + 1] if place + 1 < len(parts) else [*parts[:place], HIDDEN_FILES])


def hidden_images(entry: os.DirEntry) -> int:
    """How many images a hidden folder has, with all below it, by their names; of a hidden file, whether it is one."""
    if is_nobodys(entry.name):
        return 0
    try:
        is_folder = entry.is_dir()
    except OSError:  # a link to itself
        return 0
    if not is_folder:
        return int(is_image_name(entry.name))
    count = seen = 0
    for _, _, names in os.walk(entry.path):
        seen += len(names)
        count += sum(map(is_image_name, names))
        if seen > _LOOKED_AT:
            break
    return count


def is_nobodys(name: str) -> bool:
    """Whether a hidden name is one that tools and systems give."""
    lowered = name.casefold()
    return lowered in _NEVER_CLASSES or lowered.startswith(("._", ".trash-", ".~", "@eadir", ".nfs", ".fuse_hidden"))


def hidden_text(hidden: Mapping[str, int]) -> str:
    """Hidden folders and files with the number of images in each, and what helps."""
    most = sorted(hidden, key=lambda name: (-hidden[name], name))
    shown = ", ".join(f"{name!r} ({hidden[name]:,})" for name in most[:5])
    more = f" and {len(most) - 5:,} more" if len(most) > 5 else ""
    return f"{shown}{more}; rename without the dot what is meant to be read"
