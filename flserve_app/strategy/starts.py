"""Rounds by number, over all that an app starts with one strategy.

Flower's loop counts from 1 in every `start`. A model's history goes on, so its rows, versions and draws are numbered
over all starts; the strategy and the clients are told what the loop says, as in plain Flower. Rules:
- A second start trains `num_rounds` more from the arrays it is given; what the strategy remembers stays.
- A resumed run does what is left: of each start, in their order, and the loop's count goes on where it was.
- A loop that counts from another number than 1 is told its own numbers. One that counts anew in the same start, as
  with two phases of training, is told its own, too, and the history goes on.
- A loop that makes its messages itself begins a round with the first that trains, and says the number when it
  aggregates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final


@final
class Starts:
    """Counts the rounds of one strategy.

    Attributes:
        offset: Rounds of the history that are done when the loop begins to count.
        shift: What is added to what the loop says of a round, for the strategy: rounds of this start done before.
        last: The newest round that was begun.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.shift = 0
        self._before = 0
        self._first = 1
        self._said: int | None = None
        self._trains = False
        self.last = 0

    def begin(self, num_rounds: int | None, reached: int) -> int | None:
        """Begin a start; return the rounds that are left of it, None if that is not known.

        Args:
            num_rounds: Rounds it is to do; None if that is not known.
            reached: Round of the newest version.
        """
        self.offset = self.last = max(self._before, reached)
        self.shift, self._first = self.offset - self._before, 1
        self._said, self._trains = None, False
        return None if num_rounds is None else max(0, self._before + num_rounds - self.offset)

    def anew(self) -> None:
        """Note that a loop may count anew: Flower's says what the strategy is before its first round."""
        self._said = None

    def trains(self, said: int) -> int:
        """Begin a round by what the loop says of it; return its number in the history."""
        if self._said is None or said < self._said:
            self.offset, self._first = self.last, said
        self._said, self._trains = said, True
        return self.number(said)

    def sends(self) -> int | None:
        """Begin a round of which the loop has said nothing yet; return its number, None if one is begun already."""
        if self._trains:
            return None
        self._trains = True
        return self.last + 1

    def aggregates(self, said: int) -> int:
        """End a round; return its number."""
        number = self.number(said) if self._said is not None and said >= self._said else self.trains(said)
        self._said, self._trains = said, False
        return number

    def number(self, said: int) -> int:
        """Return the number of a round in the history, by what the loop says."""
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
