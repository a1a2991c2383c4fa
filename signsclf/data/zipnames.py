"""Decode the names in a zip archive, and guess their encoding where the archive does not state it."""

from __future__ import annotations

import struct
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from functools import lru_cache

ENCODINGS = (
    *("cp932", "gbk", "cp949", "cp950"),
    *("cp866", "cp1251", "cp850", "cp1252", "cp852", "cp1250", "cp737", "cp1253", "cp437"),
)
"""Encodings to try for unmarked names that are not UTF-8; of equally likely ones the first is chosen."""

_MARKED_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_MAX_SNIFFED = 2_000
"""How many distinct parts of names are used to guess the encoding."""

# How unlikely a character is in a name; only the order of these values matters.
_LIKELY, _USUAL, _UNUSUAL, _ODD, _WRONG = 0.1, 0.6, 1.2, 3.0, 1_000.0

_FREQUENT_CYRILLIC = frozenset("оеаинтсрвлкмдпу")
_CYRILLIC = frozenset("абвгдежзийклмнопрстуфхцчшщъыьэюяёіїєґў")
_WESTERN = frozenset("äöüßéèêàâáíóôúûçñåø")
_LESS_WESTERN = frozenset("ëîïìòùæãõœÿý")
_EASTERN = frozenset("ąćęłńśźżčďěňřšťůžőűăîșțşţđťľĺŕ")
_FREQUENT_GREEK = frozenset("αοιετσνηυρπκμλςάέίόύήώ")
_FREQUENT_HANGUL = frozenset(
    "이다의는에을가고한지하기도로사자리어나아대인서그를은시정부장과전수일제보들상구주해있으면여년러진스신조우원선안라만공국"
    "중요유성동물방세화개비경모것적마관무미연실습차당소교오니었용양심통문산강생금단회학위결분재내저치드트카타파포토프음악"
    "불간초록빨노란색표판좌우출입구호등행버택량앞뒤길"
)


def decode_names(members: Sequence[zipfile.ZipInfo], encoding: str | None = None) -> tuple[list[str], str | None]:
    """Decode each member's name; also return the encoding used for unmarked names, None if there are none.

    A name's Unicode extra field takes precedence, then the flag for UTF-8. Names with neither are decoded as UTF-8 if
    all of them are valid (tools on macOS omit the flag), else in the encoding of `ENCODINGS` in which they look most
    like names.

    Args:
        encoding: decode unmarked names with this encoding.

    Raises:
        UnicodeError: an unmarked name is not valid in ``encoding``.
    """
    raws = [_raw(member) for member in members]
    unmarked = [raw for raw in raws if raw is not None]
    if unmarked and encoding is None:
        encoding = _guess(unmarked)
    names = [
        member.orig_filename if raw is None else raw.decode(encoding or "ascii")
        for member, raw in zip(members, raws, strict=True)
    ]
    for i, member in enumerate(members):
        names[i] = _unicode_path(member) or names[i]
    return names, encoding if unmarked else None


def _raw(member: zipfile.ZipInfo) -> bytes | None:
    """Return a name's bytes if its encoding is not stated; None for other names and for ASCII."""
    if member.flag_bits & _MARKED_UTF8 or member.orig_filename.isascii() or _unicode_path(member):
        return None
    return member.orig_filename.encode("cp437")  # the encoding that Python decoded them with


def _unicode_path(member: zipfile.ZipInfo) -> str | None:
    """Read the name from Info-ZIP's extra field, which older Pythons ignore."""
    extra = member.extra
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        if kind == _UNICODE_PATH and length > 5:
            try:
                return extra[9 : 4 + length].decode("utf-8")
            except UnicodeError:
                return None
        extra = extra[4 + length :]
    return None


def _guess(raws: Iterable[bytes]) -> str:
    # In none of the encodings is '/' part of a multi-byte character; '\\' is in several.
    parts = list({part: None for raw in raws for part in raw.split(b"/") if not part.isascii()})
    if all(_text(part, "utf-8") is not None for part in parts):
        return "utf-8"
    return min(ENCODINGS, key=lambda encoding: _unlikeliness(parts[:_MAX_SNIFFED], encoding))


def _unlikeliness(parts: list[bytes], encoding: str) -> float:
    total = 0.0
    for part in parts:
        text = _text(part, encoding)
        if text is None:
            return float("inf")
        total += sum(_of_character(char, encoding) for char in text) + _of_neighbours(text)
    return total


def _text(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeError:
        return None


@lru_cache(20_000)
def _of_character(char: str, encoding: str) -> float:
    """Rate how unlikely a single character is in a name in that encoding."""
    if char.isascii():
        return 0.0 if char.isprintable() else _WRONG
    kind, code = unicodedata.category(char), ord(char)
    if kind in ("Cc", "Cn", "Co", "Cs", "Zl", "Zp"):
        return _WRONG
    if 0xFF61 <= code <= 0xFF9F:  # katakana of half width
        return 2 * _UNUSUAL
    if 0x3000 <= code <= 0x303F or 0xFF00 <= code <= 0xFFEF:
        return _USUAL
    if not kind.startswith("L"):
        return _ODD if kind[0] == "S" else 1.5 * _UNUSUAL
    lower = char.lower()
    if 0x0400 <= code <= 0x052F:
        return 0.0 if lower in _FREQUENT_CYRILLIC else _USUAL if lower in _CYRILLIC else 2 * _UNUSUAL
    if 0x0370 <= code <= 0x03FF:
        return _LIKELY if lower in _FREQUENT_GREEK else _USUAL
    if code < 0x0250:
        return _USUAL if lower in _WESTERN else 1.5 * _USUAL if lower in _LESS_WESTERN | _EASTERN else _ODD
    return _of_east_asian(char, encoding)


def _of_east_asian(char: str, encoding: str) -> float:
    lead, trail = (*char.encode(encoding), 0)[:2]
    if encoding == "cp932":
        # Kana, then kanji of the first level.
        return 0.0 if lead in (0x82, 0x83) or 0x88 <= lead <= 0x97 else _UNUSUAL
    if encoding == "cp949":
        if char in _FREQUENT_HANGUL:
            return 0.0
        return 0.45 if 0xB0 <= lead <= 0xC8 and trail >= 0xA1 else 2 * _UNUSUAL
    if encoding == "gbk" and (trail < 0xA1 or not 0xB0 <= lead <= 0xF7):
        return 2 * _UNUSUAL
    # Frequent characters come first in both: up to 0xD7 in GB 2312, up to 0xC6 in Big5.
    return 0.35 if lead <= (0xD7 if encoding == "gbk" else 0xC6) else _UNUSUAL


def _of_neighbours(text: str) -> float:
    """Rate how unlikely neighbouring characters are: scripts or cases mixed in a word, signs within it."""
    total = 0.0
    scripts = [_script(char) for char in text]
    for i in range(1, len(text)):
        pair = text[i - 1 : i + 1]
        if pair.isascii():
            continue
        before, after = scripts[i - 1], scripts[i]
        if before and after and before != after:
            total += _UNUSUAL if "cjk" in (before, after) else _ODD
        elif ord(pair[1]) >= 0x3000 and before == "latin":
            total += _UNUSUAL
        elif before == after and before and pair[0].islower() and pair[1].isupper():
            total += _ODD / 2
        elif (before and not after) and i + 1 < len(text) and scripts[i + 1] and not text[i].isascii():
            total += _ODD / 2  # a sign within a word
    accented = sum(script == "latin" and not char.isascii() for char, script in zip(text, scripts, strict=True))
    plain = sum(script == "latin" for script in scripts) - accented
    return total + max(0, accented - plain) * _USUAL


def _script(char: str) -> str:
    code = ord(char)
    if not char.isalpha():
        return ""
    if code < 0x0250:
        return "latin"
    if code < 0x0400:
        return "greek"
    return "cyrillic" if code < 0x0530 else "cjk"
