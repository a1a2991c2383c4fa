"""Convert samples of more than 8 bits to 8 bits, by what each image declares and contains."""

from __future__ import annotations

import numpy as np

from signsclf.errors import BadImageError

_DEPTHS = (8, 10, 12, 16)


def to_8_bits(values: np.ndarray, declared: int | None = None) -> np.ndarray:
    """Convert samples of any depth to uint8, the same way for every image in training and in prediction.

    The depth is the smallest of 8, 10, 12 and 16 bits that holds the image's largest value, or the largest value that
    the file declares if that is larger: cameras and OpenCV store 8-, 10- and 12-bit values in 16-bit files, which would
    come out black otherwise. The low bits are then dropped (65535 of 16 bits becomes 255). This rule brightens a 16-bit
    image whose largest value really is under a sixteenth of the range. Integers from 2**24 on use the full range of
    their type. Floats of at most 1 are on the scale 0 to 1; larger whole numbers are treated as integers, other floats
    as 8 bits (largest from 16 to 255) or 16 bits (from 4096 to 65535). NaN becomes 0 where there are other values.

    Args:
        values: integers or floats, any shape; 8-bit integers are returned as they are.
        declared: the largest value that the file declares; None where it declares none.

    Raises:
        BadImageError: there are values below 0 or infinite ones, or only NaN, or the range fits none of these scales.
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
        raise BadImageError("only NaN values; save it as 8 or 16 bits")
    values = np.where(np.isnan(values), 0, values).astype(np.float32 if values.dtype.itemsize < 8 else np.float64)
    low, high = float(values.min()), float(values.max())
    if low < 0 or not np.isfinite(high):
        raise BadImageError(f"floats from {low:g} to {high:g}, where 0 to 1 is expected; save it as 8 or 16 bits")
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
    # A declared full range carries no information: writers declare it by default.
    peak = max(highest, declared) if declared and declared < min(size.max, 65535) else highest
    for bits in _DEPTHS:
        if peak < 2**bits:
            return bits
    if 2**24 <= peak < 2**32:
        return 32 if size.max >= 2**32 - 1 else 31
    raise BadImageError(f"integers up to {highest:,}, which fit no usual depth; save it as 8 or 16 bits")
