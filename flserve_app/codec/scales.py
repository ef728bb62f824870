"""How much each row and column of a tensor moves: the encoder's side of `grouping`.

The scale of a row, or of a column, is the rounded log2 of a mean of its differences. Large tensors are
sampled: a scale needs no more than some dozens of values. This is the one place where codecs compute with
floats, and nothing but the size of a payload depends on it.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from flserve_app.artifact import DType
from flserve_app.codec.grouping import MAX_ROW, MIN_ROW, Grouping
from flserve_app.codec.words import Words

_LOWEST = -60
_FLOATS = {2: "<f2", 4: "<f4", 8: "<f8"}
_MIN_WORDS_PER_SCALE = 8


def scaled_grouping(
    target: Words, base: Words | None, dtype: DType, row: int, samples: int, *, least_spread: float = 0.0
) -> Grouping | None:
    """Return a grouping with scales of rows of this many words; None where scales would not pay.

    Args:
        target: Words (n,) of the tensor.
        base: Words (n,) of the base's tensor, if there is one.
        dtype: What the words are.
        row: Words a row, a divisor of n.
        samples: Of how many values a scale is the mean, about; fewer are faster.
        least_spread: Standard deviation of the log2 of scales, beyond what sampling alone makes, below which neither
            those of rows nor those of columns pay.
    """
    if dtype.kind != "float" or not MIN_ROW <= row <= MAX_ROW:
        return None
    rows = target.size // row
    if rows < 2 or target.size < _MIN_WORDS_PER_SCALE * (rows + row):
        return None
    across, down = _stride(row, samples), _stride(rows, samples)
    with np.errstate(all="ignore"):
        of_rows = _logs(_moves(target, base, dtype, row, (slice(None), slice(None, None, across))), axis=1)
        of_columns = _logs(_moves(target, base, dtype, row, (slice(None, None, down), slice(None))), axis=0)
    if max(of_rows[1], of_columns[1]) < least_spread:
        return None
    return Grouping(row=row, scales=_scales(of_rows[0]) + _scales(of_columns[0]))


def _stride(length: int, samples: int) -> int:
    # Coprime, so as not to fall in step with a kernel or a head.
    stride = max(1, length // samples)
    while gcd(stride, length) > 1:
        stride += 1
    return stride


def _moves(target: Words, base: Words | None, dtype: DType, row: int, part: Any) -> npt.NDArray[np.float32]:
    """Return the differences of some rows and columns (rows, columns)."""
    moves = _values(target.reshape(-1, row)[part], dtype)
    if base is not None:
        moves -= _values(base.reshape(-1, row)[part], dtype)
    return moves


def _values(words: Words, dtype: DType) -> npt.NDArray[np.float32]:
    words = np.ascontiguousarray(words)
    if dtype.name == "bfloat16":
        return (words.astype("<u4") << 16).view("<f4").astype(np.float32)
    return words.view(_FLOATS[words.itemsize]).astype(np.float32)


def _logs(moves: npt.NDArray[np.float32], axis: int) -> tuple[npt.NDArray[np.float32], float]:
    """Return log2 of the scales along an axis, and their spread; it is infinite if some did not move.

    The mean is of the square roots: updates have heavy tails, and a few large values must not speak for a row.
    """
    roots = np.sqrt(np.abs(moves))
    means = np.mean(roots, axis=axis)
    logs: npt.NDArray[np.float32] = 2 * np.log2(means)
    if not np.isfinite(logs).all():
        return logs, np.inf
    # What a mean of so few values is off by, to first order, and a quarter for the rest.
    sampled = 1.25 * (2 / np.log(2)) ** 2 * np.mean(np.var(roots, axis=axis) / means**2) / roots.shape[axis]
    return logs, float(np.sqrt(max(0.0, np.var(logs) - sampled)))


def _scales(logs: npt.NDArray[np.float32]) -> bytes:
    """Return scales as bytes: their log2, rounded, relative to the largest and bounded below."""
    logs = np.rint(logs)
    logs[~np.isfinite(logs)] = -np.inf
    top = logs.max()
    # Where nothing moved at all there is no largest to be relative to.
    relative = np.maximum(logs - top, _LOWEST) if np.isfinite(top) else np.zeros_like(logs)
    scales: bytes = relative.astype(np.int64).astype(np.uint8).tobytes()
    return scales
