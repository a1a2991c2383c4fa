"""The size in pixels from the first bytes of the usual formats, without opening the file."""

from __future__ import annotations

import re

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MAX_SEGMENTS = 64
_PIXMAP = re.compile(rb"P[1-6]\s(?:\s|#[^\n]{0,99}\n){0,9}([0-9]{1,9})\s{1,9}([0-9]{1,9})\s")


def quick_size(data: bytes) -> tuple[int, int] | None:
    """Read the width and height that a PNG, JPEG, WebP, GIF, BMP or PPM declares; None for others and damaged ones.

    It takes microseconds whatever the bytes. Whether the file is an image is for `signsclf.images` to find out.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        return _positive(_number(data, 16, 4), _number(data, 20, 4))
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _positive(int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little"))
    if data.startswith(b"BM") and data[14:18] != b"\x0c\0\0\0":
        width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
        return _positive(width, abs(height))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _positive(*webp_size(data))
    if found := _PIXMAP.match(data):
        return _positive(int(found[1]), int(found[2]))
    return _jpeg_size(data) if data.startswith(b"\xff\xd8\xff") else None


def webp_size(head: bytes) -> tuple[int, int]:
    """Read the width and height from a WebP file's header; (0, 0) where it is too short."""
    chunk = head[12:16]
    if chunk == b"VP8X" and len(head) >= 30:
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if chunk == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(head) >= 30:
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return 0, 0


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if data[at : at + 1] != b"\xff":
            return None
        marker = _number(data, at + 1, 1)
        if marker in _START_OF_FRAME:
            return _positive(_number(data, at + 7, 2), _number(data, at + 5, 2))
        at += 2 + _number(data, at + 2, 2)
    return None


def _number(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")


def _positive(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if width > 0 and height > 0 else None
