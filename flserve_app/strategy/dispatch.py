"""Writing deliveries: a strategy's messages to what is sent in their place.

Rules:
- Every message gets content of its own, because Flower's strategies give all messages the same object.
- Clients without the delivery protocol get plain arrays, as without flserve; and so do those that have not said yet
  whether they know it.
- What a client is brought from is what was delivered to it, see `roster`.
- A payload that several messages of a batch carry is one Array, so that Flower uploads it once.
- Further ArrayRecords of a message (control variates, prototypes) are counted; how they travel is `beside`'s.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import final

from flwr.app import Array, ArrayRecord, Message, RecordDict

from flserve_app.client.tensor_array import serialised_bytes
from flserve_app.client.wire import Delivery, payload_array, put_delivery
from flserve_app.codec.dither import dither_key
from flserve_app.codec.lossy import Lossy
from flserve_app.delivery import Plan, Step
from flserve_app.fleet import PRIVATE
from flserve_app.strategy.beside import BesideRecords
from flserve_app.strategy.late import LateReplies
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.message_size import message_bytes
from flserve_app.strategy.parcel import Parcel, model_key, open_message
from flserve_app.strategy.private_part import PrivatePart
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.roster import Roster
from flserve_app.strategy.settlements import Settlements

Shared = dict[Step, Array]


@final
class Dispatch:
    """Turns what the strategy wrote into deliveries, and counts them.

    Args:
        publisher: Where plans and payloads come from.
        ledger: Where bytes and seconds are counted.
        roster: Knows the clients.
        uplink: Codec name for the clients' updates, an exact one.
        late: Knows which updates may still come.
        settlements: Knows which were aggregated.
        rounds: How they are rounded before; None if they are not.
        seed: Of the dither they are rounded with; None for another one in each run.
        private: What of the model stays with the clients.
    """

    def __init__(
        self,
        publisher: Publisher,
        ledger: Ledger,
        roster: Roster,
        uplink: str,
        *,
        late: LateReplies,
        settlements: Settlements,
        rounds: Lossy | None = None,
        seed: int | None = 0,
        private: PrivatePart,
    ) -> None:
        self._private = private
        self._model_key = "arrays"
        self._late = late
        self._settlements = settlements
        self._seed = secrets.randbits(63) if seed is None else seed
        self._publisher = publisher
        self._ledger = ledger
        self._roster = roster
        self._uplink = uplink
        self._rounds = rounds
        self._beside = BesideRecords(publisher)

    def parcel(self, message: Message) -> Parcel:
        """Return a strategy's message with what it delivers."""
        parcel = open_message(message)
        key = model_key(message, self._publisher.record, self._model_key)
        client = self._roster.fleet.get(parcel.node_id)
        parcel = replace(parcel, identity=client.identity)
        if key is None:
            return parcel
        self._model_key = key
        artifact = self._publisher.artifact_of(parcel.content.array_records[key])
        delivers = self._roster.delivers(parcel.node_id, parcel.message_type)
        return replace(parcel, arrays=key, target=artifact.digest, delivers=delivers)

    def beside(self, waiting: list[tuple[Message, Parcel]]) -> list[tuple[Message, Parcel]]:
        """Return the messages of an exchange with the further records that they have in common."""
        delivering = [parcel for _, parcel in waiting if parcel.delivers]
        common = self._beside.common(delivering, self._roster.server_round)
        return [(message, replace(parcel, beside=common) if parcel.delivers else parcel) for message, parcel in waiting]

    def followed(self, parcel: Parcel) -> None:
        """Note that a client followed what it was given."""
        self._settlements.told(parcel.identity, parcel.settled)
        self._beside.took(parcel)

    def address(self, message: Message, parcel: Parcel, shared: Shared) -> Parcel:
        """Write the parcel's delivery into its message, and count it; return the parcel with its plan."""
        if parcel.delivers:
            plan, payloads = self._planned(parcel)
            arrays = tuple(shared.setdefault(step, payload_array(data)) for step, data in payloads.items())
            recipe = self._recipe(plan)
            content = RecordDict({key: value for key, value in parcel.content.items() if key != parcel.arrays})
            delivery = self._settling(parcel, self._delivery(parcel, arrays, recipe))
            client = self._roster.fleet.get(parcel.node_id)
            delivery, extra = self._private.told(delivery, client, again=parcel.tries > 0)
            put_delivery(content, delivery)
            beside, given = self._beside.put(content, parcel, client, shared)
            self._roster.gave(parcel.node_id, parcel.target)
            message.content = content
            self._count(message, parcel, plan.kind, sum(map(len, payloads.values())) + len(recipe) + extra, beside)
            return replace(parcel, plan=plan, settled=delivery.settled, given_beside=given)
        if parcel.arrays:
            self._count(message, parcel, "plain", _npy_bytes(parcel.content.array_records[parcel.arrays]), {})
        return parcel

    def _planned(self, parcel: Parcel) -> tuple[Plan, dict[Step, bytes]]:
        """Return the plan and its payloads: the whole artifact for a client that could not follow."""
        started = time.perf_counter()
        client = self._roster.fleet.get(parcel.node_id)
        if parcel.tries:
            planned = self._publisher.whole(parcel.target)
        else:
            bases = self._roster.bases(parcel.node_id, parcel.target)
            planned = self._publisher.deliver(bases, parcel.target, client.takes)
        self._ledger.spent("encode", time.perf_counter() - started)
        return planned

    def _recipe(self, plan: Plan) -> str:
        recipe = self._publisher.recipe
        return "" if plan.kind != "recipe" or recipe is None else recipe.to_json()

    def _count(self, message: Message, parcel: Parcel, kind: str, payload: int, beside: dict[str, int]) -> None:
        sizes = {key: _npy_bytes(record) for key, record in parcel.content.array_records.items()}
        full = sum(sizes.values())
        self._ledger.planned("resend" if parcel.tries else kind)
        self._ledger.sent(
            "down",
            payload=payload + sum((sizes | beside).values()) - sizes[parcel.arrays],
            message=message_bytes(message),
            full=0 if parcel.tries else full,
        )

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
            federation=self._publisher.federation.name,
        )

    def _rounding(self, parcel: Parcel) -> str:
        if self._rounds is None or parcel.message_type.split(".")[0] != "train":
            return ""
        number = self._roster.server_round
        client = self._roster.fleet.get(parcel.node_id)
        if self._rounds.roles.rules and PRIVATE not in client.takes:
            return ""  # of a release that knows no roles: it would round what is to stay exact
        return self._rounds.at(number, dither_key(self._seed, number, client.identity)).to_json()

    def _settling(self, parcel: Parcel, delivery: Delivery) -> Delivery:
        """Return a delivery with what the client has to know of its earlier updates, if it keeps anything of them."""
        if self._rounds is None or not self._settlements.active:
            return delivery
        claimed = self._roster.claimed(parcel.node_id)
        return replace(
            delivery,
            feedback=self._rounds.feedback.to_json(),
            settled=self._settlements.untold(parcel.identity),
            owed=self._late.owes(parcel.node_id, self._roster.server_round),
            # Who says nothing lost its version, and what it carries goes by the history's name.
            afresh=bool(claimed) and not any(map(self._publisher.leads_to_current, claimed)),
        )


def _npy_bytes(record: ArrayRecord) -> int:
    return sum(map(serialised_bytes, record.values()))
