"""Which residuals are alike: the context that both sides know.

How many units in the last place a weight moves depends on its exponent (the unit grows with it) and on where
it stands: whole rows (a neuron) and columns (an input) move much or little. So each word gets a label,

    label = exponent of the base's word - scale of its row - scale of its column   (modulo 256)

that predicts the magnitude of its residual; words of a chunk are sorted by label, stably, and coded in that
order. The exponents cost nothing, as the decoder holds the base; the scales cost a byte a row and a column.

Side bytes in a payload: nothing, for no sorting; else a varint `row`. `row` = 1: labels are exponents alone.
Otherwise the words are rows of that length (the last may be shorter), of `MIN_ROW` (16) to `CHUNK_WORDS`
(262,144) words, and the scales follow, one byte a row then one a column: as they are, or as a frame (`frames`) if
that is shorter. A chunk is `CHUNK_WORDS` words, or as many whole rows as fit in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flserve_app.artifact import DType
from flserve_app.codec.frames import squeeze, unsqueeze
from flserve_app.codec.wire import Reader, varint
from flserve_app.codec.words import Words
from flserve_app.errors import CodecError

CHUNK_WORDS = 1 << 18
MIN_ROW = 16
Bytes = npt.NDArray[np.uint8]
_LABELS = np.arange(1, 256, dtype=np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """How the words of a chunk are sorted.

    Attributes:
        labels: Label of each word as it stands in the chunk (n,).
        permutation: Where each sorted word stands in the chunk (n,).
    """

    labels: Bytes
    permutation: npt.NDArray[np.intp]

    def runs(self, least: int) -> Iterator[slice]:
        """Yield slices of the sorted words, each of whole groups and at least so many words; the last may be short."""
        edges: list[int] = np.searchsorted(self.labels, _LABELS, sorter=self.permutation).tolist()
        start, stop = 0, self.labels.size
        for edge in [*edges, stop]:
            if edge - start >= least or start < edge == stop:
                yield slice(start, edge)
                start = edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """How the words of one tensor are sorted before they are coded.

    Attributes:
        row: Words a row; 0 for no sorting, 1 for labels without scales.
        scales: Scales of the rows, then of the columns, a byte each; empty if `row` < `MIN_ROW`.
    """

    row: int = 0
    scales: bytes = b""

    def side(self) -> bytes:
        """Return the side bytes."""
        if self.row == 0:
            return b""
        return varint(self.row) + (squeeze(self.scales) if self.scales else b"")

    def order(self, span: slice, base: Words | None, dtype: DType) -> Order | None:
        """Return how the words of a span are sorted; None if they stay as they are.

        Args:
            span: Words of the tensor, as start and stop.
            base: The base's words in this span, if there are any.
            dtype: What the words are.
        """
        start, stop = span.start, span.stop
        if self.row == 0:
            return None
        labels = _exponents(base, dtype) if base is not None else np.zeros(stop - start, np.uint8)
        if self.row >= MIN_ROW:
            first, last = start // self.row, -(-stop // self.row)
            scales = np.frombuffer(self.scales, np.uint8)
            scales = scales[first:last, None] + scales[None, -self.row :]
            labels -= scales.reshape(-1)[start - first * self.row :][: stop - start]
        # The ends first: they nearly always differ, and spare the pass over all.
        if labels[0] == labels[-1] and (labels == labels[0]).all():
            return None
        return Order(labels, np.argsort(labels, kind="stable"))


def read_row(side: memoryview) -> int:
    """Return the row length that the side bytes begin with; 0 if there are none.

    Raises:
        CodecError: If it is out of bounds.
    """
    if not side:
        return 0
    row = Reader(side, "grouping").varint()
    if row != 1 and not MIN_ROW <= row <= CHUNK_WORDS:
        raise CodecError(f"grouping: row length is {row}, expected 1 or {MIN_ROW} to {CHUNK_WORDS}")
    return row


def chunk_words(row: int) -> int:
    """Return how many words a chunk has."""
    return CHUNK_WORDS if row < MIN_ROW else CHUNK_WORDS // row * row


def read_grouping(side: memoryview, words: int) -> Grouping:
    """Return the grouping of a tensor of so many words from its side bytes.

    Raises:
        CodecError: If they are not as the format says.
    """
    row = read_row(side)
    scales = side[len(varint(row)) :]
    if row < MIN_ROW:
        if scales:
            raise CodecError(f"grouping: {len(scales)} bytes too many")
        return Grouping(row=row)
    rows = -(-words // row)
    return Grouping(row=row, scales=bytes(unsqueeze(scales, rows + row)))


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
