"""Lists of small numbers as bits: Rice and Elias gamma codes, written and read whole lists at a time.

A number v with parameter k is its quotient v >> k in unary (so many 0 bits and a 1) and its k low bits. A single
number without a parameter (`number`) is its bit length in unary, and its bits but the highest. All quotients
stand in one string of bits, all low bits in another, both with the most significant bit of a byte first and zeros
up to a whole byte. Numbers of very different sizes are better `sized`: their bit lengths as a list, and their
bits but the highest. A body is

    size varint of the first string, the first string, the second string

so that the quotients of all lists are found in one pass. A list has its parameter, a `number`, before it, if it has
any values.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt

from flserve_app.codec.wire import Reader, varint
from flserve_app.errors import CodecError

MOST_PARAMETER = 24
_WORD_BITS = 32
MOST_SIZED = (1 << _WORD_BITS) - 1

Numbers = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]


@final
class RiceWriter:
    """Collects numbers and makes a body of them."""

    def __init__(self) -> None:
        self._quotients: list[Numbers] = []
        self._bits: list[Bits] = []

    def number(self, value: int) -> None:
        """Write a number >= 0."""
        length = value.bit_length()
        self._quotients.append(np.array([length]))
        self.fixed(np.array([value]), max(0, length - 1))

    def fixed(self, values: npt.NDArray[Any], width: int) -> None:
        """Write the `width` low bits of values (n,)."""
        if width:
            self._bits.append(_bits_of(values)[:, -width:].reshape(-1))

    def coded(self, values: Numbers, parameters: int | Numbers) -> None:
        """Write numbers (n,) with a parameter, or one each (n,), that the reader knows."""
        self._quotients.append(values >> parameters)
        if isinstance(parameters, int):
            self.fixed(values, parameters)
        else:
            self._bits.append(_bits_of(values)[_last(parameters)])

    def listed(self, values: Numbers) -> None:
        """Write a list of numbers (n,), whose length the reader knows, and its parameter."""
        if values.size:
            parameter = best_parameter(values)
            self.number(parameter)
            self.coded(values, parameter)

    def sized(self, values: Numbers) -> None:
        """Write a list of numbers (n,) of 1 to `MOST_SIZED`, whose length the reader knows."""
        lengths = np.frexp(values)[1].astype(np.int64)
        self.listed(lengths - 1)
        self._bits.append(_bits_of(values)[_last(lengths - 1)])

    def subset(self, places: Numbers, count: int) -> None:
        """Write which of `count` places are in a set, as gaps between ascending places (n,)."""
        self.number(places.size)
        self.listed(gaps(places))

    def size(self) -> int:
        """Return how many bytes `body` has."""
        first, second = sum(int(each.sum()) + each.size for each in self._quotients), sum(map(len, self._bits))
        return len(varint(-(-first // 8))) + -(-first // 8) + -(-second // 8)

    def body(self) -> bytes:
        """Return all that was written."""
        ends = np.cumsum(np.concatenate(self._quotients) + 1)
        unary = np.zeros(int(ends[-1]), np.uint8)
        unary[ends - 1] = 1
        first = np.packbits(unary).tobytes()
        second = np.packbits(np.concatenate(self._bits)).tobytes() if self._bits else b""
        return varint(len(first)) + first + second


@final
class RiceReader:
    """Reads what a `RiceWriter` wrote; every count is checked before anything is allocated for it.

    Args:
        body: The body and nothing more.
        most: Numbers that it may hold.

    Raises:
        CodecError: If the body is not as the format says; so do all methods.
    """

    def __init__(self, body: memoryview, most: int) -> None:
        reader = Reader(body, "list")
        unary = np.unpackbits(np.frombuffer(reader.take(reader.varint()), np.uint8))
        found = int(np.count_nonzero(unary))
        if not 0 < found <= most:
            raise CodecError(f"chunk holds {found} numbers, expected 1 to {most}")
        self._ends = np.flatnonzero(unary)
        if unary.size - int(self._ends[-1]) > 8:
            raise CodecError("chunk has a byte of quotients too many")
        self._bits = np.unpackbits(np.frombuffer(reader.take(reader.left), np.uint8))
        self._next = self._bit = 0

    def number(self) -> int:
        """Return the next single number."""
        length = int(self._take(1)[0])
        if length > MOST_PARAMETER:
            raise CodecError(f"chunk has a number of {length} bits, at most {MOST_PARAMETER} are allowed")
        return (1 << length - 1) + int(self.fixed(1, length - 1)[0]) if length else 0

    def flag(self) -> bool:
        """Return the next single number, which is 0 or 1."""
        number = self.number()
        if number > 1:
            raise CodecError(f"chunk has a choice of {number}, expected 0 or 1")
        return number == 1

    def fixed(self, count: int, width: int) -> Numbers:
        """Return `count` numbers of `width` bits each."""
        stop = self._bit + count * width
        if stop > self._bits.size:
            raise CodecError(f"chunk ends at bit {self._bits.size}, expected {stop}")
        bits = self._bits[self._bit : stop].reshape(count, width)
        self._bit = stop
        filled = np.zeros((count, _WORD_BITS), np.uint8)
        filled[:, _WORD_BITS - width :] = bits
        return _values_of(filled)

    def coded(self, parameters: Numbers) -> Numbers:
        """Return numbers (n,) with these parameters (n,)."""
        if parameters.size and not 0 <= int(parameters.min()) <= int(parameters.max()) <= MOST_PARAMETER:
            raise CodecError(f"chunk has parameters from {parameters.min()} to {parameters.max()}")
        high = self._take(parameters.size) << parameters
        return high | self._low(parameters)

    def sized(self, count: int) -> Numbers:
        """Return `count` numbers, each of 1 to `MOST_SIZED`."""
        widths = self.listed(count, _WORD_BITS)
        return np.int64(1) << widths | self._low(widths)

    def listed(self, count: int, below: int) -> Numbers:
        """Return a list of `count` numbers, each less than `below`."""
        if not count:
            return np.zeros(0, np.int64)
        parameter = self.number()
        if parameter > MOST_PARAMETER:
            raise CodecError(f"chunk has the parameter {parameter}, at most {MOST_PARAMETER} is allowed")
        # The quotients first: they are there, or nothing is allocated for so many.
        return bounded(self._take(count) << parameter | self.fixed(count, parameter), below)

    def subset(self, count: int) -> Numbers:
        """Return ascending places, each less than `count`."""
        size = self.number()
        return places(self.listed(size, count), count)

    def end(self) -> None:
        """Check that all is read, and that nothing but zeros fills up the last byte."""
        left = self._bits[self._bit :]
        if self._next != self._ends.size or left.size > 7 or left.any():
            raise CodecError(f"chunk has {self._ends.size - self._next} numbers and {left.size} bits too many")

    def _low(self, widths: Numbers) -> Numbers:
        """Return the next numbers (n,) of so many bits each (n,)."""
        stop = self._bit + int(widths.sum())
        if stop > self._bits.size:
            raise CodecError(f"chunk ends at bit {self._bits.size}, expected {stop}")
        filled = np.zeros((widths.size, _WORD_BITS), np.uint8)
        filled[_last(widths)] = self._bits[self._bit : stop]
        self._bit = stop
        return _values_of(filled)

    def _take(self, count: int) -> Numbers:
        ends = self._ends[max(0, self._next - 1) : self._next + count]
        if self._next + count > self._ends.size:
            raise CodecError(f"chunk holds {self._ends.size} numbers, expected {self._next + count}")
        quotients: Numbers = np.diff(ends, prepend=-1)[:count] if self._next == 0 else np.diff(ends)
        self._next += count
        return quotients - 1


def gaps(ascending: Numbers) -> Numbers:
    """Return how many places are left out before each of ascending ones (n,)."""
    return np.diff(ascending, prepend=-1) - 1


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


def best_parameter(values: Numbers) -> int:
    """Return the parameter with which numbers (n,), n > 0, take the fewest bits."""
    guess = (int(values.sum()) // values.size).bit_length()
    choices = range(max(0, guess - 2), min(guess + 1, MOST_PARAMETER) + 1)
    return min(choices, key=lambda parameter: _coded_bits(values, parameter))


def listed_bits(values: Numbers) -> int:
    """Return how many bits a list of numbers (n,) takes, besides its parameter."""
    return _coded_bits(values, best_parameter(values)) if values.size else 0


def best_parameters(values: Numbers, starts: Numbers) -> Numbers:
    """Return the parameters (m,) of m lists that stand one after another in numbers (n,), each n > 0."""
    sizes = np.diff(starts, append=values.size)
    guesses = np.frexp(np.add.reduceat(values, starts) // sizes)[1]
    choices = np.clip(np.arange(-2, 2)[:, None] + guesses, 0, MOST_PARAMETER)
    bits = [np.add.reduceat(values >> np.repeat(each, sizes), starts) + each * sizes for each in choices]
    best: Numbers = np.take_along_axis(choices, np.argmin(bits, axis=0)[None], axis=0)[0].astype(np.int64)
    return best


def _bits_of(values: npt.NDArray[Any]) -> Bits:
    """Return the bits of values (n,) below 2**32, the highest first (n, 32)."""
    return np.unpackbits(values.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)


def _values_of(bits: Bits) -> Numbers:
    return np.packbits(bits, axis=1).view(">u4").reshape(-1).astype(np.int64)


def _last(widths: Numbers) -> npt.NDArray[np.bool_]:
    """Return which of 32 bits are the last `width` ones, for each width (n, 32)."""
    return np.arange(_WORD_BITS) >= _WORD_BITS - widths[:, None]


def _coded_bits(values: Numbers, parameter: int) -> int:
    return int((values >> parameter).sum()) + (parameter + 1) * values.size
