"""How much each row and column of a tensor moves: the encoder's side of `grouping`.

The scale of a row is the rounded log2 of the root mean square of its differences; of a column likewise, after
the rows' scales are divided out. Large tensors are sampled: a scale needs no more than some dozens of values.
This is the one place where codecs look at floats, and nothing but the size of a payload depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flserve_app.artifact import DType
from flserve_app.codec.grouping import CHUNK_WORDS, MIN_ROW, Grouping
from flserve_app.codec.words import Words

_SAMPLES = 128
_LOWEST = -60
_FLOATS = {2: "<f2", 4: "<f4", 8: "<f8"}
_MIN_WORDS_PER_SCALE = 8


def scaled_grouping(target: Words, base: Words | None, dtype: DType, row: int) -> Grouping | None:
    """Return a grouping with scales of rows of this many words; None where scales would not pay.

    Args:
        target: Words (n,) of the tensor.
        base: Words (n,) of the base's tensor, if there is one.
        dtype: What the words are.
        row: Words a row, a divisor of n.
    """
    if dtype.kind != "float" or not MIN_ROW <= row <= CHUNK_WORDS:
        return None
    rows = target.size // row
    if rows < 2 or target.size < _MIN_WORDS_PER_SCALE * (rows + row):
        return None
    across, down = _stride(row), _stride(rows)
    of_rows = _log_rms(_moves(target, base, dtype, row, (slice(None), slice(None, None, across))), axis=1)
    some = _moves(target, base, dtype, row, (slice(None, None, down), slice(None)))
    of_columns = _log_rms(np.ldexp(some, -of_rows[::down, None].astype(int)), axis=0)
    return Grouping(row=row, scales=_as_bytes(of_rows) + _as_bytes(of_columns))


def _stride(length: int) -> int:
    # Odd, so as not to fall in step with a kernel's or a head's width.
    return max(1, length // _SAMPLES) | 1


def _moves(target: Words, base: Words | None, dtype: DType, row: int, part: Any) -> npt.NDArray[np.float64]:
    """Return the differences of some rows and columns as finite float64 (rows, columns)."""
    with np.errstate(all="ignore"):
        moves = _values(target.reshape(-1, row)[part], dtype)
        if base is not None:
            moves -= _values(base.reshape(-1, row)[part], dtype)
        return np.nan_to_num(moves, nan=0.0, posinf=0.0, neginf=0.0)


def _values(words: Words, dtype: DType) -> npt.NDArray[np.float64]:
    words = np.ascontiguousarray(words)
    if dtype.name == "bfloat16":
        return (words.astype("<u4") << 16).view("<f4").astype(np.float64)
    return words.view(_FLOATS[words.itemsize]).astype(np.float64)


def _log_rms(moves: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    """Return round(log2(rms)) along an axis, relative to the largest and bounded below."""
    with np.errstate(all="ignore"):
        logs = np.rint(0.5 * np.log2(np.mean(np.square(moves), axis=axis)))
    logs = np.nan_to_num(logs, nan=-np.inf, posinf=0.0, neginf=-np.inf)
    top = logs.max()
    return np.maximum(logs - top, _LOWEST) if np.isfinite(top) else np.zeros_like(logs)


def _as_bytes(scales: npt.NDArray[np.float64]) -> bytes:
    return scales.astype(np.int64).astype(np.uint8).tobytes()
