"""Which residuals are alike: what both sides know of how a tensor moves.

Whole rows (a neuron) and columns (an input) of a tensor move much or little. So a tensor may come with scales, a
byte a row and a byte a column: the log2 of how much it moves, signed, to any common reference. What coders
do with them is in `sorting`.

Side bytes in a payload: nothing, for no sorting; else a varint `row`. `row` = 1: there are no scales. Otherwise the
words are whole rows of that length, of `MIN_ROW` (16) to `MAX_ROW` (131,072) words, and the scales follow, one byte
a row then one a column: as they are, or as a frame (`frames`) if that is shorter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flserve_app.codec.frames import squeeze, unsqueeze
from flserve_app.codec.wire import Reader, varint
from flserve_app.errors import CodecError

MIN_ROW = 16
MAX_ROW = 1 << 17
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """What one tensor's residuals are sorted by before they are coded.

    Attributes:
        row: Words a row; 0 for no sorting, 1 for sorting without scales.
        scales: Scales of the rows, then of the columns, a byte each; empty if `row` < `MIN_ROW`.
    """

    row: int = 0
    scales: bytes = b""

    def side(self) -> bytes:
        """Return the side bytes."""
        if self.row == 0:
            return b""
        return varint(self.row) + (squeeze(self.scales) if self.scales else b"")

    @property
    def of_rows(self) -> Bytes:
        """Scales of the rows; none without scales."""
        return np.frombuffer(self.scales, np.uint8)[: -self.row]

    @property
    def of_columns(self) -> Bytes:
        """Scales of the columns; none without scales."""
        return np.frombuffer(self.scales, np.uint8)[-self.row :]


def read_row(side: memoryview) -> int:
    """Return the row length that the side bytes begin with; 0 if there are none.

    Raises:
        CodecError: If it is out of bounds.
    """
    if not side:
        return 0
    row = Reader(side, "grouping").varint()
    if row != 1 and not MIN_ROW <= row <= MAX_ROW:
        raise CodecError(f"grouping: row length is {row}, expected 1 or {MIN_ROW} to {MAX_ROW}")
    return row


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
    if words % row:
        raise CodecError(f"grouping: {words} words are no whole rows of {row}")
    return Grouping(row=row, scales=bytes(unsqueeze(scales, words // row + row)))
