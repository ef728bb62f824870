"""Tensors as words, and the difference of two of them.

A codec never computes with floats. A tensor is seen as its words: the unsigned integers of its scalars in
C order (two a complex number). `ordered` maps a float's word to a signed integer that grows as the float
does, so that neighbouring floats are neighbouring integers across exponents and across zero; integers are
their own order. A residual is the zigzag of the difference of two ordered words modulo 2**bits: small for
words that are close, and any bit pattern (NaN payloads, -0.0) comes back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flserve_app.artifact import DType

Words = np.ndarray[Any, np.dtype[Any]]


def words_of(array: npt.NDArray[Any], dtype: DType) -> Words:
    """Return the flat word view of a C-contiguous tensor, without a copy."""
    return array.reshape(-1).view(dtype.word)


def _bits(words: Words) -> int:
    return words.dtype.itemsize * 8


def ordered(words: Words, dtype: DType, out: Words | None = None) -> Words:
    """Return signed integers in the order of the values; for floats its own inverse.

    Args:
        words: Words (n,), signed or unsigned.
        dtype: What the words are.
        out: Signed integers (n,) to write to, if not to a new array.
    """
    signed = words.view(f"<i{words.dtype.itemsize}")
    if dtype.kind != "float":
        result: Words = np.positive(signed, out=out)
        return result
    # All ones for a negative float: its other bits are turned over, so that larger magnitudes come lower.
    flip = signed >> (_bits(words) - 1)
    flip &= (1 << (_bits(words) - 1)) - 1
    np.bitwise_xor(flip, signed, out=flip if out is None else out)
    return flip if out is None else out


def residual(target: Words, base: Words | None, dtype: DType) -> Words:
    """Return zigzag(ordered(target) - ordered(base)) as unsigned words (n,); no base stands for zeros."""
    difference = ordered(target, dtype)
    if base is not None:
        difference -= ordered(base, dtype)
    # In place from here on: a pass over a chunk costs about as much as the memory for its result.
    sign = difference >> (_bits(target) - 1)
    difference <<= 1
    difference ^= sign
    return difference.view(target.dtype)


def restore(zigzag: Words, base: Words | None, dtype: DType, out: Words) -> None:
    """Fill `out` with the words that `residual` was taken of; overwrites `zigzag`."""
    sign = zigzag & 1
    np.negative(sign, out=sign)
    zigzag >>= 1
    zigzag ^= sign
    difference = zigzag.view(f"<i{zigzag.dtype.itemsize}")
    if base is not None:
        difference += ordered(base, dtype)
    ordered(difference, dtype, out.view(difference.dtype))
