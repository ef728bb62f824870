"""What steps alone do not give: words that moved along a grid in several versions, with rounding in between.

A value that moves by q and then by r steps becomes fl(fl(value + q step) + r step), which is not always
fl(value + (q + r) step): what a larger value has no room for is lost for good. What is missing is a few units in the
last place, of few values. As numbers (`rice`):

- of the words that moved by steps: the subset that steps do not lead to the target, and the list of their residuals
  (`words.residual`, to the word the steps lead to), `sized`;
- of all words of the chunk: the subset of those that moved by no step and yet are not the base's, and the list of
  their residuals likewise.
"""

from __future__ import annotations

import numpy as np

from flserve_app.artifact import DType
from flserve_app.codec.rice import MOST_SIZED, Numbers, RiceReader, RiceWriter
from flserve_app.codec.words import Words, residual, restore

_SPARE_NUMBERS = 16


def pack_patches(target: Words, reached: Words, moved: Numbers, still: Numbers, dtype: DType) -> bytes | None:
    """Return what takes words (n,) that steps led to, on to the target (n,); None if a word is too far off.

    Args:
        target: The words to end at.
        reached: The base's words, moved by steps in some places.
        moved: These places, ascending (m,).
        still: Places of other words that are not the base's, ascending (k,).
        dtype: What the words are.
    """
    writer = RiceWriter()
    wrong = np.flatnonzero(target[moved] != reached[moved])
    for which, places, count in ((wrong, moved[wrong], moved.size), (still, still, target.size)):
        missing = residual(target[places], reached[places], dtype)
        if missing.size and int(missing.max()) > MOST_SIZED:
            return None
        writer.subset(which, count)
        writer.sized(missing.astype(np.int64))
    return writer.body()


def apply_patches(body: memoryview, moved: Numbers, dtype: DType, out: Words) -> None:
    """Take words (n,) that steps led to on to the target.

    Args:
        body: What `pack_patches` returned.
        moved: The places that moved by steps, ascending (m,).
        dtype: What the words are.
        out: The words; changed in place.

    Raises:
        CodecError: If the body is not as the format says.
    """
    reader = RiceReader(body, 2 * out.size + _SPARE_NUMBERS)
    _apply(reader, moved[reader.subset(moved.size)], dtype, out)
    _apply(reader, reader.subset(out.size), dtype, out)
    reader.end()


def _apply(reader: RiceReader, places: Numbers, dtype: DType, out: Words) -> None:
    missing = reader.sized(places.size).astype(out.dtype)
    patched = np.empty_like(missing)
    restore(missing, out[places], dtype, patched)
    out[places] = patched
