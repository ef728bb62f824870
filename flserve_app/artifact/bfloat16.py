"""bfloat16 as bits: widening to float32 is exact, narrowing rounds to nearest, ties to even.

numpy has no bfloat16; frameworks at either end of a message get float32 and lose nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NDArray = np.ndarray[Any, np.dtype[Any]]


def widen(bits: NDArray) -> NDArray:
    """Return the float32 array (same shape) whose values the bfloat16 `bits` (uint16) stand for."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def is_exact(values: NDArray) -> bool:
    """Whether every float32 value is a bfloat16 value, so that narrowing loses nothing."""
    return not np.any(values.view(np.uint32) & np.uint32(0xFFFF))


def narrow(values: NDArray) -> NDArray:
    """Return bfloat16 bits (uint16, same shape) of float32 `values`, rounded to nearest even.

    A NaN stays a NaN: its upper payload bits are kept and the quiet bit is set where they would vanish.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).reshape(values.shape).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    kept = (bits >> np.uint32(16)).astype(np.uint16)
    lost = (bits & np.uint32(0xFFFF) != 0) & (kept & np.uint16(0x7F) == 0)
    quiet = kept | np.where(lost, np.uint16(0x40), np.uint16(0))
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
