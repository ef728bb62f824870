"""Bytes a message takes on Flower's wire.

Flower deflates a message into a tree of objects (message, record dict, records, arrays, chunks), each a
header with its kind, its children's ids and its length, a zero byte, and a body; an object that stands twice
is sent once. The size of a message is the sum over its distinct objects: what one client costs when nothing
of it was sent before.
"""

from __future__ import annotations

from typing import Any

from flwr.app import Message


def message_bytes(message: Message) -> int:
    """Return the bytes of all distinct objects that Flower would push for a message."""
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
    kind = type(item).__qualname__
    if kind == "ArrayChunk":  # its body is its data; deflating would copy it
        length = len(item.data)
        return len(f"{kind}  {length}") + 1 + length
    return len(item.deflate())
