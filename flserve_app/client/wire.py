"""The delivery protocol: what server and client say to each other inside Flower's messages.

Rules:
- A train or evaluate message of the server carries a ConfigRecord `flserve` (a `Delivery`) in place of its
  ArrayRecord, and the payload, if the client needs one, as the only Array of the ArrayRecord
  `flserve.payload`. All other records are the app's own and pass untouched.
- A reply carries a ConfigRecord `flserve` (an `Answer`); a train reply's ArrayRecord travels as a payload
  relative to the version the client was given.
- A client that cannot follow answers with status `nack` and a reason, in an ordinary reply: it never
  raises, so a fault of delivery is never mistaken for a crash of the app.
- `action` "hello" asks who is there: it has no arrays, and the app's handler is not called.
- Both sides state `PROTOCOL`; a client answers another number with a nack. Unknown keys are ignored, so
  that later versions may add some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from flserve_app.errors import DeliveryError

PROTOCOL = 1
RECORD = "flserve"
PAYLOAD = "flserve.payload"
PAYLOAD_STYPE = "flserve.payload"
MAX_REASON = 400
MAX_HELD = 64
_IDENTITY = re.compile(r"[A-Za-z0-9_.-]{1,128}")

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
        uplink: Codec name for the update that comes back.
        payload: Bytes that lead to the target; None if the client holds it already.
    """

    action: Action
    model: str
    version: int = -1
    target: str = ""
    arrays: str = "arrays"
    uplink: str = "lossless"
    payload: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client says about itself and about the delivery it got.

    Attributes:
        status: `ok`, `nack` or `hello`.
        identity: The client's stable name.
        partitions: Number of partitions the client's node knows of; 0 if it knows none.
        held: Hex digests of the versions it holds, at most `MAX_HELD`.
        reason: For a nack, why, in one line.
        base: Digest the update is relative to; empty if the update is not relative to anything.
        arrays: Key of the ArrayRecord that was replaced by the payload; empty if there was none.
        payload: The encoded update, or None.
        fetch_seconds: Time to decode, verify and install.
        train_seconds: Time the app's handler took.
        encode_seconds: Time to encode the update.
    """

    status: Status
    identity: str
    partitions: int = 0
    held: tuple[str, ...] = ()
    reason: str = ""
    base: str = ""
    arrays: str = ""
    payload: Array | None = None
    fetch_seconds: float = 0.0
    train_seconds: float = 0.0
    encode_seconds: float = 0.0


def payload_array(payload: bytes) -> Array:
    """Wrap payload bytes as an Array that Flower carries and shares by content."""
    return Array("uint8", (len(payload),), PAYLOAD_STYPE, payload)


def put_delivery(content: RecordDict, delivery: Delivery) -> None:
    """Write a delivery into a message's content."""
    record: dict[str, str | int | bytes] = {
        "protocol": PROTOCOL,
        "action": delivery.action,
        "model": delivery.model,
        "version": delivery.version,
        "target": bytes.fromhex(delivery.target),
        "arrays": delivery.arrays,
        "uplink": delivery.uplink,
    }
    _put(content, record, delivery.payload)


def take_delivery(content: RecordDict) -> Delivery | None:
    """Remove a delivery from a message's content and return it; None if there is none.

    Raises:
        DeliveryError: If the record is not what this protocol version writes.
    """
    record, payload = _take(content)
    if record is None:
        return None
    action = _text(record, "action")
    if action not in ("hello", "deliver"):
        raise DeliveryError(f"delivery: action is {action!r}, expected 'hello' or 'deliver'")
    return Delivery(
        action=cast(Action, action),
        model=_text(record, "model"),
        version=_integer(record, "version"),
        target=_digest(record, "target"),
        arrays=_text(record, "arrays"),
        uplink=_text(record, "uplink"),
        payload=payload,
    )


def put_answer(content: RecordDict, answer: Answer) -> None:
    """Write an answer into a reply's content."""
    record: dict[str, str | int | float | bytes | list[bytes]] = {
        "protocol": PROTOCOL,
        "status": answer.status,
        "identity": answer.identity,
        "partitions": answer.partitions,
        "held": [bytes.fromhex(digest) for digest in answer.held[:MAX_HELD]],
        "reason": answer.reason[:MAX_REASON],
        "base": bytes.fromhex(answer.base),
        "arrays": answer.arrays,
        "fetch_s": answer.fetch_seconds,
        "train_s": answer.train_seconds,
        "encode_s": answer.encode_seconds,
    }
    _put(content, {key: value for key, value in record.items() if value not in ("", b"", [], 0.0)}, answer.payload)


def take_answer(content: RecordDict) -> Answer | None:
    """Remove an answer from a reply's content and return it; None if there is none.

    Raises:
        DeliveryError: If the record is not what this protocol version writes.
    """
    record, payload = _take(content)
    if record is None:
        return None
    status = _text(record, "status")
    if status not in ("hello", "ok", "nack"):
        raise DeliveryError(f"answer: status is {status!r}, expected 'hello', 'ok' or 'nack'")
    return Answer(
        status=cast(Status, status),
        identity=_identity(record),
        partitions=_integer(record, "partitions"),
        held=_digests(record, "held"),
        reason=" ".join(_text(record, "reason")[:MAX_REASON].split()),
        base=_digest(record, "base"),
        arrays=_text(record, "arrays"),
        payload=payload,
        fetch_seconds=_number(record, "fetch_s"),
        train_seconds=_number(record, "train_s"),
        encode_seconds=_number(record, "encode_s"),
    )


def _put(content: RecordDict, record: Mapping[str, object], payload: Array | None) -> None:
    content[RECORD] = ConfigRecord(dict(record))  # type: ignore[arg-type]
    if payload is not None:
        content[PAYLOAD] = ArrayRecord({"payload": payload})


def _take(content: RecordDict) -> tuple[ConfigRecord | None, Array | None]:
    record = content.pop(RECORD, None)
    carried = content.pop(PAYLOAD, None)
    if record is None:
        return None, None
    if not isinstance(record, ConfigRecord):
        raise DeliveryError(f"record {RECORD!r} is a {type(record).__name__}, expected a ConfigRecord")
    if record.get("protocol") != PROTOCOL:
        raise DeliveryError(f"delivery protocol is {record.get('protocol')!r}, expected {PROTOCOL}")
    return record, _only_payload(carried)


def _only_payload(carried: object) -> Array | None:
    if carried is None:
        return None
    if not isinstance(carried, ArrayRecord) or list(carried) != ["payload"]:
        raise DeliveryError(f"record {PAYLOAD!r} is not an ArrayRecord with one array 'payload'")
    array = carried["payload"]
    if array.stype != PAYLOAD_STYPE:
        raise DeliveryError(f"payload is serialised as {array.stype!r}, expected {PAYLOAD_STYPE!r}")
    return array


def _text(record: ConfigRecord, key: str) -> str:
    value = record.get(key, "")
    if not isinstance(value, str):
        raise DeliveryError(f"record {RECORD!r}: {key} is a {type(value).__name__}, expected a str")
    return value


def _identity(record: ConfigRecord) -> str:
    value = _text(record, "identity")
    if not _IDENTITY.fullmatch(value):
        raise DeliveryError(
            f"answer: identity {value[:80]!r} is not 1 to 128 letters, digits, dots, dashes, underscores"
        )
    return value


def _integer(record: ConfigRecord, key: str) -> int:
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DeliveryError(f"record {RECORD!r}: {key} is a {type(value).__name__}, expected an int")
    return value


def _number(record: ConfigRecord, key: str) -> float:
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DeliveryError(f"record {RECORD!r}: {key} is a {type(value).__name__}, expected a number")
    return value


def _digest(record: ConfigRecord, key: str) -> str:
    value = record.get(key, b"")
    if not isinstance(value, bytes) or len(value) not in (0, 32):
        raise DeliveryError(f"record {RECORD!r}: {key} is not a digest of 32 bytes")
    return value.hex()


def _digests(record: ConfigRecord, key: str) -> tuple[str, ...]:
    values = record.get(key, [])
    if not isinstance(values, list) or len(values) > MAX_HELD:
        raise DeliveryError(f"record {RECORD!r}: {key} is not a list of at most {MAX_HELD} digests")
    if any(not isinstance(value, bytes) or len(value) != 32 for value in values):
        raise DeliveryError(f"record {RECORD!r}: {key} holds something else than digests of 32 bytes")
    return tuple(cast(bytes, value).hex() for value in values)
