"""Text for people: made safe for a terminal, measured in its columns, shortened, counted and sorted."""

from __future__ import annotations

import os
import re
import unicodedata

LABEL_LENGTH = 44

# Joiners spell words of Persian and Indic scripts and combine pictographs; between Latin letters they only hide.
_JOINER = re.compile("(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")
# Format characters that are visible: Arabic, Syriac and Kaithi number and verse signs.
_VISIBLE_FORMATS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
_NUMBER = re.compile("[0-9]+")
_UNDECODED = re.compile("[\udc80-\udcff]+")  # what Python makes of bytes that the locale cannot decode
_BRACES = re.compile(r"\{(?:([0-9]{1,9})\.\.([0-9]{1,9})|([^{}/,]*(?:,[^{}/,]*)+))\}")
_MOST_EXPANDED = 1_000_000
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: object) -> str:
    r"""Escape characters that a terminal interprets or does not show, as in ``\x1b``.

    These are control characters (C0, C1, DEL), line and paragraph separators, marks of writing direction and other
    invisible format characters, and lone surrogates, which stand for bytes of file names that are not text. The result
    is one line, can be encoded as UTF-8, and cannot move the cursor, change colours or set the title of a terminal.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    text = decoded(text)
    joiners = {found.start() for found in _JOINER.finditer(text)}
    return "".join(
        letter if i in joiners or letter in _VISIBLE_FORMATS or not _is_hidden(letter) else _escape(letter)
        for i, letter in enumerate(text)
    )


def decoded(text: str) -> str:
    """Decode as UTF-8 those bytes of file names in a text that the locale could not decode, where they are UTF-8."""

    def read(found: re.Match[str]) -> str:
        return bytes(ord(letter) - 0xDC00 for letter in found[0]).decode("utf-8", "surrogateescape")

    return _UNDECODED.sub(read, text)


def file_text(name: str) -> str:
    r"""Decode the name of a file as UTF-8, whatever the locale's encoding.

    Under ``LC_ALL=C`` Python decodes the bytes of ``ü`` to lone surrogates, under Latin-1 to two letters. Names that
    are not UTF-8 are returned unchanged. The result is for people and for labels; to open the file, use the name
    itself.
    """
    if name.isascii():
        return name
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeError:
        return name


def short(text: object, length: int = LABEL_LENGTH) -> str:
    """Shorten `visible` text to at most ``length`` characters; a shortened text ends in an …"""
    text = visible(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def columns(text: str) -> int:
    """Count the terminal columns of `visible` text: 2 for wide characters, 0 for combining marks."""
    return sum(map(_columns, text))


def fitted(text: object, width: int) -> str:
    """Fit `visible` text to ``width`` terminal columns: cut it, ending in an …, or pad it with spaces.

    Args:
        width: 1 or more.
    """
    text = visible(text)
    if columns(text) > width:
        columns_left, kept = width - 1, []
        for letter in text:
            columns_left -= _columns(letter)
            if columns_left < 0:
                break
            kept.append(letter)
        text = "".join(kept) + "…"
    return text + " " * (width - columns(text))


def count(n: int, singular: str, plural: str | None = None) -> str:
    """Format a number with its noun: "1 image", "1,234 images"."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def compact_count(n: int) -> str:
    """Shorten a number to fit a narrow cell, such as 9,999 to "9999", 12,345 to "12k" and 1,234,567 to "1.23M"."""
    return str(n) if n < 10_000 else f"{n / 1000:.0f}k" if n < 1_000_000 else f"{n / 1e6:.3g}M"


def size_text(n_bytes: int) -> str:
    """Shorten a number of bytes to megabytes, or gigabytes with one decimal: "35 MB", "1.2 GB"."""
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.0f} MB"


def natural_key(name: str) -> tuple[str, str]:
    """Make a key for natural sorting: 9 comes before 10, and upper and lower case are sorted together."""

    def comparable(found: re.Match[str]) -> str:
        # A NUL sorts before all letters; of two numbers the longer is the greater.
        digits = found[0].lstrip("0")
        return f"\0{chr(len(digits))}{digits}"

    return _NUMBER.sub(comparable, name.casefold()), name


def _is_hidden(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(letter: str) -> str:
    number = ord(letter)
    if letter in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[letter]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _columns(letter: str) -> int:
    if letter == "\u200d" or unicodedata.category(letter) in ("Mn", "Me", "Cf") or "\u1160" <= letter <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1


def expand_braces(text: str) -> list[str]:
    """Expand ``{000..009}``, zeros kept, and ``{a,b}`` to all texts that are meant, as bash does.

    A text with more than a million of them, or with a range that ends before it starts, stays as it is.
    """
    found = _BRACES.search(text)
    if found is None:
        return [text]
    first, last, choices = found.groups()
    n = 0 if choices is not None else int(last) - int(first) + 1
    inside = (
        choices.split(",")
        if choices is not None
        else [f"{int(first) + i:0{len(first)}}" for i in range(n if n <= _MOST_EXPANDED else 0)]
    )
    rest = expand_braces(text[found.end() :])
    if not 0 < len(inside) * len(rest) <= _MOST_EXPANDED:
        return [text]
    return [text[: found.start()] + part + end for part in inside for end in rest]
