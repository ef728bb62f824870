"""Which handlers of a client understand deliveries: a mod may stand before some of them alone.

A greeting tells whether a client's app answers one kind of message; for other kinds nothing is known until the first
delivery. Rules:
- A reply that says nothing of its delivery, an error or an answer without the protocol, came from a handler that has
  no `versioned_mod` before it, or one in which something failed on the delivery, or one that fails anyway.
- Until one delivery of its kind was understood, such a client is sent plain arrays in the same round, `TRIES` times at
  most. It gets plain arrays for good once that helped twice, or once its handler answered without the protocol.
- A handler that fails with plain arrays, too, fails by itself: that is its reply, as without flserve.
- Private tensors are never sent plain.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from logging import INFO, WARNING
from typing import final

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.common.logger import log

from flserve_app.client.traffic import array_bytes
from flserve_app.client.wire import RECORD
from flserve_app.strategy.intake import last_line
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.parcel import Parcel
from flserve_app.strategy.private_part import PrivatePart
from flserve_app.strategy.roster import Roster

TRIES = 2
RAISED = (ErrorCode.UNKNOWN, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.MOD_FAILED_PRECONDITION)
Kind = tuple[int, str]


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
        self._tries: Counter[Kind] = Counter()
        self._trying: dict[Kind, str] = {}

    def again(self, reply: Message, parcel: Parcel) -> tuple[Message, Parcel] | None:
        """Return what is to be sent again, as plain arrays; None if the reply is to be read."""
        kind = parcel.node_id, parcel.message_type
        if parcel.plan is None:
            self._tried(reply, parcel, kind)
            return None
        if reply.has_content() and RECORD in reply.content:
            self._understood.add(kind)
            return None
        if reply.has_error() and reply.error.code not in RAISED:
            return None  # nobody read it: it says nothing of the handler
        if kind in self._understood or self._private.key or self._tries[kind] >= TRIES:
            return None
        self._tries[kind] += 1
        why = last_line(str(reply.error.reason or "")) if reply.has_error() else ""
        self._trying[kind] = why
        self._ledger.sent("up", payload=0, message=array_bytes(reply), full=0)
        log(
            INFO, "flserve: %s is served again with plain arrays: %s", parcel.identity, why or "no word of the delivery"
        )
        return parcel.message(), replace(parcel, plan=None, delivers=False, tries=parcel.tries + 1)

    def _tried(self, reply: Message, parcel: Parcel, kind: Kind) -> None:
        """Note whether plain arrays helped."""
        why = self._trying.pop(kind, None)
        if why is None or not reply.has_content() or (why and self._tries[kind] < TRIES):
            return
        self._roster.deliver_no_more(*kind)
        log(
            WARNING,
            "flserve: %s gets plain arrays with %s messages: its handler has no versioned_mod before it, or something "
            "fails there on a delivery%s",
            parcel.identity,
            parcel.message_type,
            f": {why}" if why else "",
        )
