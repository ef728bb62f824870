"""The delivery protocol: what server and client say to each other inside Flower's messages.

Rules:
- A train or evaluate message of the server carries a ConfigRecord `flserve` (a `Delivery`) in place of its
  ArrayRecord, and the payloads, if the client needs any, as the Arrays of the ArrayRecord `flserve.payload`
  (`payload`, `payload.1`, ... in the order they apply in; `start` beside them is what private tensors begin with),
  or, to who can read them there, in the ConfigRecord (`carried`).
  All other records are the app's own and pass untouched, but for those that `beside` delivers.
- A reply carries a ConfigRecord `flserve` (an `Answer`); a train reply's ArrayRecord travels as a payload
  relative to the version the client was given.
- A client that cannot follow answers with status `nack` and a reason, in an ordinary reply: it never
  raises, so a fault of delivery is never mistaken for a crash of the app.
- `action` "hello" asks who is there: it has no arrays, and the app's handler is not called.
- The answer to "hello" says what the client can take (`fleet.Client.takes`): it is never sent anything else.
- Both sides state `PROTOCOL`; a client answers another number with a nack. Unknown keys are ignored, so
  that later versions may add some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from flserve_app.client.carried import MAX_PAYLOADS as MAX_PAYLOADS
from flserve_app.client.carried import PAYLOAD as PAYLOAD
from flserve_app.client.carried import PAYLOAD_STYPE as PAYLOAD_STYPE
from flserve_app.client.carried import START, payloads_of
from flserve_app.client.carried import payload_array as payload_array
from flserve_app.client.carried import payload_key as payload_key
from flserve_app.client.fields import (
    MAX_CAPABILITIES,
    MAX_HELD,
    read_capabilities,
    read_digest,
    read_digests,
    read_flag,
    read_identity,
    read_integer,
    read_seconds,
    read_share,
    read_text,
)
from flserve_app.client.fields import RECORD as RECORD
from flserve_app.errors import DeliveryError
from flserve_app.text import plain

PROTOCOL = 1
MAX_REASON = 400
_ALWAYS = ("protocol", "action", "model", "version", "arrays", "uplink")
MAX_HALVINGS = 64

Action = Literal["hello", "deliver"]
Status = Literal["hello", "ok", "nack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What the server asks a client to hold and work with.

    Attributes:
        action: `deliver`, or `hello`, which only asks for the client's identity and held versions.
        model: Name the versions are published under.
        version: Number of the version to hold; -1 if it is not a published one.
        target: Hex digest of its artifact.
        arrays: Key under which the app's handler expects the ArrayRecord.
        place: Place of that ArrayRecord among the message's records.
        uplink: Codec name for the update that comes back; an exact one.
        rounding: JSON of how the update is rounded before it is encoded; empty if it is not.
        feedback: JSON of how much of what rounding leaves out is carried on; empty if nothing is.
        settled: Hex digests of what the client's last updates led to, those that were aggregated since it was told.
        owed: Whether the server may still use an update that it does not name.
        afresh: Whether the client is to forget what was left out before: it belongs to another history.
        private: Key of the layout of the tensors that never travel; empty if there are none. A hello that names it asks
            whether the client keeps them.
        start: That layout, and with it the initial values unless they are the recipe's; None for who has both.
        payloads: What leads to the target, each relative to what the one before leads to; none if the client
            holds it already.
        recipe: JSON of a recipe to start from; empty if there is none.
        base: For a hello, hex digest of an artifact the client may hold under another name; empty for none.
        federation: Hex name of the history that the versions are of: what a client holds of a model is told to this
            history only, and used by it only; empty for a server that does not know of it.
        allows: What the reply may be that servers before could not read: `tied` (an update in which a tensor refers to
            an earlier one), `plain` (where that takes fewer bytes, an update inline, or as without flserve).
    """

    action: Action
    model: str
    version: int = -1
    target: str = ""
    arrays: str = "arrays"
    place: int = 0
    uplink: str = "lossless"
    payloads: tuple[Array, ...] = ()
    recipe: str = ""
    base: str = ""
    rounding: str = ""
    feedback: str = ""
    settled: tuple[str, ...] = ()
    owed: bool = False
    afresh: bool = False
    private: str = ""
    start: Array | None = None
    federation: str = ""
    allows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client says about itself and about the delivery it got.

    Attributes:
        status: `ok`, `nack` or `hello`.
        identity: The client's stable name.
        partitions: Number of partitions the client's node knows of; 0 if it knows none.
        held: Hex digests of the versions it holds, at most `MAX_HELD`.
        capabilities: For a hello, what it can be sent beside what all releases can take.
        reason: For a nack, why, in one line.
        private: Key of the layout of the private tensors it keeps of the model; empty if it keeps none.
        base: Digest the update is relative to; empty if the update is not relative to anything.
        arrays: Key of the ArrayRecord that was replaced by the payload; empty if there was none.
        payload: The encoded update, or None.
        place: Place of that ArrayRecord among the reply's records.
        fetch_seconds: Time to decode, verify and install.
        train_seconds: Time the app's handler took.
        encode_seconds: Time to encode the update.
        lost: Share of the update that rounding left out, in squares; 0 where it is not rounded.
        halvings: How often its steps were halved, for they were too coarse (`codec.finer`).
    """

    status: Status
    identity: str
    partitions: int = 0
    held: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    reason: str = ""
    private: str = ""
    base: str = ""
    arrays: str = ""
    payload: Array | None = None
    place: int = 0
    fetch_seconds: float = 0.0
    train_seconds: float = 0.0
    encode_seconds: float = 0.0
    lost: float = 0.0
    halvings: int = 0


def put_delivery(content: RecordDict, delivery: Delivery) -> None:
    """Write a delivery into a message's content."""
    record: dict[str, str | int | bytes | list[bytes] | list[str]] = {
        "protocol": PROTOCOL,
        "action": delivery.action,
        "model": delivery.model,
        "version": delivery.version,
        "target": bytes.fromhex(delivery.target),
        "arrays": delivery.arrays,
        "place": delivery.place,
        "uplink": delivery.uplink,
        "recipe": delivery.recipe,
        "base": bytes.fromhex(delivery.base),
        "rounding": delivery.rounding,
        "feedback": delivery.feedback,
        "settled": [bytes.fromhex(digest) for digest in delivery.settled[-MAX_HELD:]],
        "owed": delivery.owed,
        "afresh": delivery.afresh,
        "private": bytes.fromhex(delivery.private),
        "federation": bytes.fromhex(delivery.federation),
        "allows": list(delivery.allows),
    }
    # A client that cannot take these does not get them; without them, a delivery is what it always was. A greeting has
    # no target: Flower's mods that log sizes fail on an empty value, and one in front would fail the greeting.
    told = {key: value for key, value in record.items() if value or key in _ALWAYS}
    _put(content, told, delivery.payloads, delivery.start)


def take_delivery(content: RecordDict) -> Delivery | None:
    """Remove a delivery from a message's content and return it; None if there is none.

    Raises:
        DeliveryError: If the record is not what this protocol version writes.
    """
    record, payloads, start = _take(content)
    if record is None:
        return None
    action = read_text(record, "action")
    if action not in ("hello", "deliver"):
        raise DeliveryError(f"delivery: action is {action!r}, expected 'hello' or 'deliver'")
    return Delivery(
        action=cast(Action, action),
        model=read_text(record, "model"),
        version=read_integer(record, "version"),
        target=read_digest(record, "target"),
        arrays=read_text(record, "arrays"),
        place=max(0, read_integer(record, "place")),
        uplink=read_text(record, "uplink"),
        payloads=payloads,
        recipe=read_text(record, "recipe"),
        base=read_digest(record, "base"),
        rounding=read_text(record, "rounding"),
        feedback=read_text(record, "feedback"),
        settled=read_digests(record, "settled"),
        owed=read_flag(record, "owed"),
        afresh=read_flag(record, "afresh"),
        private=read_digest(record, "private"),
        start=start,
        federation=read_digest(record, "federation"),
        allows=read_capabilities(record, "allows"),
    )


def put_answer(content: RecordDict, answer: Answer) -> None:
    """Write an answer into a reply's content."""
    record: dict[str, str | int | float | bytes | list[bytes] | list[str]] = {
        "protocol": PROTOCOL,
        "status": answer.status,
        "identity": answer.identity,
        "partitions": answer.partitions,
        "held": [bytes.fromhex(digest) for digest in answer.held[:MAX_HELD]],
        "takes": list(answer.capabilities[:MAX_CAPABILITIES]),
        "reason": answer.reason[:MAX_REASON],
        "private": bytes.fromhex(answer.private),
        "base": bytes.fromhex(answer.base),
        "arrays": answer.arrays,
        "place": answer.place,
        "fetch_s": answer.fetch_seconds,
        "train_s": answer.train_seconds,
        "encode_s": answer.encode_seconds,
        "lost": answer.lost,
        "halvings": answer.halvings,
    }
    told = {key: value for key, value in record.items() if value not in ("", b"", [], 0.0)}
    _put(content, told, () if answer.payload is None else (answer.payload,))


def take_answer(content: RecordDict) -> Answer | None:
    """Remove an answer from a reply's content and return it; None if there is none.

    Raises:
        DeliveryError: If the record is not what this protocol version writes.
    """
    record, payloads, _ = _take(content)
    if record is None:
        return None
    if len(payloads) > 1:
        raise DeliveryError(f"answer: {len(payloads)} payloads, expected at most 1")
    status = read_text(record, "status")
    if status not in ("hello", "ok", "nack"):
        raise DeliveryError(f"answer: status is {status!r}, expected 'hello', 'ok' or 'nack'")
    return Answer(
        status=cast(Status, status),
        identity=read_identity(record, "identity"),
        partitions=read_integer(record, "partitions"),
        held=read_digests(record, "held"),
        capabilities=read_capabilities(record, "takes"),
        reason=plain(read_text(record, "reason"), MAX_REASON),
        private=read_digest(record, "private"),
        base=read_digest(record, "base"),
        arrays=read_text(record, "arrays"),
        payload=payloads[0] if payloads else None,
        place=max(0, read_integer(record, "place")),
        fetch_seconds=read_seconds(record, "fetch_s"),
        train_seconds=read_seconds(record, "train_s"),
        encode_seconds=read_seconds(record, "encode_s"),
        lost=read_share(record, "lost"),
        halvings=min(MAX_HALVINGS, max(0, read_integer(record, "halvings"))),
    )


def _put(
    content: RecordDict, record: Mapping[str, object], payloads: Sequence[Array], start: Array | None = None
) -> None:
    content[RECORD] = ConfigRecord(dict(record))  # type: ignore[arg-type]
    carried = {payload_key(at): payload for at, payload in enumerate(payloads)}
    if carried or start is not None:
        content[PAYLOAD] = ArrayRecord(carried if start is None else {**carried, START: start})


def _take(content: RecordDict) -> tuple[ConfigRecord | None, tuple[Array, ...], Array | None]:
    record = content.pop(RECORD, None)
    carried = content.pop(PAYLOAD, None)
    if record is None:
        return None, (), None
    if not isinstance(record, ConfigRecord):
        raise DeliveryError(f"record {RECORD!r} is a {type(record).__name__}, expected a ConfigRecord")
    if record.get("protocol") != PROTOCOL:
        raise DeliveryError(f"delivery protocol is {record.get('protocol')!r}, expected {PROTOCOL}")
    return record, *payloads_of(record, carried)
