"""Bytes a message takes on Flower's wire.

Flower deflates a message into a tree of objects (message, record dict, records, arrays, chunks), each a
header with its kind, its children's ids and its length, a zero byte, and a body; an object that stands twice
is sent once. The size of a message is the sum over its distinct objects: what one client costs when nothing
of it was sent before.
"""

from __future__ import annotations

import json
from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK_BYTES

from flserve_app.client.wire import PAYLOAD, PAYLOAD_STYPE

ID_LENGTH = 64  # a hex SHA-256


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
    return _measured(stand_in) - sum(map(_array_bytes, empty.values())) + sum(map(_array_bytes, payloads.values()))


def _payloads(message: Message) -> dict[str, Array]:
    """Return a message's payloads; hashing them, as the general way does, would take as long as verifying them."""
    if not message.has_content() or not isinstance(record := message.content.get(PAYLOAD), ArrayRecord):
        return {}
    return dict(record) if all(array.stype == PAYLOAD_STYPE for array in record.values()) else {}


def _array_bytes(array: Array) -> int:
    """Return the bytes of an Array and its distinct chunks, found by comparing them instead of by their ids."""
    data = memoryview(array.data)
    distinct: list[memoryview] = []
    places: list[int] = []
    for start in range(0, len(data), CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        place = next((at for at, other in enumerate(distinct) if other == chunk), len(distinct))
        if place == len(distinct):
            distinct.append(chunk)
        places.append(place)
    body = json.dumps({"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "arraychunk_ids": places})
    ids = ",".join("0" * ID_LENGTH for _ in distinct)
    return len(f"Array {ids} {len(body)}") + 1 + len(body) + sum(_chunk_bytes(len(chunk)) for chunk in distinct)


def _measured(message: Message) -> int:
    sizes: dict[str, int] = {}
    _add(message, sizes)
    _forget_views(message)
    return sum(sizes.values())


def _add(item: Any, sizes: dict[str, int]) -> None:
    for child in (item.children or {}).values():
        _add(child, sizes)
    sizes[item.object_id] = _size(item)


def _forget_views(message: Message) -> None:
    """Drop the memory views that Flower keeps on every Array it has sliced: they cannot be pickled.

    Not on the way through `_add`: of two equal arrays, that meets only one.
    """
    if message.has_content():
        for record in message.content.array_records.values():
            for array in record.values():
                vars(array).pop("_chunks", None)


def _size(item: Any) -> int:
    if type(item).__qualname__ == "ArrayChunk":  # its body is its data; deflating would copy it
        return _chunk_bytes(len(item.data))
    return len(item.deflate())


def _chunk_bytes(length: int) -> int:
    return len(f"ArrayChunk  {length}") + 1 + length
