"""A setting that changes with the round: geometrically from one value to another, then constant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flserve_app.errors import CodecError


@dataclass(frozen=True, slots=True)
class Ramp:
    """A value a round.

    Attributes:
        start: In the first round; above 0.
        end: From round `rounds` + 1 on; above 0.
        rounds: How many rounds it takes; 0 for `end` from the start.

    Raises:
        CodecError: If a value is out of its range.
    """

    start: float
    end: float
    rounds: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not all(isinstance(value, int | float) and math.isfinite(value) and value > 0 for value in self.values):
            said = f"{self.start!r}" if self.start == self.end else f"{self.start!r} to {self.end!r}"
            raise CodecError(f"found {said}, expected numbers above 0")
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 0:
            raise CodecError(f"found {self.rounds!r} rounds, expected a whole number of 0 or more")

    @property
    def values(self) -> tuple[float, float]:
        """Start and end."""
        return self.start, self.end

    def at(self, number: int) -> float:
        """Return the value of a round; the first round is 1."""
        if number > self.rounds or not self.rounds:
            return float(self.end)
        done = max(0, number - 1) / self.rounds
        return float(self.start * (self.end / self.start) ** done)


def ramp_of(value: object, name: str) -> Ramp:
    """Return the ramp that a number, or a list `[start, end, rounds]`, stands for.

    Args:
        value: As a configuration has it.
        name: What it is for, for messages.

    Raises:
        CodecError: If it is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = (value, value, 0)
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise CodecError(f"{name} is {value!r}, expected a number or [start, end, rounds]")
    try:
        return Ramp(*value)
    except CodecError as error:
        raise CodecError(f"{name}: {error}") from error
