"""Further ArrayRecords of a message (control variates, prototypes) as deliveries beside the model's.

Where a server sends one record to all clients of a round, it may send a payload relative to what the client was given
of it before. Rules:
- In the message an empty ArrayRecord keeps the record's place. The ConfigRecord `flserve.beside` says what belongs
  there: `keys`, `targets` and `versions`, one each a record; the ArrayRecord `flserve.beside.payload` has the payloads
  by the record's number in these lists, none where the client holds the target already.
- A record is held as a model of its own, `<model>.<key>`, of the same federation: decoded, verified and bounded as one.
- Only who says that it can take that (`fleet.BESIDE`) is sent it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from flserve_app.client.fetch import fetch
from flserve_app.client.fields import read_digests
from flserve_app.client.held import Held
from flserve_app.client.records import to_record
from flserve_app.client.wire import PAYLOAD_STYPE, Delivery
from flserve_app.errors import DeliveryError
from flserve_app.text import is_plain

BESIDE = "flserve.beside"
BESIDE_PAYLOAD = "flserve.beside.payload"
MOST_BESIDE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """One further record of a message.

    Attributes:
        key: Its key in the message.
        target: Hex digest of its artifact.
        version: Number of the version that is of `<model>.<key>`.
        payload: What leads to the target; None for who holds it.
    """

    key: str
    target: str
    version: int
    payload: Array | None


def name_beside(model: str, key: str) -> str:
    """Return the name that versions of a further record have."""
    return f"{model}.{key}"


def put_beside(content: RecordDict, found: Sequence[Beside]) -> None:
    """Write further records into a message's content, in the places that they have there."""
    if not found:
        return
    for each in found:
        content[each.key] = ArrayRecord()
    content[BESIDE] = ConfigRecord(
        {
            "keys": [each.key for each in found],
            "targets": [bytes.fromhex(each.target) for each in found],
            "versions": [each.version for each in found],
        }
    )
    payloads = {str(at): each.payload for at, each in enumerate(found) if each.payload is not None}
    if payloads:
        content[BESIDE_PAYLOAD] = ArrayRecord(payloads)


def fetch_beside(content: RecordDict, delivery: Delivery, held: Held) -> RecordDict:
    """Return a message's content with its further records in their places.

    Args:
        content: The message's, without the model's delivery.
        delivery: The model's.
        held: What the client holds.

    Raises:
        DeliveryError: If they are not what this protocol writes, or one cannot be brought to its target.
    """
    records = {}
    for each in _take_beside(content):
        further = Delivery(
            action="deliver",
            model=name_beside(delivery.model, each.key),
            version=each.version,
            target=each.target,
            arrays=each.key,
            payloads=() if each.payload is None else (each.payload,),
            federation=delivery.federation,
        )
        records[each.key] = to_record(fetch(further, held).artifact)
    return RecordDict({**content, **records})


def _take_beside(content: RecordDict) -> Iterable[Beside]:
    record, carried = content.pop(BESIDE, None), content.pop(BESIDE_PAYLOAD, None)
    if record is None:
        return []
    if not isinstance(record, ConfigRecord) or not isinstance(carried, ArrayRecord | None):
        raise DeliveryError(f"record {BESIDE!r} is not a ConfigRecord with payloads in an ArrayRecord")
    keys, versions, targets = record.get("keys"), record.get("versions"), read_digests(record, "targets")
    if not isinstance(keys, list) or not isinstance(versions, list) or len(keys) > MOST_BESIDE:
        raise DeliveryError(f"record {BESIDE!r} has no lists of at most {MOST_BESIDE} keys and versions")
    payloads = dict(carried or {})
    if not len(keys) == len(targets) == len(versions) or not payloads.keys() <= {str(at) for at in range(len(keys))}:
        raise DeliveryError(f"record {BESIDE!r} has {len(keys)} keys, {len(targets)} targets, {len(payloads)} payloads")
    if any(array.stype != PAYLOAD_STYPE for array in payloads.values()):
        raise DeliveryError(f"a payload of record {BESIDE!r} is not serialised as {PAYLOAD_STYPE!r}")
    return [
        replace(_checked(content, key, version), target=target, payload=payloads.get(str(at)))
        for at, (key, version, target) in enumerate(zip(keys, versions, targets, strict=True))
    ]


def _checked(content: RecordDict, key: object, version: object) -> Beside:
    if not isinstance(key, str) or not is_plain(key) or not isinstance(content.get(key), ArrayRecord):
        raise DeliveryError(f"record {BESIDE!r} names {str(key)[:80]!r}, which is no ArrayRecord of the message")
    if isinstance(version, bool) or not isinstance(version, int):
        raise DeliveryError(f"record {BESIDE!r}: a version is a {type(version).__name__}, expected an int")
    return Beside(key=key, target="", version=version, payload=None)
