"""Paths as users write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from signsclf.errors import SignsclfError
from signsclf.text import file_text

# A Path has lost the second slash of an address.
_ADDRESS = re.compile(r"(?i)([a-z][a-z0-9+.-]+):([/\\]{1,2})|data:[a-z]+/")


def user_path(path: str | os.PathLike[str], raises: type[SignsclfError] = SignsclfError) -> Path:
    """Replace a ``~`` or ``~name`` at the start by that home folder, where no shell has done so.

    A file or folder that is itself called ``~name`` is meant where it exists.

    Raises:
        SignsclfError: there is no such user, or no home folder, or it is a web address; of the type ``raises``.
    """
    text = os.fspath(path)
    if (address := _ADDRESS.match(text)) and not os.path.lexists(text):
        if address[1] is None:
            raise raises(f"{text[:40]}: an image as text in a data address; decode it, and save it as a file")
        remedy = "give the path alone" if address[1].lower() == "file" else "download it, and give the file"
        shown = text if len(address[2]) == 2 else f"{address[1]}://{text[address.end() :]}"
        raise raises(f"{shown}: an address, and nothing is fetched; {remedy}")
    path = Path(path)
    first = path.parts[0] if path.parts else ""
    if not first.startswith("~") or (first != "~" and os.path.lexists(first)):
        return path
    try:
        # An empty $HOME would make the home folder the root of all files.
        if first == "~" and os.name != "nt" and os.environ.get("HOME") == "":
            raise RuntimeError
        return path.expanduser()
    except RuntimeError as error:
        lacking = "this user has no home folder" if first == "~" else f"there is no user {first[1:]!r} here"
        raise raises(f"{path}: {lacking}; write the path out, or ./{path} for a name that begins with ~") from error


def native_path(path: str | os.PathLike[str]) -> str:
    """A path as libraries written in other languages take it: as the UTF-8 that it is on disk, whatever the locale."""
    return file_text(os.fspath(path))
