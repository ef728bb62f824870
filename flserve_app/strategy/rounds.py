"""The rounds of one run as rows: what each did, cost and reached.

A row is handed over once a round's clients and its server have evaluated, in either order, so that it is shown under
its own round; at the latest when the next round begins or the run ends. Round 0 is what comes before the first round:
the greeting and the evaluation of the version the run starts from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, final

from flwr.app import ArrayRecord, MetricRecord

from flserve_app.strategy.grid import VersionedGrid
from flserve_app.strategy.ledger import Ledger, RoundRow
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.reply_metrics import LONGEST_NAME
from flserve_app.strategy.savings import Savings
from flserve_app.text import is_plain

MOST_METRICS = 256

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


@final
class Rounds:
    """Gathers a round's numbers and hands over its row.

    Args:
        publisher: Knows the newest version, and keeps its metrics.
        ledger: Counts bytes and seconds.
        observer: Called with each finished row.
    """

    def __init__(self, publisher: Publisher, ledger: Ledger, observer: Callable[[RoundRow], None] | None) -> None:
        self._publisher = publisher
        self._ledger = ledger
        self._observer = observer
        self._grid: VersionedGrid | None = None
        self._number = 0
        self._open = False
        self._started = 0.0
        self._clients = 0
        self._metrics: dict[str, float] = {}
        self._central: dict[str, float] = {}
        self._skipped: list[str] = []
        self._evaluates = False
        self._early = True
        self._awaited: set[str] = set()
        self.savings = Savings()

    def begin(self, grid: VersionedGrid, number: int, *, early: bool = True) -> None:
        """Open the first row: round 0, or the round a resumed run starts from.

        Args:
            grid: What the rounds go through.
            number: The round's number.
            early: Whether a round is over once both have evaluated; a loop of somebody else may go on with it.
        """
        self._grid, self._early, self.savings = grid, early, Savings()
        self._start(number)
        self._awaited = {"server"}

    def enter(self, number: int) -> int:
        """Finish the row before and open the next; returns the round's number. A round may train more than once."""
        if self._open and number == self._number:
            return number
        self.finish()
        self._start(number)
        self._awaited = {"clients", "server"} if self._evaluates else {"clients"}
        return number

    def finish(self) -> None:
        """Hand the open row over; without one, do nothing."""
        if not self._open:
            return
        self._open = False
        row = self._row()
        self.savings = self.savings.with_row(row)
        if self._observer is not None:
            self._observer(row)

    def aggregated(self, clients: int, metrics: MetricRecord | None) -> None:
        """Note what training gave."""
        self._clients = clients
        self._metrics.update({f"train_{key.removeprefix('train_')}": value for key, value in _numbers(metrics).items()})

    def skipped(self, reason: str) -> None:
        """Note why the round has no aggregate of training, or of evaluation."""
        self._skipped.append(reason)

    def evaluated(self, metrics: MetricRecord | None) -> None:
        """Note what the clients measured on the published version."""
        found = {f"client_{key}": value for key, value in _numbers(metrics).items()}
        self._metrics.update(found)
        if found:
            self._publisher.measured(found)
        self._ended("clients")

    def evaluating(self, evaluate_fn: EvaluateFn | None, shift: int = 0) -> EvaluateFn | None:
        """Return an evaluate function that notes what it measures on the published version.

        Args:
            evaluate_fn: The user's; it is told the round that the loop says, and `shift` more.
            shift: Rounds of the loop that were done before.
        """
        self._evaluates = evaluate_fn is not None
        if evaluate_fn is None:
            self._ended("server")
            return None

        def evaluate(said: int, arrays: ArrayRecord) -> MetricRecord | None:
            metrics = evaluate_fn(said + shift, arrays)
            self._central = _numbers(metrics)
            if self._central:
                self._publisher.measured(self._central)
            self._ended("server")
            return metrics

        return evaluate

    def _ended(self, evaluation: str) -> None:
        """Note that clients or server have evaluated; with the last of them the round is over."""
        self._awaited.discard(evaluation)
        if self._early and not self._awaited:
            self.finish()

    def _start(self, number: int) -> None:
        self._number = number
        self._open = True
        self._started = time.perf_counter()
        self._clients = 0
        self._metrics = {}
        self._central = {}
        self._skipped = []
        if self._grid is not None:
            self._grid.enter(number)

    def _row(self) -> RoundRow:
        version = self._publisher.version
        by_version = {} if self._grid is None else self._grid.fleet.by_version()
        counts: dict[str, Any] = self._ledger.take()
        return RoundRow(
            round=self._number,
            version=version.number,
            digest=version.digest,
            accuracy=self._central.get("accuracy"),
            loss=self._central.get("loss"),
            metrics={**self._central, **self._metrics},
            clients=self._clients,
            client_versions={str(number): clients for number, clients in by_version.items()},
            seconds=time.perf_counter() - self._started,
            skipped="; ".join(self._skipped),
            **counts,
        )


def _numbers(metrics: MetricRecord | None) -> dict[str, float]:
    """Return the finite numbers under plain names; a strategy of somebody else may hand on whatever clients sent."""
    found: dict[str, float] = {}
    for name, value in () if metrics is None else metrics.items():
        if len(found) < MOST_METRICS and is_plain(name, LONGEST_NAME) and isinstance(value, int | float):
            with suppress(OverflowError):  # an integer that no float can hold is no metric
                if math.isfinite(value):
                    found[name] = float(value)
    return found
