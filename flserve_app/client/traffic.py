"""How many bytes a message's content is, near enough to hold it to a bound: its arrays, and long values of configs."""

from __future__ import annotations

from flwr.app import ArrayRecord, Message

from flserve_app.client.tensor_array import serialised_bytes

_NUMBER_BYTES = 8


def array_bytes(message: Message) -> int:
    """Return the bytes of all arrays of a message; nothing is serialised for it."""
    records = message.content.values() if message.has_content() else ()
    arrays = (array for record in records if isinstance(record, ArrayRecord) for array in record.values())
    return sum(map(serialised_bytes, arrays))


def content_bytes(message: Message) -> int:
    """Return the bytes of a message's content."""
    records = message.content.values() if message.has_content() else ()
    values = (value for record in records if not isinstance(record, ArrayRecord) for value in record.values())
    return array_bytes(message) + sum(map(_value_bytes, values))


def _value_bytes(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return len(value) if isinstance(value, str | bytes) else _NUMBER_BYTES
