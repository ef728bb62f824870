"""In which order the residuals of a chunk are coded, so that like ones stand together: by label.

How many units in the last place a weight moves depends on its row and column (`grouping`), and on its exponent, as
the unit grows with it. So each word gets a label,

    label = low 8 bits of the exponent of the base's word - scale of its row - scale of its column   (modulo 256)

and words are sorted by it, stably. Exponents cost nothing, as the decoder holds the base, but a counting sort
costs more than all else. Runs are whole groups of a label, cut as soon as they have so many words as the op says.
Words with the same label throughout, or without a grouping, stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from flserve_app.artifact import DType
from flserve_app.codec.grouping import MIN_ROW, Bytes, Grouping
from flserve_app.codec.words import Words

_LABELS = np.arange(1, 256, dtype=np.uint8)

Indices = npt.NDArray[np.intp]


@final
class Labels:
    """Sorts the chunks of one tensor by the base's exponents and the scales; threads may share it.

    Args:
        grouping: Has the scales, if there are any.
        dtype: What the words are.
    """

    def __init__(self, grouping: Grouping, dtype: DType) -> None:
        self._grouping = grouping
        self._dtype = dtype

    def order(self, span: slice, base: Words | None) -> LabelOrder | None:
        """Return the order of a span of words; None if they stay as they are.

        Args:
            span: Words of the tensor, as start and stop.
            base: The base's words in this span, if there are any.
        """
        row, start, stop = self._grouping.row, span.start, span.stop
        if row == 0:
            return None
        labels = _exponents(base, self._dtype) if base is not None else np.zeros(stop - start, np.uint8)
        if row >= MIN_ROW:
            first, last = start // row, -(-stop // row)
            scales = self._grouping.of_rows[first:last, None] + self._grouping.of_columns
            labels -= scales.reshape(-1)[start - first * row :][: stop - start]
        # The ends first: they nearly always differ, and spare the pass over all.
        if labels[0] == labels[-1] and (labels == labels[0]).all():
            return None
        return LabelOrder(labels, np.argsort(labels, kind="stable"))


@final
@dataclass(frozen=True, slots=True, eq=False)
class LabelOrder:
    """Groups of one label after another.

    Attributes:
        labels: Label of each word as it stands in the chunk (n,).
        permutation: Where each sorted word stands in the chunk (n,).
    """

    labels: Bytes
    permutation: Indices

    def runs(self, least: int) -> Sequence[slice]:
        """Return slices of whole groups, each of at least `least` words; the last may be short."""
        edges: list[int] = np.searchsorted(self.labels, _LABELS, sorter=self.permutation).tolist()
        runs, start, stop = [], 0, self.labels.size
        for edge in [*edges, stop]:
            if edge - start >= least or start < edge == stop:
                runs.append(slice(start, edge))
                start = edge
        return runs

    def sort(self, words: Words) -> Words:
        """Return the words (n,), sorted."""
        return words[self.permutation]

    def unsort(self, words: Words) -> Words:
        """Return sorted words (n,) as they stand in the chunk."""
        out = np.empty_like(words)
        out[self.permutation] = words
        return out


def _exponents(base: Words, dtype: DType) -> Bytes:
    """Return the low 8 bits of each word's exponent field; zeros for integers."""
    if dtype.kind != "float":
        return np.zeros(base.size, np.uint8)
    # The sign stands right above the exponent and is no part of it; float64 keeps the exponent's low bits.
    mask = min(0xFF, (1 << (base.dtype.itemsize * 8 - 1 - dtype.exponent_shift)) - 1)
    exponents = np.empty(base.size, np.uint8)
    np.right_shift(base, dtype.exponent_shift, out=exponents, casting="unsafe")
    if mask < 0xFF:
        exponents &= mask
    return exponents
