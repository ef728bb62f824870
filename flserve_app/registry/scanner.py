"""JSON in its canonical form, read piece by piece, so that what it claims never takes more memory than it may.

Canonical is ASCII with sorted names and no white space: what `json.dumps` makes of a value with `sort_keys`. Lists
and objects of the upper levels are walked; what stands in them is parsed one value at a time, each no longer than
its bound. So millions of names in one place are refused at the bound, before they are objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, final

from flserve_app.errors import StoreError

_PIECE = 2048
_NAME_BYTES = 512
_DECODER = json.JSONDecoder()


@final
class Scanner:
    """Walks through one JSON text.

    Args:
        data: The text.
        what: Names it in errors.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what = data, what
        self._at = 0

    def members(self) -> Iterator[str]:
        """Yield the names of the object that comes next; after each its value is to be read.

        Raises:
            StoreError: If there is no object, or its names are not sorted.
        """
        self._expect(b"{")
        before = None
        while not self._take(b"}"):
            if before is not None:
                self._expect(b",")
            name = self.value(_NAME_BYTES)
            if not isinstance(name, str) or (before is not None and name <= before):
                raise StoreError(f"{self._what} is not in its canonical form at byte {self._at}")
            self._expect(b":")
            yield name
            before = name

    def items(self, max_count: int, max_bytes: int) -> Iterator[Any]:
        """Yield the values of the list that comes next.

        Args:
            max_count: How many there may be.
            max_bytes: How long each may be.

        Raises:
            StoreError: If there is no list, or it is out of these bounds.
        """
        self._expect(b"[")
        count = 0
        while not self._take(b"]"):
            if count:
                self._expect(b",")
            count += 1
            if count > max_count:
                raise StoreError(f"{self._what} lists more than {max_count} entries at byte {self._at}")
            yield self.value(max_bytes)

    def value(self, max_bytes: int) -> Any:
        """Return the value that comes next.

        Raises:
            StoreError: If there is none, it is longer, or not in its canonical form.
        """
        length = min(_PIECE, max_bytes)
        while True:
            piece = self._data[self._at : self._at + length]
            whole = self._at + length >= len(self._data)
            try:
                text = piece.decode("ascii")
                value, end = _DECODER.raw_decode(text)
                if end < len(text) or whole:  # else a number may go on
                    break
            except RecursionError as error:
                raise StoreError(f"{self._what} is nested too deep at byte {self._at}") from error
            except ValueError as error:
                if whole or length == max_bytes:
                    found = "not JSON" if whole else f"not JSON, or one value has more than {max_bytes} bytes,"
                    raise StoreError(f"{self._what} is {found} at byte {self._at}") from error
            if length == max_bytes:
                raise StoreError(f"{self._what} has a value of more than {max_bytes} bytes at byte {self._at}")
            length = min(4 * length, max_bytes)
        self._check_canonical(value, text[:end])
        self._at += end
        return value

    def end(self) -> None:
        """Check that nothing follows. Raises StoreError."""
        if self._at != len(self._data):
            raise StoreError(f"{self._what} is not in its canonical form at byte {self._at}: something follows it")

    def _check_canonical(self, value: Any, text: str) -> None:
        try:
            same = canonical(value) == text
        except (ValueError, RecursionError):  # NaN, 1e999
            same = False
        if not same:
            raise StoreError(f"{self._what} is not in its canonical form at byte {self._at}")

    def _expect(self, literal: bytes) -> None:
        if not self._take(literal):
            found = self._data[self._at : self._at + 8]
            raise StoreError(f"{self._what} is not JSON as expected at byte {self._at}: {literal!r}, found {found!r}")

    def _take(self, literal: bytes) -> bool:
        found = self._data.startswith(literal, self._at)
        self._at += len(literal) * found
        return found


def canonical(value: Any) -> str:
    """Return a JSON value in its canonical form. Raises ValueError if it has no finite numbers or is no JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
