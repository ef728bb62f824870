"""Aggregates that cannot be made: the round is skipped, and two in a row end the run.

What a strategy makes of numbers that strangers sent may fail in any way. Rules:
- A failure leaves the strategy's attributes as they were: the next round starts from the same version and memory.
- It is logged with its reason, which stands in the round's row as well; where the strategy has methods of its own,
  with the traceback, as the fault may be theirs.
- Where the next round fails too, it will not be the last: the run ends with that reason.
- A run of which no round could be aggregated ends with it as well, however few they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import WARNING
from typing import final

from flwr.common.logger import log
from flwr.serverapp.strategy import Result, Strategy

from flserve_app.errors import AggregateError
from flserve_app.strategy.compatibility import nested
from flserve_app.text import plain


@contextmanager
def undone_if_it_fails(strategy: Strategy, *, traced: bool = False) -> Iterator[None]:
    """Give a strategy, and what it wraps, its attributes back if the block raises.

    Flower's strategies put another object into an attribute, never something else into the object.

    Args:
        strategy: The strategy.
        traced: Whether to log the traceback.

    Raises:
        AggregateError: In place of whatever the block raised.
    """
    before = [(each, dict(vars(each))) for each in nested(strategy)]
    try:
        yield
    except Exception as error:
        if traced:
            log(WARNING, "flserve: %s could not aggregate", type(strategy).__name__, exc_info=True)
        for each, attributes in before:
            vars(each).clear()
            vars(each).update(attributes)
        raise AggregateError(f"{type(error).__name__}: {plain(error)}") from error


@final
class Attempts:
    """The rounds of one phase whose aggregate could not be made.

    Args:
        phase: `training` or `evaluation`.
    """

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._failed: int | None = None
        self._reason = ""
        self._made = False

    def failed(self, number: int, error: AggregateError) -> str:
        """Note that a round is skipped, and return why.

        Raises:
            AggregateError: If the round before was skipped as well.
        """
        reason = f"{self._phase} cannot be aggregated: {error}"
        if self._failed == number - 1:
            raise AggregateError(f"rounds {number - 1} and {number}: {reason}") from error
        self._failed, self._reason = number, reason
        log(WARNING, "flserve: round %d is skipped: %s", number, reason)
        return reason

    def made(self, something: bool) -> None:
        """Note that an aggregate was made, if it was one of something."""
        self._made = self._made or something

    def over(self, result: Result) -> Result:
        """Return what the run leaves.

        Raises:
            AggregateError: If there were rounds that failed, and none that did not.
        """
        if self._failed is not None and not self._made:
            raise AggregateError(f"round {self._failed}, and none was better: {self._reason}")
        return result
