"""Lists of small numbers as bits: Rice and Elias gamma codes, written and read whole lists at a time.

A number v with parameter k is its quotient v >> k in unary (so many 0 bits and a 1) and its k low bits. A single
number without a parameter (`number`) is its bit length in unary, and its bits but the highest. All quotients
stand in one string of bits, all low bits in another, both with the most significant bit of a byte first and zeros
up to a whole byte. Numbers of very different sizes are better `sized`: their bit lengths as a list, and their
bits but the highest. A body is

    size varint of the first string, the first string, the second string

so that the quotients of all lists are found in one pass; the low bits are `fields`. A list has its parameter, a
`number`, before it, if it has any values.
"""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from flserve_app.codec.fields import FieldReader, Flags, Values, Widths, flags_as_fields, packed
from flserve_app.codec.wire import Reader, varint
from flserve_app.errors import CodecError

MOST_PARAMETER = 24
_SIZED_BITS = 32
MOST_SIZED = (1 << _SIZED_BITS) - 1
_BLOCK_BYTES = 1 << 16
_CHOICES = 4  # of a parameter: those about the bit length of the mean
_NONE = (np.zeros(0, np.uint32), np.zeros(0, np.uint8))

Numbers = npt.NDArray[np.int64]


@final
class RiceWriter:
    """Collects numbers and makes a body of them."""

    def __init__(self) -> None:
        self._quotients: list[npt.NDArray[np.int32]] = []
        self._fields: list[tuple[Values, Widths]] = []
        self._first = self._second = 0

    def number(self, value: int) -> None:
        """Write a number >= 0."""
        length = value.bit_length()
        self._unary(np.array([length]), length)
        if length > 1:
            self._add(np.array([value]), np.array([length - 1]), length - 1)

    def flags(self, flags: Flags) -> None:
        """Write one bit for each of (n,)."""
        if flags.size:
            self._fields.append(flags_as_fields(flags))
            self._second += flags.size

    def coded(self, values: Numbers, parameters: Numbers) -> None:
        """Write numbers (n,) with a parameter each (n,) that the reader knows."""
        quotients = values >> parameters
        self._unary(quotients, int(quotients.sum()))
        self._add(values, parameters, int(parameters.sum()))

    def listed(self, values: Numbers, parameter: int | None = None) -> None:
        """Write a list of numbers (n,), whose length the reader knows, and its parameter: the best if none is given."""
        if values.size:
            chosen = best_parameter(values) if parameter is None else parameter
            self.number(chosen)
            quotients = values >> chosen
            self._unary(quotients, int(quotients.sum()))
            if chosen:
                self._add(values, np.full(values.size, chosen, np.uint8), chosen * values.size)

    def sized(self, values: Numbers) -> None:
        """Write a list of numbers (n,) of 1 to `MOST_SIZED`, whose length the reader knows."""
        lengths = np.frexp(values)[1].astype(np.int64)
        self.listed(lengths - 1)
        self._add(values, lengths - 1, int(lengths.sum()) - lengths.size)

    def subset(self, places: Numbers, count: int) -> None:
        """Write which of `count` places are in a set, as gaps between ascending places (n,)."""
        self.number(places.size)
        self.listed(gaps(places))

    def size(self) -> int:
        """Return how many bytes `body` has."""
        first = -(-self._first // 8)
        return len(varint(first)) + first + -(-self._second // 8)

    def body(self) -> bytes:
        """Return all that was written."""
        ends = np.cumsum(np.concatenate(self._quotients) + 1, dtype=np.int64) - 1
        unary = np.zeros(self._first, np.uint8)
        unary[ends] = 1
        first = np.packbits(unary).tobytes()
        values, widths = (np.concatenate(each) for each in zip(*self._fields, strict=True)) if self._fields else _NONE
        return varint(len(first)) + first + packed(values, widths)

    def _unary(self, quotients: Numbers, total: int) -> None:
        # What is kept is narrow: a writer of many numbers may be dropped for a shorter one.
        self._quotients.append(quotients.astype(np.int32))
        self._first += total + quotients.size

    def _add(self, values: Numbers, widths: Numbers | Widths, total: int) -> None:
        self._fields.append((values.astype(np.uint32), widths.astype(np.uint8, copy=False)))
        self._second += total


@final
class RiceReader:
    """Reads what a `RiceWriter` wrote; no count is believed before its quotients are there or a bound is kept.

    Args:
        body: The body and nothing more.
        most: Numbers that it may hold.

    Raises:
        CodecError: If the body is not as the format says; so do all methods.
    """

    def __init__(self, body: memoryview, most: int) -> None:
        reader = Reader(body, "list")
        unary = np.frombuffer(reader.take(reader.varint()), np.uint8)
        self._ends = _ones(unary, most)
        if 8 * unary.size - int(self._ends[-1]) > 8:
            raise CodecError("chunk has a byte of quotients too many")
        self._fields = FieldReader(reader.take(reader.left))
        self._next = 0

    def number(self) -> int:
        """Return the next single number."""
        first, self._next = self._next, self._after(1)
        length = int(self._ends[first]) - (int(self._ends[first - 1]) if first else -1) - 1
        if length > MOST_PARAMETER:
            raise CodecError(f"chunk has a number of {length} bits, at most {MOST_PARAMETER} are allowed")
        return (1 << length - 1) + self._fields.one(length - 1) if length else 0

    def flag(self) -> bool:
        """Return the next single number, which is 0 or 1."""
        number = self.number()
        if number > 1:
            raise CodecError(f"chunk has a choice of {number}, expected 0 or 1")
        return number == 1

    def flags(self, count: int) -> Flags:
        """Return the next `count` bits."""
        return self._fields.flags(count)

    def coded(self, parameters: Numbers) -> Numbers:
        """Return numbers (n,) with these parameters (n,)."""
        if parameters.size and not 0 <= int(parameters.min()) <= int(parameters.max()) <= MOST_PARAMETER:
            raise CodecError(f"chunk has parameters from {parameters.min()} to {parameters.max()}")
        return self._take(parameters.size) << parameters | self._fields.take(parameters)

    def sized(self, count: int) -> Numbers:
        """Return `count` numbers, each of 1 to `MOST_SIZED`."""
        widths = self.listed(count, _SIZED_BITS)
        return np.int64(1) << widths | self._fields.take(widths)

    def listed(self, count: int, below: int) -> Numbers:
        """Return a list of `count` numbers, each less than `below`."""
        if not count:
            return np.zeros(0, np.int64)
        parameter = self.number()
        if parameter > MOST_PARAMETER:
            raise CodecError(f"chunk has the parameter {parameter}, at most {MOST_PARAMETER} is allowed")
        # The quotients first: they are there, or nothing is allocated for so many.
        values = self._take(count)
        if parameter:
            values = values << parameter | self._fields.take(np.full(count, parameter))
        return bounded(values, below)

    def subset(self, count: int, most: int | None = None) -> Numbers:
        """Return ascending places, each less than `count`; at most so many, all of them if that is None."""
        size = self.number()
        if most is not None and size > most:
            raise CodecError(f"chunk has {size} of {count} places, at most {most} are allowed")
        return places(self.listed(size, count), count)

    def end(self) -> None:
        """Check that all is read, and that nothing but zeros fills up the last byte."""
        numbers, bits = self._ends.size - self._next, self._fields.left
        if numbers or bits > 7 or self._fields.one(bits):
            raise CodecError(f"chunk has {numbers} numbers and {bits} bits too many")

    def _take(self, count: int) -> Numbers:
        first, self._next = self._next, self._after(count)
        return gaps(self._ends[first : self._next] - (int(self._ends[first - 1]) + 1 if first else 0))

    def _after(self, count: int) -> int:
        if self._next + count > self._ends.size:
            raise CodecError(f"chunk holds {self._ends.size} numbers, expected {self._next + count}")
        return self._next + count


def gaps(ascending: Numbers) -> Numbers:
    """Return how many places are left out before each of ascending ones (n,)."""
    left_out = ascending.copy()
    left_out[1:] -= ascending[:-1] + 1
    return left_out


def places(left_out: Numbers, count: int) -> Numbers:
    """Return the places of which `gaps` was taken, all less than `count`.

    Raises:
        CodecError: If they are not.
    """
    # Each gap is known to be bounded: the sum cannot overflow.
    found: Numbers = np.cumsum(left_out + 1) - 1
    if found.size and found[-1] >= count:
        raise CodecError(f"chunk names place {found[-1]} of {count}")
    return found


def bounded(values: Numbers, below: int) -> Numbers:
    """Return the values (n,), all of them checked to be less than a bound.

    Raises:
        CodecError: If one is not.
    """
    if values.size and int(values.max()) >= below:
        raise CodecError(f"chunk holds the number {values.max()}, expected less than {below}")
    return values


def cheapest(values: Numbers) -> tuple[int, int]:
    """Return the parameter with which numbers (n,) take the fewest bits, and how many that are, besides itself."""
    if not values.size:
        return 0, 0
    least = min(max(0, (int(values.sum()) // values.size).bit_length() - 2), MOST_PARAMETER)
    found, shifted = [], values >> least
    for parameter in range(least, min(least + _CHOICES, MOST_PARAMETER + 1)):
        found.append((int(shifted.sum()) + (parameter + 1) * values.size, parameter))
        shifted >>= 1
    bits, parameter = min(found)
    return parameter, bits


def best_parameter(values: Numbers) -> int:
    """Return the parameter with which numbers (n,), n > 0, take the fewest bits."""
    return cheapest(values)[0]


def best_parameters(values: Numbers, starts: Numbers) -> Numbers:
    """Return the parameters (m,) of m lists that stand one after another in numbers (n,), each n > 0."""
    sizes = np.diff(starts, append=values.size)
    least = np.maximum(np.frexp(np.add.reduceat(values, starts) // sizes)[1] - 2, 0).astype(np.int64)
    shifted, bits = values >> np.repeat(least, sizes), np.empty((_CHOICES, sizes.size), np.int64)
    for more in range(_CHOICES):
        bits[more] = np.add.reduceat(shifted, starts) + more * sizes
        shifted >>= 1
    best: Numbers = np.minimum(least + np.argmin(bits, axis=0), MOST_PARAMETER)
    return best


def _ones(data: npt.NDArray[np.uint8], most: int) -> Numbers:
    """Return which bits are set, at least one and at most so many."""
    found, count = [], 0
    # Block by block: all bits at once would take eight times the bytes.
    for start in range(0, data.size, _BLOCK_BYTES):
        ones = np.flatnonzero(np.unpackbits(data[start : start + _BLOCK_BYTES]).view(np.bool_))
        count += ones.size
        if count > most:
            raise CodecError(f"chunk holds {count} numbers or more, expected at most {most}")
        found.append(ones + 8 * start if start else ones)
    if not count:
        raise CodecError("chunk holds no numbers, expected at least 1")
    return np.concatenate(found) if len(found) > 1 else found[0]
