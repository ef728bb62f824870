"""The fields of the protocol's ConfigRecords, read one by one: nothing that came over the wire is trusted.

A field that is not there has the value that says nothing; one of another type or out of its bounds is an error
that names it.
"""

from __future__ import annotations

import re
from typing import cast

from flwr.app import ConfigRecord

from flserve_app.errors import DeliveryError
from flserve_app.text import is_identity, plain

RECORD = "flserve"
MAX_HELD = 64
MAX_CAPABILITIES = 64
MAX_INTEGER = 1 << 63
MAX_SECONDS = 366 * 86400.0  # what a client's clock says beyond is no duration of a round
_CAPABILITY = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")


def read_text(record: ConfigRecord, key: str) -> str:
    """Return a text; empty if it is not there. Raises DeliveryError."""
    value = record.get(key, "")
    if not isinstance(value, str):
        raise DeliveryError(f"record {RECORD!r}: {key} is a {type(value).__name__}, expected a str")
    return value


def read_identity(record: ConfigRecord, key: str) -> str:
    """Return a name that a client may go by. Raises DeliveryError."""
    value = read_text(record, key)
    if not is_identity(value):
        raise DeliveryError(
            f"answer: identity {plain(value, 80)!r} is not 1 to 128 letters, digits, dots, dashes, underscores, "
            "a letter or digit first"
        )
    return value


def read_integer(record: ConfigRecord, key: str) -> int:
    """Return a whole number; 0 if it is not there. Raises DeliveryError."""
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DeliveryError(f"record {RECORD!r}: {key} is a {type(value).__name__}, expected an int")
    if not -MAX_INTEGER <= value < MAX_INTEGER:
        raise DeliveryError(f"record {RECORD!r}: {key} has more than 64 bits")
    return value


def read_flag(record: ConfigRecord, key: str) -> bool:
    """Return a yes or no; no if it is not there. Raises DeliveryError."""
    value = record.get(key, False)
    if not isinstance(value, bool):
        raise DeliveryError(f"record {RECORD!r}: {key} is a {type(value).__name__}, expected a bool")
    return value


def read_seconds(record: ConfigRecord, key: str) -> float:
    """Return a duration, 0 if it is not there: within what can be one. Raises DeliveryError."""
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DeliveryError(f"record {RECORD!r}: {key} is a {type(value).__name__}, expected a number")
    return float(min(value, MAX_SECONDS)) if value > 0 else 0.0  # NaN is not


def read_share(record: ConfigRecord, key: str) -> float:
    """Return a share, 0 if it is not there: 0 to 1. Raises DeliveryError."""
    return min(1.0, read_seconds(record, key))


def read_digest(record: ConfigRecord, key: str) -> str:
    """Return a digest as hex; empty if it is not there or empty. Raises DeliveryError."""
    value = record.get(key, b"")
    if not isinstance(value, bytes) or len(value) not in (0, 32):
        raise DeliveryError(f"record {RECORD!r}: {key} is not a digest of 32 bytes")
    return value.hex()


def read_digests(record: ConfigRecord, key: str) -> tuple[str, ...]:
    """Return digests as hex. Raises DeliveryError."""
    values = record.get(key, [])
    if not isinstance(values, list) or len(values) > MAX_HELD:
        raise DeliveryError(f"record {RECORD!r}: {key} is not a list of at most {MAX_HELD} digests")
    if any(not isinstance(value, bytes) or len(value) != 32 for value in values):
        raise DeliveryError(f"record {RECORD!r}: {key} holds something else than digests of 32 bytes")
    return tuple(cast(bytes, value).hex() for value in values)


def read_capabilities(record: ConfigRecord, key: str) -> tuple[str, ...]:
    """Return the names of what a client can take. Raises DeliveryError."""
    values = record.get(key, [])
    if not isinstance(values, list) or len(values) > MAX_CAPABILITIES:
        raise DeliveryError(f"record {RECORD!r}: {key} is not a list of at most {MAX_CAPABILITIES} names")
    if any(not isinstance(value, str) or not _CAPABILITY.fullmatch(value) for value in values):
        raise DeliveryError(f"record {RECORD!r}: {key} holds something else than plain names")
    return tuple(cast(str, value) for value in values)
