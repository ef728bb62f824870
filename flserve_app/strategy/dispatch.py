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
from flserve_app.codec.lossy import Lossy
from flserve_app.delivery import Plan, Step
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.message_size import message_bytes
from flserve_app.strategy.parcel import Parcel, model_key, open_message
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.roster import Roster

Shared = dict[Step, Array]


@final
class Dispatch:
    """Turns what the strategy wrote into deliveries, and counts them.

    Args:
        publisher: Where plans and payloads come from.
        ledger: Where bytes and seconds are counted.
        roster: Knows the clients.
        uplink: Codec name for the clients' updates, an exact one.
        rounds: How they are rounded before; None if they are not.
    """

    def __init__(
        self, publisher: Publisher, ledger: Ledger, roster: Roster, uplink: str, rounds: Lossy | None = None
    ) -> None:
        self._publisher = publisher
        self._ledger = ledger
        self._roster = roster
        self._uplink = uplink
        self._rounds = rounds

    def parcel(self, message: Message) -> Parcel:
        """Return a strategy's message with what it delivers."""
        parcel = open_message(message)
        key = model_key(message)
        client = self._roster.fleet.get(parcel.node_id)
        if key is None:
            return parcel
        artifact = self._publisher.artifact_of(parcel.content.array_records[key])
        return replace(parcel, arrays=key, target=artifact.digest, delivers=client.versioned)

    def address(self, message: Message, parcel: Parcel, shared: Shared) -> Parcel:
        """Write the parcel's delivery into its message, and count it; return the parcel with its plan."""
        if parcel.delivers:
            plan, payloads = self._planned(parcel)
            arrays = tuple(shared.setdefault(step, payload_array(data)) for step, data in payloads.items())
            recipe = self._recipe(plan)
            content = RecordDict({key: value for key, value in parcel.content.items() if key != parcel.arrays})
            put_delivery(content, self._delivery(parcel, arrays, recipe))
            message.content = content
            self._count(message, parcel, plan.kind, sum(map(len, payloads.values())) + len(recipe))
            return replace(parcel, plan=plan)
        if parcel.arrays:
            self._count(message, parcel, "plain", _npy_bytes(parcel.content.array_records[parcel.arrays]))
        return parcel

    def _planned(self, parcel: Parcel) -> tuple[Plan, dict[Step, bytes]]:
        """Return the plan and its payloads: the whole artifact for a client that could not follow."""
        started = time.perf_counter()
        client = self._roster.fleet.get(parcel.node_id)
        if parcel.tries:
            planned = self._publisher.whole(parcel.target)
        else:
            planned = self._publisher.deliver(client.held, parcel.target, client.takes)
        self._ledger.spent("encode", time.perf_counter() - started)
        return planned

    def _recipe(self, plan: Plan) -> str:
        recipe = self._publisher.recipe
        return "" if plan.kind != "recipe" or recipe is None else recipe.to_json()

    def _count(self, message: Message, parcel: Parcel, kind: str, payload: int) -> None:
        full = _npy_bytes(parcel.content.array_records[parcel.arrays])
        self._ledger.planned("resend" if parcel.tries else kind)
        self._ledger.sent("down", payload=payload, message=message_bytes(message), full=0 if parcel.tries else full)

    def _delivery(self, parcel: Parcel, arrays: tuple[Array, ...], recipe: str) -> Delivery:
        return Delivery(
            action="deliver",
            model=self._publisher.model,
            version=self._publisher.number_of(parcel.target),
            target=parcel.target,
            arrays=parcel.arrays,
            uplink=self._uplink,
            payloads=arrays,
            recipe=recipe,
            rounding=self._rounding(parcel),
        )

    def _rounding(self, parcel: Parcel) -> str:
        if self._rounds is None or parcel.message_type.split(".")[0] != "train":
            return ""
        return self._rounds.at(self._roster.server_round).to_json()


def _npy_bytes(record: ArrayRecord) -> int:
    return sum(map(serialised_bytes, record.values()))
