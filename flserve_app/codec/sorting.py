"""In which order the residuals of a chunk are coded, so that like ones stand together.

By place (`Places`): rows by their scale, columns by theirs (as signed bytes, stably). From `BLOCKS_FROM` (32,768)
words on the sorted chunk is cut in half both ways, after n // 2 rows and n // 2 columns; each block is a run, in C
order, the upper left one first, the upper right one next. Nothing is sorted without scales. It costs a gather.

By label (`Labels`): how many units in the last place a weight moves depends on its exponent too (the unit grows
with it). So each word gets a label,

    label = low 8 bits of the exponent of the base's word - scale of its row - scale of its column   (modulo 256)

and words are sorted by it, stably. Exponents cost nothing, as the decoder holds the base, but a counting sort
costs more than all else. Runs are whole groups of a label, cut as soon as they have `LABEL_RUN` (8,192) words.
Words with the same label throughout stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import numpy.typing as npt

from flserve_app.artifact import DType
from flserve_app.codec.grouping import MIN_ROW, Bytes, Grouping
from flserve_app.codec.words import Words

LABEL_RUN = 1 << 13
BLOCKS_FROM = 1 << 15
_LABELS = np.arange(1, 256, dtype=np.uint8)

Indices = npt.NDArray[np.intp]


class Order(Protocol):
    """How the words of one chunk are sorted."""

    @property
    def runs(self) -> Sequence[slice]:
        """Slices of the sorted words that are alike; together they are all."""

    def sort(self, words: Words) -> Words:
        """Return the words (n,), sorted."""

    def unsort(self, words: Words) -> Words:
        """Return sorted words (n,) as they stand in the chunk."""


class Sorter(Protocol):
    """How the chunks of one tensor are sorted; made once a tensor, used on many threads."""

    def order(self, span: slice, base: Words | None) -> Order | None:
        """Return the order of a span of words; None if they stay as they are.

        Args:
            span: Words of the tensor, as start and stop.
            base: The base's words in this span, if there are any.
        """


@final
class Places:
    """Sorts by the scales of rows and columns.

    Args:
        grouping: Has the scales.
        dtype: What the words are; makes no difference.
    """

    def __init__(self, grouping: Grouping, dtype: DType) -> None:
        self._grouping = grouping
        self._columns = np.argsort(grouping.of_columns.view(np.int8), kind="stable")
        self._back = np.empty_like(self._columns)
        self._back[self._columns] = np.arange(self._columns.size)

    def order(self, span: slice, base: Words | None) -> Order | None:
        """Return the order of a span of whole rows."""
        row = self._grouping.row
        if row < MIN_ROW:
            return None
        of_rows = self._grouping.of_rows[span.start // row : span.stop // row]
        return BlockOrder(np.argsort(of_rows.view(np.int8), kind="stable"), self._columns, self._back)


@final
@dataclass(frozen=True, slots=True, eq=False)
class BlockOrder:
    """Blocks of sorted rows and columns.

    Attributes:
        rows: Where each sorted row stands in the chunk (r,).
        columns: Where each sorted column stands in a row (c,).
        back: Where each column stands among the sorted ones (c,).
    """

    rows: Indices
    columns: Indices
    back: Indices

    @property
    def runs(self) -> Sequence[slice]:
        """One slice a block."""
        return [slice(start, start + height * width) for start, height, width, _ in self._blocks()]

    def sort(self, words: Words) -> Words:
        """Return the words (n,), block after block."""
        by_row = words.reshape(self.rows.size, -1)[self.rows]
        out = np.empty_like(words)
        for start, height, width, (top, left) in self._blocks():
            block = out[start : start + height * width].reshape(height, width)
            # "clip" writes to `out` without a buffer; no index is out of bounds.
            columns = self.columns[left : left + width]
            np.take(by_row[top : top + height], columns, axis=1, out=block, mode="clip")
        return out

    def unsort(self, words: Words) -> Words:
        """Return the words of all blocks (n,) as they stand in the chunk."""
        joined = np.empty((self.rows.size, self.columns.size), words.dtype)
        for start, height, width, (top, left) in self._blocks():
            block = words[start : start + height * width].reshape(height, width)
            joined[self.rows[top : top + height], left : left + width] = block
        return np.take(joined, self.back, axis=1).reshape(-1)

    def _blocks(self) -> Iterator[tuple[int, int, int, tuple[int, int]]]:
        """Yield start among the sorted words, height, width, and the place (top, left) of each block."""
        start = 0
        cut = self.rows.size * self.columns.size >= BLOCKS_FROM
        for top, bottom in _halves(self.rows.size, cut=cut):
            for left, right in _halves(self.columns.size, cut=cut):
                yield start, bottom - top, right - left, (top, left)
                start += (bottom - top) * (right - left)


def _halves(size: int, *, cut: bool) -> list[tuple[int, int]]:
    return [(0, size // 2), (size // 2, size)] if cut and size > 1 else [(0, size)]


@final
class Labels:
    """Sorts by the base's exponents and the scales.

    Args:
        grouping: Has the scales, if there are any.
        dtype: What the words are.
    """

    def __init__(self, grouping: Grouping, dtype: DType) -> None:
        self._grouping = grouping
        self._dtype = dtype

    def order(self, span: slice, base: Words | None) -> Order | None:
        """Return the order of a span of words."""
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

    @property
    def runs(self) -> Sequence[slice]:
        """Slices of whole groups, each of at least `LABEL_RUN` words; the last may be short."""
        edges: list[int] = np.searchsorted(self.labels, _LABELS, sorter=self.permutation).tolist()
        runs, start, stop = [], 0, self.labels.size
        for edge in [*edges, stop]:
            if edge - start >= LABEL_RUN or start < edge == stop:
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
