"""Words as floats and back, and the one sum by which values move along a grid.

A value that moves by q steps (`step` says which there are) becomes

    fl(value + q * step)

computed in float32 (float64 for float64) and rounded to the dtype, ties to even. With |q| < `most_steps`, as encoders
have it, the product is exact and no subnormal can sway the sum: it is one correctly rounded operation, the same on
every platform, whatever its mode for subnormals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flserve_app.artifact import DType
from flserve_app.artifact.bfloat16 import narrow, widen
from flserve_app.codec.step import most_steps
from flserve_app.codec.words import Words

_FLOATS = {2: "<f2", 4: "<f4", 8: "<f8"}

Floats = npt.NDArray[np.floating[Any]]
Steps = npt.NDArray[np.int64]


def floats_of(words: Words, dtype: DType) -> Floats:
    """Return the values of words (n,), float32 or float64; a view where they are that already."""
    if dtype.exponent_shift == 7:
        return widen(words)
    values: Floats = words.view(_FLOATS[words.itemsize])
    return values.astype(np.float32) if words.itemsize == 2 else values


def words_of_floats(values: Floats, dtype: DType) -> Words:
    """Return the words (n,) of float32 or float64 values, rounded to the dtype."""
    if dtype.exponent_shift == 7:
        return narrow(values)
    with np.errstate(over="ignore"):
        return values.astype(_FLOATS[dtype.word.itemsize], copy=False).view(dtype.word)


def moved(words: Words, steps: Steps, step: float, dtype: DType) -> Words:
    """Return the words (n,) of values moved by so many steps (n,), none of them 0."""
    values = floats_of(words, dtype)
    with np.errstate(all="ignore"):
        return words_of_floats(values + steps.astype(values.dtype) * values.dtype.type(step), dtype)


def nearest_steps(base: Words, target: Words, step: float, dtype: DType) -> Steps | None:
    """Return by how many steps (n,) values move to come nearest to others; None if some are out of reach.

    Args:
        base: Words (n,) of the values.
        target: Words (n,) of what they become.
        step: The step.
        dtype: What the words are.
    """
    with np.errstate(all="ignore"):
        ways = floats_of(target, dtype).astype(np.float64) - floats_of(base, dtype)
        counts = np.rint(ways / step)
    return counts.astype(np.int64) if (np.abs(counts) < most_steps(step)).all() else None
