"""Writing deliveries: a strategy's messages to what is sent in their place.

Rules:
- Every message gets content of its own, because Flower's strategies give all messages the same object.
- Clients without the delivery protocol get plain arrays, as without flserve; and so do those that have not said yet
  whether they know it.
- What a client is brought from is what was delivered to it, see `roster`.
- A message that would take more bytes with its delivery than without has its payload inline (`carried`) or, if that
  does not help, goes without (`whole_models`); not where the model has private tensors, which the strategy never had.
- A payload that several messages of a batch carry is one Array, so that Flower uploads it once.
- Further ArrayRecords of a message (control variates, prototypes) are counted; how they travel is `beside`'s.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import final

from flwr.app import Array, Message, RecordDict

from flserve_app.client.carried import inlined
from flserve_app.client.object_size import NOTHING, record_bytes
from flserve_app.client.wire import Delivery, payload_array, put_delivery
from flserve_app.codec.dither import dither_key
from flserve_app.codec.lossy import Lossy
from flserve_app.delivery import Plan, Step
from flserve_app.fleet import INLINE, PLAIN, PRIVATE, TIED
from flserve_app.strategy.beside import BesideRecords
from flserve_app.strategy.late import LateReplies
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.message_size import message_bytes
from flserve_app.strategy.parcel import Parcel, model_key, open_message
from flserve_app.strategy.private_part import PrivatePart
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.roster import Roster
from flserve_app.strategy.settlements import Settlements
from flserve_app.strategy.whole_models import ANSWER_BYTES, MOST_TINY, WholeModels, costs_more

Shared = dict[tuple[Step, bool], Array]


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
        self._whole = WholeModels()

    def parcel(self, message: Message) -> Parcel:
        """Return a strategy's message with what it delivers."""
        parcel = open_message(message)
        key = model_key(message, self._publisher.record, self._model_key)
        client = self._roster.fleet.get(parcel.node_id)
        parcel = replace(parcel, identity=client.identity)
        if key is None:
            return parcel
        self._model_key = key
        record = parcel.content.array_records[key]
        artifact = self._publisher.artifact_of(record)
        whole = self._whole.measured(record, artifact)
        delivers = self._roster.delivers(parcel.node_id, parcel.message_type)
        return replace(
            parcel, arrays=key, target=artifact.digest, full=whole.nbytes, tied=whole.tied, delivers=delivers
        )

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
        if not parcel.arrays:
            return parcel
        sent = self._delivered(message, parcel, shared) if parcel.delivers else None
        if sent is not None:
            return sent
        message.content = parcel.content
        self._count(message, parcel, "plain", parcel.full)
        return replace(parcel, implied=() if parcel.delivers else None)

    def _delivered(self, message: Message, parcel: Parcel, shared: Shared) -> Parcel | None:
        """Write a delivery into a message; None where the message takes less without it."""
        plan, payloads = self._planned(parcel)
        client = self._roster.fleet.get(parcel.node_id)
        # Those who know no ties get other bytes for the same step.
        keys = [(step, TIED in client.takes) for step in payloads]
        arrays = tuple(shared.setdefault(key, payload_array(payloads[key[0]])) for key in keys)
        recipe = self._recipe(plan)
        content = RecordDict({key: value for key, value in parcel.content.items() if key != parcel.arrays})
        delivery = self._settling(parcel, self._delivery(parcel, arrays, recipe))
        delivery, extra = self._private.told(delivery, client, again=parcel.tries > 0)
        put_delivery(content, delivery)
        nbytes = sum(map(len, payloads.values())) + len(recipe) + extra
        lean = self._may_be_silent(parcel) and parcel.message_type.split(".")[0] != "train"
        if lean and costs_more(content, parcel, len(arrays), nbytes, ANSWER_BYTES):
            delivery = replace(delivery, allows=(*delivery.allows, PLAIN))
            put_delivery(content, delivery)
        if not delivery.private and costs_more(content, parcel, len(arrays), nbytes):
            small = inlined(content) if INLINE in client.takes else None
            if small is None or costs_more(small, parcel, len(arrays), nbytes):
                return None
            content = small
        beside, given = self._beside.put(content, parcel, client, shared)
        message.content = content
        self._roster.gave(parcel.node_id, parcel.target)
        self._count(message, parcel, plan.kind, nbytes, beside)
        implied = (parcel.target,) if PLAIN in delivery.allows else None
        return replace(parcel, plan=plan, settled=delivery.settled, implied=implied, given_beside=given)

    def _planned(self, parcel: Parcel) -> tuple[Plan, dict[Step, bytes]]:
        """Return the plan and its payloads: the whole artifact for a client that could not follow."""
        started = time.perf_counter()
        client = self._roster.fleet.get(parcel.node_id)
        if parcel.tries:
            planned = self._publisher.whole(parcel.target, client.takes)
        else:
            bases = self._roster.bases(parcel.node_id, parcel.target)
            planned = self._publisher.deliver(bases, parcel.target, client.takes)
        self._ledger.spent("encode", time.perf_counter() - started)
        return planned

    def _recipe(self, plan: Plan) -> str:
        recipe = self._publisher.recipe
        return "" if plan.kind != "recipe" or recipe is None else recipe.to_json()

    def _count(
        self, message: Message, parcel: Parcel, kind: str, payload: int, beside: Mapping[str, int] = NOTHING
    ) -> None:
        records = parcel.content.array_records
        further = {key: record_bytes(record) for key, record in records.items() if key != parcel.arrays}
        self._ledger.planned("resend" if parcel.tries else kind)
        self._ledger.sent(
            "down",
            payload=payload + sum((further | dict(beside)).values()),
            message=message_bytes(message),
            full=0 if parcel.tries else parcel.full + sum(further.values()),
        )

    def _delivery(self, parcel: Parcel, arrays: tuple[Array, ...], recipe: str) -> Delivery:
        return Delivery(
            action="deliver",
            model=self._publisher.model,
            version=self._publisher.number_of(parcel.target),
            target=parcel.target,
            arrays=parcel.arrays,
            place=list(parcel.content).index(parcel.arrays),
            uplink=self._uplink,
            payloads=arrays,
            recipe=recipe,
            rounding=self._rounding(parcel),
            federation=self._publisher.federation.name,
            allows=self._allowed(parcel),
        )

    def _allowed(self, parcel: Parcel) -> tuple[str, ...]:
        # Said only where it matters: it costs bytes itself. Of a reply without arrays it is said by `_delivered`.
        train = parcel.message_type.split(".")[0] == "train"
        tiny = train and parcel.full <= MOST_TINY and self._may_be_silent(parcel)
        return (*((TIED,) if parcel.tied else ()), *((PLAIN,) if tiny else ()))

    def _may_be_silent(self, parcel: Parcel) -> bool:
        """Whether a reply without an answer says that the client followed: it is known to be able to answer."""
        return not self._private.key and self._roster.spoken.has_mod((parcel.node_id, parcel.message_type))

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
