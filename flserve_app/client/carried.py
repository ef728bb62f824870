"""The payloads of a message: as Arrays of a record of their own or, where little else is sent, beside what is said.

An ArrayRecord with one Array takes some 480 bytes of Flower's beside the data, half of a tiny model's message. Who can
read them there gets small payloads as bytes in the ConfigRecord `flserve`, key `inline`: *inline*. Never both.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from flserve_app.client.fields import RECORD
from flserve_app.errors import DeliveryError

PAYLOAD = "flserve.payload"
PAYLOAD_STYPE = "flserve.payload"
START = "start"
MAX_PAYLOADS = 256
MOST_INLINE = 1 << 16
_INLINE = "inline"


def payload_array(payload: bytes) -> Array:
    """Wrap payload bytes as an Array that Flower carries and shares by content."""
    return Array("uint8", (len(payload),), PAYLOAD_STYPE, payload)


def payload_key(at: int) -> str:
    """Return the name of a delivery's payload number `at`, from 0."""
    return f"payload.{at}" if at else "payload"


def inlined(content: RecordDict) -> RecordDict | None:
    """Return a content with its payloads inline; None if it has none, or not of a size for it."""
    record, carried = content.get(RECORD), content.get(PAYLOAD)
    if not isinstance(record, ConfigRecord) or not isinstance(carried, ArrayRecord) or START in carried:
        return None
    payloads = [array.data for array in carried.values()]
    if sum(map(len, payloads)) > MOST_INLINE:
        return None
    others = {key: value for key, value in content.items() if key not in (RECORD, PAYLOAD)}
    return RecordDict({**others, RECORD: ConfigRecord({**record, _INLINE: payloads})})


def payloads_of(record: ConfigRecord, carried: object) -> tuple[tuple[Array, ...], Array | None]:
    """Return a message's payloads in their order, and what private tensors begin with.

    Args:
        record: Its ConfigRecord `flserve`.
        carried: Its record of payloads; None if it has none.

    Raises:
        DeliveryError: If they are not as the protocol says.
    """
    if _INLINE in record:
        return _inline(record, carried), None
    if carried is None:
        return (), None
    arrays = dict(carried) if isinstance(carried, ArrayRecord) else {}
    for array in arrays.values():
        if array.stype != PAYLOAD_STYPE:
            raise DeliveryError(f"payload is serialised as {array.stype!r}, expected {PAYLOAD_STYPE!r}")
    start = arrays.pop(START, None)
    keys = [payload_key(at) for at in range(len(arrays))]
    if (not keys and start is None) or len(keys) > MAX_PAYLOADS or set(arrays) != set(keys):
        raise DeliveryError(f"record {PAYLOAD!r} is not an ArrayRecord with arrays 'payload', 'payload.1', ...")
    return tuple(arrays[key] for key in keys), start


def _inline(record: ConfigRecord, carried: object) -> tuple[Array, ...]:
    found = record[_INLINE]
    payloads = [each for each in found if isinstance(each, bytes)] if isinstance(found, list) else []
    right = isinstance(found, list) and 0 < len(payloads) == len(found) <= MAX_PAYLOADS
    if carried is not None or not right or sum(map(len, payloads)) > MOST_INLINE:
        raise DeliveryError(
            f"record {RECORD!r}: {_INLINE} is not 1 to {MAX_PAYLOADS} payloads of at most {MOST_INLINE} bytes "
            f"together, without a record {PAYLOAD!r}"
        )
    return tuple(map(payload_array, payloads))
