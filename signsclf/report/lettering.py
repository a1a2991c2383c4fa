"""Choose fonts that have the letters of a text, and replace class names that no installed font can show."""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from signsclf.text import count, short, visible

BASE_FONT = "DejaVu Sans"
"""The font that comes with matplotlib."""
# Fonts that show every letter as a box, or not at all.
_NO_LETTERS = ("last resort", "lastresort", "adobe blank", "adobeblank", "notdef")


def class_names(classes: Sequence[str]) -> list[str]:
    """Prepare class names for a picture: to be called within `canvas.styled`, to which it adds the fonts they need.

    Args:
        classes: all classes, in index order.

    Returns:
        The names in the same order, each on one line. In a name with letters that no installed font has, the class
        index replaces those letters, and a warning is logged once under ``signsclf``.
    """
    names = [visible(name) for name in classes]
    lacking = _take_fonts(names)
    if not lacking:
        return names
    _warn_lacking(tuple(names), lacking)
    return [_with_index(name, index, lacking) if lacking & set(name) else name for index, name in enumerate(names)]


def lettered(text: object) -> str:
    """Prepare any other text for a picture, like `class_names`; letters that no font has are escaped: ``\\u505c``."""
    text = visible(text)
    lacking = _take_fonts([text])
    return "".join(_escaped(letter) if letter in lacking else letter for letter in text)


def _with_index(name: str, index: int, lacking: frozenset[str]) -> str:
    rest = "".join(letter for letter in name if letter not in lacking)
    is_readable = any(unicodedata.category(letter)[0] in "LN" for letter in rest)
    return f"class {index}: {rest.strip()}" if is_readable else f"class {index}"


def _escaped(letter: str) -> str:
    return letter.encode("ascii", "backslashreplace").decode()


@functools.cache
def _warn_lacking(names: tuple[str, ...], lacking: frozenset[str]) -> None:
    without = [name for name in names if lacking & set(name)]
    logging.getLogger("signsclf").warning(
        "pictures: no installed font has the letters of %s, such as %s; pictures show the class index instead; "
        "install a font that has them, such as Noto Sans",
        count(len(without), "class name"),
        short(without[0]),
    )


def _take_fonts(texts: Iterable[str]) -> frozenset[str]:
    """Add fonts to those in use until every letter has one, if any does; return the letters that no font has."""
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
    # Variation selectors only change the look of the letter before them, so a missing one does not matter.
    return tuple(families), frozenset(letter for letter in lacking if not 0xFE00 <= ord(letter) <= 0xFE0F)


def installed_fonts() -> list[Any]:
    """List the fonts that matplotlib found, without those that have no real letters."""
    from matplotlib import font_manager

    fonts = font_manager.fontManager.ttflist
    return [font for font in fonts if not any(word in font.name.lower() for word in _NO_LETTERS)]


def _preference(font: Any) -> tuple[Any, ...]:
    """Sort key of fonts: upright before italic, then regular weight, sans serif, Noto."""
    name = font.name.lower()
    weight = font.weight if isinstance(font.weight, int) else 400
    return font.style != "normal", abs(weight - 400), "sans" not in name, "noto" not in name, name, font.fname


@functools.cache
def _charmap(file: str) -> frozenset[int]:
    """Return the code points that a font has glyphs for; none where it cannot be read or has bitmaps, not outlines."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError, TypeError):
        return frozenset()


def _is_rendered(file: str, letter: str) -> bool:
    """Tell whether a glyph has an outline: some emoji fonts map letters to coloured layers only."""
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
