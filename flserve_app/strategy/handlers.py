"""Which handlers of a client understand deliveries: a mod may stand before some of them alone.

A greeting tells whether a client's app answers one kind of message, and nothing of others; what stands before the mod
may take a greeting and fail on a delivery. Rules:
- An answer without the protocol came from a handler that has no `versioned_mod` before it, unless that is known and
  was told that it may leave out its answer: it is sent plain arrays in the same round, and from then on.
- An error may be the handler's own, which counts as without flserve: nobody is made to train twice for it. So a client
  of which no delivery of that kind was understood is greeted like the message it failed on. One that answers has failed
  by itself; one that fails on that, too, is sent plain arrays in the same round, until it answers a greeting.
- An error that no handler raised says nothing of it. Private tensors are never sent plain.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from logging import WARNING
from typing import final

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.common.logger import log

from flserve_app.client.traffic import array_bytes
from flserve_app.client.wire import RECORD
from flserve_app.strategy.intake import last_line
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.parcel import Outgoing, Parcel
from flserve_app.strategy.private_part import PrivatePart
from flserve_app.strategy.roster import Roster
from flserve_app.strategy.spoken import Kind

TIMES = 2  # greetings for a failed delivery, where none is answered
RAISED = (ErrorCode.UNKNOWN, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.MOD_FAILED_PRECONDITION)


@final
class Handlers:
    """What is known of the clients' handlers.

    Args:
        roster: Knows the clients, and is told which of their handlers get plain arrays.
        ledger: Where bytes are counted.
        private: What of the model stays with the clients.
    """

    def __init__(self, roster: Roster, ledger: Ledger, private: PrivatePart) -> None:
        self._roster = roster
        self._ledger = ledger
        self._private = private
        self._understood: set[Kind] = set()
        self._asked: Counter[Kind] = Counter()
        self._doubted: list[tuple[Message, Parcel, int]] = []

    def doubts(self, reply: Message, parcel: Parcel) -> bool:
        """Whether a reply is kept back until it is known if its handler understands deliveries: see `settle`."""
        kind = parcel.node_id, parcel.message_type
        if parcel.plan is None:
            return False
        if reply.has_content() and RECORD in reply.content:
            self._understood.add(kind)
            self._roster.spoken.meet(kind)
            return False
        if parcel.implied is not None and not reply.has_error():
            return False  # it may leave out its answer
        if kind in self._understood or self._private.key or self._asked[kind] >= TIMES:
            return False
        if reply.has_error() and reply.error.code not in RAISED:
            return False
        self._doubted.append((reply, parcel, array_bytes(reply)))
        return True

    def settle(self, timeout: float | None) -> tuple[list[Outgoing], list[Outgoing]]:
        """Return what was kept back: replies that are the handlers' own, and messages that are sent in place of others.

        Args:
            timeout: The longest to wait for answers to greetings, in seconds; None for as long as usual.
        """
        doubted, self._doubted = self._doubted, []
        failed = [parcel for reply, parcel, _ in doubted if reply.has_error()]
        self._asked.update((parcel.node_id, parcel.message_type) for parcel in failed)
        self._roster.ask([parcel.message() for parcel in failed], timeout)
        own: list[Outgoing] = []
        again: list[Outgoing] = []
        for reply, parcel, nbytes in doubted:
            kind = parcel.node_id, parcel.message_type
            if reply.has_error() and self._roster.delivers(*kind):
                own.append((reply, parcel))
                if self._roster.spoken.answered(kind):
                    self._understood.add(kind)
            else:
                again.append(self._plain(reply, parcel, nbytes))
        return own, again

    def _plain(self, reply: Message, parcel: Parcel, nbytes: int) -> Outgoing:
        """Return the message again, as plain arrays."""
        why = f": {last_line(str(reply.error.reason or ''))}" if reply.has_error() else ""
        self._ledger.sent("up", payload=0, message=nbytes, full=0)
        self._roster.spoken.fail((parcel.node_id, parcel.message_type))
        log(
            WARNING,
            "flserve: %s gets plain arrays with %s messages: its handler has no versioned_mod before it, or something "
            "fails there on a delivery%s",
            *(parcel.identity, parcel.message_type, why),
        )
        return parcel.message(), replace(parcel, plan=None, delivers=False, tries=parcel.tries + 1)
