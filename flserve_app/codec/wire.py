"""The smallest pieces of the payload format: varints, bounded reading, and the checksum.

A varint is an unsigned LEB128 number below 2**63, shortest form only: one number has one encoding. Reading
past the end, or a longer form than needed, is a `CodecError`.
"""

from __future__ import annotations

import zlib
from typing import final

from flserve_app.artifact.threads import gather
from flserve_app.errors import CodecError

SLICE_BYTES = 1 << 20
CHECKSUM_BYTES = 4
_MAX_VARINT_BYTES = 9


def varint(number: int) -> bytes:
    """Return a non-negative number as a varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def checksum(data: memoryview) -> bytes:
    """Return CRC-32 over the CRC-32s (little-endian) of the 1 MiB slices; detects damage, not malice."""
    slices = [data[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES)]
    sums = gather(zlib.crc32, slices, len(data))
    return _checksum_of(b"".join(value.to_bytes(4, "little") for value in sums))


@final
class Checksum:
    """The same checksum of data that come in parts."""

    def __init__(self) -> None:
        self._sums = bytearray()
        self._slice = 0
        self._filled = 0

    def update(self, part: bytes | memoryview) -> None:
        """Take the next part."""
        left = memoryview(part).cast("B")
        while left:
            some, left = left[: SLICE_BYTES - self._filled], left[SLICE_BYTES - self._filled :]
            self._slice = zlib.crc32(some, self._slice)
            self._filled += len(some)
            if self._filled == SLICE_BYTES:
                self._close()

    def value(self) -> bytes:
        """Return the checksum of all parts."""
        if self._filled:
            self._close()
        return _checksum_of(bytes(self._sums))

    def _close(self) -> None:
        self._sums += self._slice.to_bytes(4, "little")
        self._slice = self._filled = 0


def _checksum_of(sums: bytes) -> bytes:
    return zlib.crc32(sums).to_bytes(4, "little")


class Reader:
    """Reads a payload from front to back, never past its end.

    Args:
        data: Bytes to read.
        what: What they are, for messages.
    """

    def __init__(self, data: memoryview, what: str = "payload") -> None:
        self._data = data
        self._what = what
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self.position

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes without copying them.

        Raises:
            CodecError: If fewer are left.
        """
        if size > self.left:
            raise CodecError(f"{self._what} ends at byte {len(self._data)}: {size} expected, {self.left} found")
        self.position += size
        return self._data[self.position - size : self.position]

    def byte(self) -> int:
        """Return the next byte."""
        if not self.left:
            self.take(1)
        self.position += 1
        return self._data[self.position - 1]

    def varint(self) -> int:
        """Return the next varint.

        Raises:
            CodecError: If it is cut off, too long, or not in its shortest form.
        """
        data, at = self._data, self.position
        if at < len(data) and data[at] < 0x80:  # nearly all are: a payload may have millions
            self.position = at + 1
            return data[at]
        number = 0
        for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                # A last byte of zero adds nothing: the number has a shorter form.
                if byte == 0 and shift > 0:
                    break
                return number
        raise CodecError(f"{self._what}: bad varint before byte {self.position}")

    def varints(self, count: int) -> tuple[int, ...]:
        """Return the next `count` varints.

        Raises:
            CodecError: If one of them is cut off, too long, or not in its shortest form.
        """
        view = self._data[self.position : self.position + count]
        if len(view) == count and max(view, default=0) < 0x80:  # all of a byte each, as of nearly all shapes
            self.position += count
            return tuple(view)
        return tuple([self.varint() for _ in range(count)])

    def end(self) -> None:
        """Check that all is read.

        Raises:
            CodecError: If bytes are left over.
        """
        if self.left:
            raise CodecError(f"{self._what}: {self.left} bytes too many after byte {self.position}")
