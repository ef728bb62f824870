"""Fields: numbers of so many bits each, one after another without gaps, written and read whole arrays at a time.

The most significant bit of a field, and of a byte, comes first; zeros fill up the last byte. A field has at most 32
bits: it lies within two words of 32 bits, and what lies in one word is put together by one sum. No array here is
larger than a few numbers a field, or a few times the bytes.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt

from flserve_app.errors import CodecError

_WORD = 32
_WORD_BYTES = _WORD // 8
_BLOCK = 1 << 14

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Values = npt.NDArray[np.uint32]
Widths = npt.NDArray[np.uint8]
Wide = npt.NDArray[np.uint64]


def packed(values: Values, widths: Widths) -> bytes:
    """Return the low bits of values (n,) as fields of so many bits each (n,)."""
    total, bit = int(widths.sum(dtype=np.int64)), 0
    words = np.zeros(total // _WORD + 2, np.uint32)
    # Block by block, in a near cache: there are many passes.
    for start in range(0, values.size, _BLOCK):
        some = widths[start : start + _BLOCK].astype(np.int64)
        ends = np.cumsum(some) + bit
        first = ends - some
        # Two shifts, as a field may be empty, and a shift by all 64 bits is slow where there is one.
        fields = _shifted_left(values[start : start + _BLOCK].astype(np.uint64), 63 - some) << np.uint64(1)
        fields = _shifted_right(fields, first & _WORD - 1)
        word = first >> 5
        starts = np.flatnonzero(np.concatenate([[True], word[1:] != word[:-1]]))
        words[word[starts]] |= np.add.reduceat(fields >> np.uint64(_WORD), starts).astype(np.uint32)
        words[word[starts] + 1] |= np.add.reduceat(fields & np.uint64((1 << _WORD) - 1), starts).astype(np.uint32)
        bit = int(ends[-1])
    return words.astype(">u4").tobytes()[: -(-total // 8)]


def flags_as_fields(flags: Flags) -> tuple[Values, Widths]:
    """Return flags (n,) as values and widths of fewer fields: the bits are the same as those of n fields of one bit."""
    count = -(-flags.size // _WORD)
    filled = np.zeros(count * _WORD, np.bool_)
    filled[: flags.size] = flags
    values, widths = np.packbits(filled).view(">u4").astype(np.uint32), np.full(count, _WORD, np.uint8)
    if last := flags.size % _WORD:
        values[-1] >>= _WORD - last
        widths[-1] = last
    return values, widths


@final
class FieldReader:
    """Reads fields from front to back, never past the end.

    Args:
        data: The fields and nothing more.

    Raises:
        CodecError: If it ends too early; so do all methods.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._bit = 0

    @property
    def left(self) -> int:
        """Bits not read yet."""
        return 8 * len(self._data) - self._bit

    def take(self, widths: Integers) -> Integers:
        """Return the next fields of so many bits each (n,)."""
        ends = np.cumsum(widths)
        start = self._advance(int(ends[-1]) if ends.size else 0)
        some = bytes(self._data[start // 8 : -(-self._bit // 8)])
        words = np.frombuffer(some + bytes(-len(some) % _WORD_BYTES + 2 * _WORD_BYTES), ">u4").astype(np.uint64)
        # Of every two words that follow one another: a field lies in one of these.
        pairs = words[:-1] << np.uint64(_WORD) | words[1:]
        first = ends - widths + start % 8
        pairs = _shifted_left(pairs[first >> 5], first & _WORD - 1)
        found: Integers = _shifted_right(pairs >> np.uint64(1), 63 - widths).view(np.int64)
        return found

    def one(self, width: int) -> int:
        """Return the next field."""
        start = self._advance(width)
        some = int.from_bytes(self._data[start // 8 : -(-(start + width) // 8)], "big")
        return some >> -(start + width) % 8 & (1 << width) - 1

    def flags(self, count: int) -> Flags:
        """Return the next fields of one bit (n,)."""
        start = self._advance(count)
        some = np.frombuffer(self._data[start // 8 : -(-(start + count) // 8)], np.uint8)
        return np.unpackbits(some)[start % 8 :][:count].view(np.bool_)

    def _advance(self, bits: int) -> int:
        """Go on by so many bits; return where they begin."""
        if bits > self.left:
            raise CodecError(f"chunk ends at bit {8 * len(self._data)}, expected {self._bit + bits}")
        self._bit += bits
        return self._bit - bits


def _shifted_left(values: Wide, by: npt.NDArray[Any]) -> Wide:
    shifted: Wide = values << by.view(np.uint64)
    return shifted


def _shifted_right(values: Wide, by: npt.NDArray[Any]) -> Wide:
    shifted: Wide = values >> by.view(np.uint64)
    return shifted
