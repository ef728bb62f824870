"""Tensors as words, and the residual of two of them.

A codec never computes with floats. A tensor is seen as its words: the unsigned integers of its scalars in
C order (two a complex number). A residual is a word that is small where two words are close:

    to a base        zigzag(target - base), as integers of two's complement modulo 2**bits
    to nothing       of a float: rotate_left(target, 1), the sign below the magnitude; else zigzag(target)

with zigzag(d) = (d << 1) ^ (d >> bits - 1), d signed. Words of one sign grow or shrink with the magnitude of their
floats, across exponents; where the sign changes the residual is large, in any order of the floats. Any bit
pattern (NaN payloads, -0.0) comes back.
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


def residual(target: Words, base: Words | None, dtype: DType) -> Words:
    """Return the residuals of words (n,) to a base's (n,), or to nothing, as unsigned words (n,)."""
    top = target.dtype.itemsize * 8 - 1
    if base is None and dtype.kind == "float":
        words: Words = target << 1
        words |= target >> top
        return words
    difference = (target if base is None else target - base).view(f"<i{target.dtype.itemsize}")
    words = (difference << 1).view(target.dtype)
    words ^= (difference >> top).view(target.dtype)
    return words


def restore(words: Words, base: Words | None, dtype: DType, out: Words) -> None:
    """Fill `out` with the words that `residual` was taken of; overwrites `words`."""
    sign = words & 1
    if base is None and dtype.kind == "float":
        sign <<= words.dtype.itemsize * 8 - 1
        np.right_shift(words, 1, out=out)
        out |= sign
        return
    np.negative(sign, out=sign)
    words >>= 1
    words ^= sign
    if base is None:
        out[:] = words
    else:
        np.add(words, base, out=out)
