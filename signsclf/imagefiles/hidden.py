"""Hidden files and folders: which are left out silently, and how many images the others contain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from signsclf.imagefiles.kinds import is_image_name, words

HIDDEN_FILES = ".*"
"""The name under which a folder's hidden files are counted."""
_MAX_COUNTED = 20_000
"""Counting the images of a hidden folder stops after so many files."""
_SYSTEM_NAMES = words("__macosx lost+found $recycle.bin #recycle @recycle #snapshot @tmp found.000") | {
    "system volume information",
    "@recently-snapshot",
}
"""Folders that operating systems, drives and network storage create, for deleted photos and the like."""
_TOOL_NAMES = _SYSTEM_NAMES | words("""
.git .svn .hg .bzr .github .gitlab .cache .thumbnails .thumb .ipynb_checkpoints .ds_store .appledouble
.lsoverride .spotlight-v100 .fseventsd .documentrevisions-v100 .temporaryitems .trash .trashes .recycle .venv
.tox .nox .idea .vscode .vs .settings .dvc .huggingface .mypy_cache .pytest_cache .ruff_cache .npm .local
.config .picasaoriginals .dropbox .dropbox.cache .sync .stfolder .stversions .nfs .snapshot .backup
""")
"""Hidden files and folders that tools and systems create: left out silently."""


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is left out."""
    # '..' starts with a dot too, so it is left out.
    return name.startswith((".", "@eaDir")) or name.casefold() in _SYSTEM_NAMES


def hiding_part(parts: Sequence[str]) -> tuple[bool, str | None]:
    """Tell from the parts of its name whether a file in an archive is hidden, and where to count it if it is an image.

    Returns:
        Whether it is hidden; and the hidden folder, or FOLDER/.* for hidden files, None where it is left out silently.
    """
    depth_hidden = next((depth for depth, part in enumerate(parts) if is_hidden(part)), None)
    if depth_hidden is None:
        return False, None
    if is_made_by_tool(parts[depth_hidden]) or ".." in parts or not is_image_name(parts[-1]):
        return True, None
    return True, "/".join(
        parts[: depth_hidden + 1] if depth_hidden + 1 < len(parts) else [*parts[:depth_hidden], HIDDEN_FILES]
    )


def hidden_images(entry: os.DirEntry) -> int:
    """Count the images in a hidden folder and its subfolders, by their names; a hidden file counts as 1 or 0."""
    if is_made_by_tool(entry.name):
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
        if seen > _MAX_COUNTED:
            break
    return count


def is_made_by_tool(name: str) -> bool:
    """Tell whether a hidden name is one that tools and systems create, and no user's own."""
    lowered = name.casefold()
    return lowered in _TOOL_NAMES or lowered.startswith(("._", ".trash-", ".~", "@eadir", ".nfs", ".fuse_hidden"))


def hidden_text(hidden: Mapping[str, int]) -> str:
    """Describe hidden folders and files with the number of images in each, and how to include them."""
    largest = sorted(hidden, key=lambda name: (-hidden[name], name))
    shown = ", ".join(f"{name!r} ({hidden[name]:,})" for name in largest[:5])
    rest = f" and {len(largest) - 5:,} more" if len(largest) > 5 else ""
    return f"{shown}{rest}; to include them, rename them without the dot"
