"""Writing deliveries: a strategy's messages to what is sent in their place.

Rules:
- Every message gets content of its own, because Flower's strategies give all messages the same object.
- Clients without the delivery protocol get plain arrays, as without flserve.
- A payload that several messages of a batch carry is one Array, so that Flower uploads it once.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import final

from flwr.app import Array, ArrayRecord, Message, RecordDict

from flserve_app.client.tensor_array import serialised_bytes
from flserve_app.client.wire import Delivery, payload_array, put_delivery
from flserve_app.delivery import PayloadKey, Plan
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.message_size import message_bytes
from flserve_app.strategy.parcel import Parcel, model_key, open_message
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.roster import Roster

Shared = dict[PayloadKey, Array]


@final
class Dispatch:
    """Turns what the strategy wrote into deliveries, and counts them.

    Args:
        publisher: Where plans and payloads come from.
        ledger: Where bytes and seconds are counted.
        roster: Knows the clients.
        uplink: Codec name for the clients' updates.
    """

    def __init__(self, publisher: Publisher, ledger: Ledger, roster: Roster, uplink: str) -> None:
        self._publisher = publisher
        self._ledger = ledger
        self._roster = roster
        self._uplink = uplink

    def parcel(self, message: Message) -> Parcel:
        """Return a strategy's message with the plan for its delivery."""
        parcel = open_message(message)
        key = model_key(message)
        client = self._roster.fleet.get(parcel.node_id)
        if key is None:
            return parcel
        artifact = self._publisher.artifact_of(parcel.content.array_records[key])
        if not client.versioned:
            return replace(parcel, arrays=key, target=artifact.digest)
        plan = self._publisher.plan(client.held, artifact.digest)
        return replace(parcel, arrays=key, target=artifact.digest, plan=plan)

    def address(self, message: Message, parcel: Parcel, shared: Shared) -> Parcel:
        """Write the parcel's delivery into its message, and count it."""
        if parcel.plan is not None:
            plan, payload = self._payload(parcel.plan, shared)
            content = RecordDict({key: value for key, value in parcel.content.items() if key != parcel.arrays})
            put_delivery(content, self._delivery(parcel, payload))
            message.content = content
            self._count(message, parcel, plan.kind, 0 if payload is None else len(payload.data))
        elif parcel.arrays:
            self._count(message, parcel, "plain", _npy_bytes(parcel.content.array_records[parcel.arrays]))
        return parcel

    def _count(self, message: Message, parcel: Parcel, kind: str, payload: int) -> None:
        full = _npy_bytes(parcel.content.array_records[parcel.arrays])
        self._ledger.planned("resend" if parcel.tries else kind)
        self._ledger.sent("down", payload=payload, message=message_bytes(message), full=0 if parcel.tries else full)

    def _payload(self, plan: Plan, shared: Shared) -> tuple[Plan, Array | None]:
        if plan.kind == "none":
            return plan, None
        started = time.perf_counter()
        plan, payload = self._publisher.payload(plan)
        self._ledger.spent("encode", time.perf_counter() - started)
        if plan.key not in shared:
            shared[plan.key] = payload_array(payload)
        return plan, shared[plan.key]

    def _delivery(self, parcel: Parcel, payload: Array | None) -> Delivery:
        return Delivery(
            action="deliver",
            model=self._publisher.model,
            version=self._publisher.number_of(parcel.target),
            target=parcel.target,
            arrays=parcel.arrays,
            uplink=self._uplink,
            payload=payload,
        )


def _npy_bytes(record: ArrayRecord) -> int:
    return sum(map(serialised_bytes, record.values()))
