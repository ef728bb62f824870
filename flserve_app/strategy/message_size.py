"""Bytes a message takes on Flower's wire.

The size of a message is the sum over its distinct objects (`client.object_size`): what one client costs when nothing
of it was sent before.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Message, RecordDict

from flserve_app.client.object_size import array_bytes, object_bytes
from flserve_app.client.wire import PAYLOAD, PAYLOAD_STYPE


def message_bytes(message: Message) -> int:
    """Return the bytes of all distinct objects that Flower would push for a message."""
    payloads = _payloads(message)
    if not payloads:
        return _measured(message)
    # Ids have one length, so stand-ins without data make the rest of the message as large as it is. They differ in
    # shape, as payloads differ.
    empty = {key: Array("uint8", (at,), PAYLOAD_STYPE, b"") for at, key in enumerate(payloads)}
    content = RecordDict({**message.content, PAYLOAD: ArrayRecord(empty)})
    stand_in = Message(content, metadata=message.metadata)  # type: ignore[call-overload]
    _forget_views(message)
    return _measured(stand_in) - sum(map(array_bytes, empty.values())) + sum(map(array_bytes, payloads.values()))


def _payloads(message: Message) -> dict[str, Array]:
    """Return a message's payloads; hashing them, as the general way does, would take as long as verifying them."""
    if not message.has_content() or not isinstance(record := message.content.get(PAYLOAD), ArrayRecord):
        return {}
    return dict(record) if all(array.stype == PAYLOAD_STYPE for array in record.values()) else {}


def _measured(message: Message) -> int:
    found = object_bytes(message)
    _forget_views(message)
    return found


def _forget_views(message: Message) -> None:
    """Drop the memory views that Flower keeps on every Array it has sliced: they cannot be pickled.

    Not on the way through the objects: of two equal arrays, that meets only one.
    """
    if message.has_content():
        for record in message.content.array_records.values():
            for array in record.values():
                vars(array).pop("_chunks", None)
