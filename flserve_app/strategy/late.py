"""Replies that come after their round has ended: remembered, fetched, and dropped or moved to the present.

Rules:
- A train message that was not answered in time is remembered for `ROUNDS` rounds, and asked for once a round.
- What arrives is read as any reply, against the base it was given, and never averaged as if it were current:
  under `drop` it is left out, under `rebase` it goes through `staleness.rebase` with a smaller weight.
- One line in the log for each, and a count in the round's row.
"""

from __future__ import annotations

from dataclasses import dataclass
from logging import INFO
from typing import final

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log

from flserve_app.errors import DeliveryError
from flserve_app.strategy.intake import Intake
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.parcel import Parcel
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.pulls import Pulls
from flserve_app.strategy.reply_failure import failure
from flserve_app.strategy.reply_tensors import rebuilt
from flserve_app.strategy.roster import Roster
from flserve_app.strategy.settlements import Settlements
from flserve_app.strategy.staleness import rebase, staleness_weight
from flserve_app.text import plain

ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owed:
    """A message that waits for its answer: what was sent, and in which round."""

    parcel: Parcel
    server_round: int


@final
class LateReplies:
    """The replies that are still owed.

    Args:
        publisher: Knows the bases and the current version.
        ledger: Counts them.
        roster: Knows the clients.
        rule: `drop` or `rebase`.
        exponent: Of the staleness weight; 0 keeps the weight as it is.
        settlements: Where it is noted what an update leads to.
    """

    def __init__(
        self,
        publisher: Publisher,
        ledger: Ledger,
        roster: Roster,
        *,
        rule: str = "drop",
        exponent: float = 0.5,
        settlements: Settlements,
    ) -> None:
        self._publisher = publisher
        self._ledger = ledger
        self._roster = roster
        self._rule = rule
        self._exponent = exponent
        self._intake = Intake(publisher, ledger, settlements)
        self._owed: dict[str, _Owed] = {}
        self._newest: dict[int, int] | None = None  # by node, the last round it owes to; None once that has changed

    def expect(self, message_id: str, parcel: Parcel, server_round: int) -> None:
        """Remember a message that was not answered in time."""
        if message_id and parcel.arrays and parcel.message_type.split(".")[0] == "train":
            self._owed[message_id] = _Owed(parcel=parcel, server_round=server_round)
            self._newest = None

    def owes(self, node_id: int, server_round: int) -> bool:
        """Whether a reply of a node may still be used in a round, or in a later one."""
        if self._rule != "rebase":
            return False
        if self._newest is None:  # asked for each message of a round: what is owed is gone through once
            self._newest = {}
            for owed in self._owed.values():
                last = self._newest.get(owed.parcel.node_id, owed.server_round)
                self._newest[owed.parcel.node_id] = max(last, owed.server_round)
        return node_id in self._newest and server_round - self._newest[node_id] <= ROUNDS

    def collect(self, pulls: Pulls, server_round: int, weighted_by: str | None) -> list[Message]:
        """Return the late replies that may take part in a round, oldest first; the others are dropped."""
        self._owed = {key: owed for key, owed in self._owed.items() if server_round - owed.server_round <= ROUNDS}
        waiting = {key: owed.parcel.node_id for key, owed in self._owed.items() if owed.server_round < server_round}
        self._newest = None
        if not waiting:
            return []
        arrived = [
            (self._owed.pop(name), reply) for reply in pulls.pull(waiting) if (name := _name(reply)) in self._owed
        ]
        fleet = self._roster.fleet
        places = {node_id: at for at, node_id in enumerate(fleet.order(fleet.clients))}
        arrived.sort(key=lambda pair: (pair[0].server_round, places.get(pair[0].parcel.node_id, -1)))
        usable = [self._admit(owed, reply, weighted_by) for owed, reply in arrived]
        return [reply for reply in usable if reply is not None]

    def _admit(self, owed: _Owed, reply: Message, weighted_by: str | None) -> Message | None:
        identity = self._roster.fleet.get(owed.parcel.node_id).identity
        try:
            moved = self._moved(owed, reply, weighted_by)
        except Exception as error:  # noqa: BLE001 one client's reply: whatever is wrong with it is its own failure
            self._ledger.late(used=False)
            reason = plain(failure(error))
            log(INFO, "flserve: a late reply of %s to round %d is dropped: %s", identity, owed.server_round, reason)
            return None
        self._ledger.late(used=True)
        log(INFO, "flserve: a late reply of %s to round %d is rebased", identity, owed.server_round)
        return moved

    def _moved(self, owed: _Owed, reply: Message, weighted_by: str | None) -> Message:
        if reply.has_error():
            raise DeliveryError("it is an error")
        if self._rule == "drop":
            raise DeliveryError("late=drop")
        read, answer = self._intake.read(reply, owed.parcel)
        if answer is not None and answer.status != "ok":
            raise DeliveryError(answer.reason or "it is a refusal")
        lag = self._publisher.version.number - self._publisher.number_of(owed.parcel.target)
        base = self._publisher.base(owed.parcel.target)
        content = dict(read.content)
        for key, value in read.content.items():
            if isinstance(value, ArrayRecord):
                # Before it is moved: a tensor of another kind would come out of that as the current one.
                content[key] = rebase(rebuilt(value, base.specs, finite=False), base, self._publisher.artifact)
            elif isinstance(value, MetricRecord):
                content[key] = _lighter(value, weighted_by, staleness_weight(lag, self._exponent))
        read.content = RecordDict(content)
        return read


def _name(reply: Message) -> str:
    return reply.metadata.reply_to_message_id


def _lighter(metrics: MetricRecord, weighted_by: str | None, factor: float) -> MetricRecord:
    weight = metrics.get(weighted_by or "")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise DeliveryError(f"it has no weight {weighted_by!r} that could be made smaller")
    return MetricRecord({**metrics, str(weighted_by): float(weight) * factor})
