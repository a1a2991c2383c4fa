"""Brings pixels of more than 8 bits a sample to 8 bits, by what the one image itself says and holds."""

from __future__ import annotations

import numpy as np

from signsclf.errors import BadImageError

_DEPTHS = (8, 10, 12, 16)


def to_8_bits(values: np.ndarray, declared: int | None = None) -> np.ndarray:
    """Samples of any depth as uint8, the same way for every image in training and in prediction.

    The depth is the smallest of 8, 10, 12 and 16 bits that holds the image's largest value, or the largest that the
    file declares where that is more: cameras and OpenCV leave 8-, 10- and 12-bit values in 16-bit files, which would
    be black otherwise. The lowest bits are then dropped (65535 of 16 bits becomes 255). A 16-bit image whose largest
    value is really under a sixteenth of the range is brightened by this rule. Integers from 2**24 on fill their type.
    Floats are on the scale 0 to 1 where none is over 1; whole ones are taken for integers, the others for 8 bits
    (largest from 16 to 255) or 16 (from 4096 to 65535). NaN beside numbers becomes 0.

    Args:
        values: an array of integers or floats, any shape; integers of 8 bits come back as they are.
        declared: the largest value that the file says it may hold; None where it does not say.

    Raises:
        BadImageError: there are values below 0 or infinite ones, or none but NaN, or their range fits none of these
            scales.
    """
    if values.size == 0 or values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if values.dtype.kind == "f":
        return _floats(values)
    if values.min() < 0:
        raise BadImageError(f"integers below 0 ({values.min():,}); save it as unsigned 8 or 16 bits")
    return (values >> (_bits(int(values.max()), declared, values.dtype) - 8)).astype(np.uint8)


def _floats(values: np.ndarray) -> np.ndarray:
    if np.isnan(values).all():
        raise BadImageError("nothing but NaN; save it as 8 or 16 bits")
    values = np.where(np.isnan(values), 0, values).astype(np.float32 if values.dtype.itemsize < 8 else np.float64)
    low, high = float(values.min()), float(values.max())
    if low < 0 or not np.isfinite(high):
        raise BadImageError(f"floats from {low:g} to {high:g}, where 0 to 1 is right; save it as 8 or 16 bits")
    if high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    whole = bool((values == np.floor(values)).all())
    if high <= 255 and (whole or high >= 16):
        return np.rint(values).astype(np.uint8)
    if high <= 65535 and (whole or high >= 4096):
        shift = _bits(int(high), None, np.dtype(np.uint16)) - 8
        return (values.astype(np.uint16) >> shift).astype(np.uint8)
    raise BadImageError(f"floats up to {high:g}, which fit no usual scale; save it as 8 or 16 bits")


def _bits(highest: int, declared: int | None, dtype: np.dtype) -> int:
    size = np.iinfo(dtype)
    # The whole range is what a file says that says nothing.
    peak = max(highest, declared) if declared and declared < min(size.max, 65535) else highest
    for bits in _DEPTHS:
        if peak < 2**bits:
            return bits
    if 2**24 <= peak < 2**32:
        return 32 if size.max >= 2**32 - 1 else 31
    raise BadImageError(f"integers up to {highest:,}, which fit no usual depth; save it as 8 or 16 bits")
