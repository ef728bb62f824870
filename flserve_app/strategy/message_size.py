"""Bytes a message takes on Flower's wire.

Flower deflates a message into a tree of objects (message, record dict, records, arrays, chunks), each a
header with its kind, its children's ids and its length, a zero byte, and a body; an object that stands twice
is sent once. The size of a message is the sum over its distinct objects: what one client costs when nothing
of it was sent before.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK_BYTES

from flserve_app.client.wire import PAYLOAD, PAYLOAD_STYPE

ID_LENGTH = 64  # a hex SHA-256
_GLIMPSE = 64  # bytes of a chunk, spread over it, by which nearly all chunks that differ are told apart


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
    """Return the bytes of an Array and its distinct chunks."""
    data = memoryview(array.data)
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    places: dict[tuple[int, bytes], int] = {}
    at = [places.setdefault(key, len(places)) for key in _names(chunks)]
    distinct = {place: len(chunk) for place, chunk in zip(at, chunks, strict=True)}
    body = json.dumps({"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "arraychunk_ids": at})
    ids = ",".join("0" * ID_LENGTH for _ in distinct)
    return len(f"Array {ids} {len(body)}") + 1 + len(body) + sum(map(_chunk_bytes, distinct.values()))


def _names(chunks: list[memoryview]) -> list[tuple[int, bytes]]:
    """Return what tells chunks apart: length and a glimpse, and for those that share these the digest.

    Honest chunks are hardly ever hashed, which would take as long as verifying them, a message; those of somebody
    who makes them look alike are hashed once each, and never compared in pairs.
    """
    glimpses = [(len(chunk), bytes(chunk[:: max(1, len(chunk) // _GLIMPSE)])) for chunk in chunks]
    alike = Counter(glimpses)
    return [
        glimpse if alike[glimpse] == 1 else (len(chunk), hashlib.sha256(chunk).digest())
        for glimpse, chunk in zip(glimpses, chunks, strict=True)
    ]


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
