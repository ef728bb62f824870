"""Rounds by number, over all that an app starts with one strategy.

Flower's loop counts from 1 in every `start`. A model's history goes on, so its rows, versions and draws are numbered
over all starts; the strategy and the clients are told what the loop says, as in plain Flower. Rules:
- A second start trains `num_rounds` more from the arrays it is given; what the strategy remembers stays.
- A resumed run does what is left: of each start, in their order, and the loop's count goes on where it was.
- A loop that counts from another number than 1 is told its own numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final


@final
class Starts:
    """Counts the rounds of one strategy.

    Attributes:
        offset: Rounds of the history that are done when the current start begins.
        shift: What is added to what the loop says of a round, for the strategy: rounds of this start done before.
        last: The newest round that was begun.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.shift = 0
        self._before = 0
        self._first = 1
        self._said = False
        self.last = 0

    def begin(self, num_rounds: int | None, reached: int) -> int | None:
        """Begin a start; return the rounds that are left of it, None if that is not known.

        Args:
            num_rounds: Rounds it is to do; None if that is not known.
            reached: Round of the newest version.
        """
        self.offset = self.last = max(self._before, reached)
        self.shift, self._first, self._said = self.offset - self._before, 1, False
        return None if num_rounds is None else max(0, self._before + num_rounds - self.offset)

    def number(self, said: int, *, trains: bool = False) -> int:
        """Return the number of a round in the history, by what the loop says; training begins a round."""
        if trains and not self._said:
            self._first, self._said = said, True
        self.last = max(self.last, self.offset + said - self._first + 1)
        return self.offset + said - self._first + 1

    def told(self, number: int) -> int:
        """Return what the strategy is told of a round of the history."""
        return number - self.offset - 1 + self._first + self.shift

    @contextmanager
    def until_done(self, num_rounds: int | None) -> Iterator[None]:
        """End a start with the block: it did so many rounds, or those that it began where it fails or nobody knows."""
        try:
            yield
        except BaseException:
            self._before = self.last
            raise
        self._before = self.last if num_rounds is None else max(self._before + num_rounds, self.last)
