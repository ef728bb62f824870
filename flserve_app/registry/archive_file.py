"""The file that carries a bundle: a plain tar whose every byte follows from its contents.

Members are regular files in ustar format, uncompressed, with fixed metadata (mode 0644, owner 0, time 0), and two
zero blocks end the file. So `tar tf` lists it, and equal contents make equal files. A reader knows the next
member's name beforehand and compares the whole header with the one that it would write itself: no path, link,
device or extension from a file is ever looked at, let alone followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Self, final

from flserve_app.disk.regular import open_regular
from flserve_app.errors import StoreError
from flserve_app.store.mapped import mapped

_BLOCK = 512
_SIZE = slice(124, 136)
_MAX_BYTES = 8**11 - 1  # what eleven octal digits can say


def write_member(file: BinaryIO, name: str, data: bytes | memoryview) -> None:
    """Append a member.

    Args:
        file: Where to.
        name: ASCII, at most 100 characters.
        data: At most 8 GiB.

    Raises:
        StoreError: If it is larger.
    """
    if len(data) > _MAX_BYTES:
        raise StoreError(f"{name} has {len(data)} bytes, a bundle takes at most {_MAX_BYTES} of one payload")
    file.write(_header(name, len(data)))
    file.write(data)
    file.write(bytes(-len(data) % _BLOCK))


def check_members(sizes: Iterable[int]) -> None:
    """Check that contents of these sizes can be members. Raises StoreError."""
    if (largest := max(sizes, default=0)) > _MAX_BYTES:
        raise StoreError(f"a payload has {largest} bytes, a bundle takes at most {_MAX_BYTES} of one")


def write_end(file: BinaryIO) -> None:
    """End the file."""
    file.write(bytes(2 * _BLOCK))


@final
class MemberReader:
    """Reads members in order, or again by where they are.

    Args:
        path: The file.

    Raises:
        StoreError: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open_regular(path, follow=True)
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise StoreError(f"cannot read bundle {path}: {error.strerror}") from error
        self._position = 0

    def __enter__(self) -> Self:
        """Return the reader; leaving the block closes the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def first(self, name: str, max_bytes: int) -> bytes:
        """Return the content of the next member, whose size only the file knows. Raises StoreError."""
        field = self._read(self._position, _BLOCK)[_SIZE]
        try:
            size = int(field.rstrip(b"\0"), 8)
        except ValueError:
            raise StoreError(f"{self._path} is not a bundle: it does not start with {name}") from None
        if not 0 <= size <= max_bytes:
            raise StoreError(f"bundle {self._path}: {name} has {size} bytes, at most {max_bytes} are allowed")
        return self.at(self.skip(name, size), size)

    def skip(self, name: str, size: int) -> int:
        """Go over the next member and return where its content starts. Raises StoreError."""
        header, start = self._read(self._position, _BLOCK), self._position + _BLOCK
        end = start + size
        if header != _header(name, size):
            raise StoreError(f"bundle {self._path}: expected {name} of {size} bytes at byte {self._position}")
        if any(self._read(end, -size % _BLOCK)):
            raise StoreError(f"bundle {self._path}: {name} is not padded with zeros")
        self._position = end + -size % _BLOCK
        return start

    def at(self, start: int, size: int) -> bytes:
        """Return some bytes of the file. Raises StoreError if it ends before."""
        return self._read(start, size)

    def view(self, start: int, size: int) -> tuple[memoryview, str]:
        """Return some bytes of the file where they lie, and their hex SHA-256. Raises StoreError."""
        self._check_size(start, size)
        try:
            return mapped(self._file, start, size)
        except OSError as error:
            raise StoreError(f"cannot read bundle {self._path}: {error.strerror}") from error

    def check_end(self) -> None:
        """Check that nothing follows but the end. Raises StoreError."""
        if self._size != self._position + 2 * _BLOCK or any(self._read(self._position, 2 * _BLOCK)):
            raise StoreError(f"bundle {self._path}: what follows the last payload is not its end")

    def _read(self, start: int, size: int) -> bytes:
        self._check_size(start, size)
        try:
            self._file.seek(start)
            data = self._file.read(size)
        except OSError as error:
            raise StoreError(f"cannot read bundle {self._path}: {error.strerror}") from error
        if len(data) != size:
            raise StoreError(f"bundle {self._path} changed while it was read")
        return data

    def _check_size(self, start: int, size: int) -> None:
        """Check, before memory is taken for it, that the file has so many bytes."""
        if start + size > self._size:
            raise StoreError(f"bundle {self._path} is cut short: {self._size} bytes, expected {start + size} or more")


def _header(name: str, size: int) -> bytes:
    start = name.encode("ascii").ljust(100, bytes(1)) + _octal(0o644, 8) + _octal(0, 8) + _octal(0, 8)
    start += _octal(size, 12) + _octal(0, 12)
    end = b"0" + bytes(100) + b"ustar" + bytes(1) + b"00" + bytes(64) + _octal(0, 8) + _octal(0, 8) + bytes(155 + 12)
    checksum = _octal(sum(start) + sum(b" " * 8) + sum(end), 7) + b" "
    return start + checksum + end


def _octal(value: int, width: int) -> bytes:
    """Return a number as ustar has it: octal digits that fill a field, and a zero byte."""
    return b"%0*o" % (width - 1, value) + bytes(1)
