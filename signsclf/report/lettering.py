"""Which installed font has the letters of a text, and what stands for a class name that no font can show."""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from signsclf.text import count, short, visible

BASE_FONT = "DejaVu Sans"
"""Comes with matplotlib."""
# These show a box for every letter, or nothing.
_NO_LETTERS = ("last resort", "lastresort", "adobe blank", "adobeblank", "notdef")


def class_names(classes: Sequence[str]) -> list[str]:
    """Class names as a picture can show them, within `canvas.styled`, whose fonts are extended for them.

    Args:
        classes: all of them, in index order.

    Returns:
        The names in the same order, each on one line. Of a name with a letter that no installed font has, the class
        index stands for what cannot be shown, and one line in the log of ``signsclf`` says so.
    """
    names = [visible(name) for name in classes]
    lacking = _take_fonts(names)
    if not lacking:
        return names
    _say_lacking(tuple(names), lacking)
    return [_with_index(name, index, lacking) if lacking & set(name) else name for index, name in enumerate(names)]


def lettered(text: object) -> str:
    """A text as a picture can show it, like `class_names`; letters that no font has are escaped, as in ``\\u505c``."""
    text = visible(text)
    lacking = _take_fonts([text])
    return "".join(_escaped(letter) if letter in lacking else letter for letter in text)


def _with_index(name: str, index: int, lacking: frozenset[str]) -> str:
    rest = "".join(letter for letter in name if letter not in lacking)
    told = any(unicodedata.category(letter)[0] in "LN" for letter in rest)
    return f"class {index}: {rest.strip()}" if told else f"class {index}"


def _escaped(letter: str) -> str:
    return letter.encode("ascii", "backslashreplace").decode()


@functools.cache
def _say_lacking(names: tuple[str, ...], lacking: frozenset[str]) -> None:
    without = [name for name in names if lacking & set(name)]
    logging.getLogger("signsclf").warning(
        "pictures: no installed font has the letters of %s, such as %s; the class index stands for each, and the CSV "
        "files have the names; install a font for them, such as Noto Sans",
        count(len(without), "class name"),
        short(without[0]),
    )


def _take_fonts(texts: Iterable[str]) -> frozenset[str]:
    """Add fonts to those in use until every letter has one that can be had; the letters that have none."""
    import matplotlib

    wanted = {letter for text in texts for letter in text if not letter.isascii()}
    families, lacking = _fonts_for(frozenset(wanted)) if wanted else ((), frozenset())
    used = matplotlib.rcParams["font.family"]
    matplotlib.rcParams["font.family"] = [*used, *(family for family in families if family not in used)]
    return lacking


@functools.cache
def _fonts_for(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    from matplotlib import font_manager

    base = font_manager.findfont(BASE_FONT, fallback_to_default=False)
    lacking = {letter for letter in letters if ord(letter) not in _charmap(base)}
    families = []
    for entry in sorted(installed_fonts(), key=_preference):
        if not lacking:
            break
        shown = {letter for letter in lacking if ord(letter) in _charmap(entry.fname)}
        shown = {letter for letter in shown if _is_rendered(entry.fname, letter)}
        if shown:
            families.append(entry.name)
            lacking -= shown
    # Marks that choose the look of the letter before them are no loss.
    return tuple(families), frozenset(letter for letter in lacking if not 0xFE00 <= ord(letter) <= 0xFE0F)


def installed_fonts() -> list[Any]:
    """matplotlib's entries of the fonts that it found, without those that have no letters of their own."""
    from matplotlib import font_manager

    fonts = font_manager.fontManager.ttflist
    return [font for font in fonts if not any(word in font.name.lower() for word in _NO_LETTERS)]


def _preference(font: Any) -> tuple[Any, ...]:
    """Upright and regular ones first, then those without serifs, Noto's before others."""
    name = font.name.lower()
    weight = font.weight if isinstance(font.weight, int) else 400
    return font.style != "normal", abs(weight - 400), "sans" not in name, "noto" not in name, name, font.fname


@functools.cache
def _charmap(file: str) -> frozenset[int]:
    """Code points for which a font has glyphs; none where it cannot be read, or has pictures instead of outlines."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError, TypeError):
        return frozenset()


def _is_rendered(file: str, letter: str) -> bool:
    """Whether a glyph has an outline: some fonts of pictographs map letters to coloured layers alone."""
    from matplotlib.ft2font import FT2Font

    if unicodedata.category(letter)[0] in "MZC":
        return True
    try:
        font = FT2Font(file)
        font.set_size(12, 72)
        left, bottom, right, top = font.load_char(ord(letter)).bbox
        return right > left and top > bottom
    except (OSError, RuntimeError, ValueError):
        return False
