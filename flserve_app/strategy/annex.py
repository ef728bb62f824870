"""What is kept with a strategy's state, in the same state: so it is committed with the version it belongs to.

The form is the strategy's kind with `+` and a mark behind it (the mark alone if the strategy has no state), 8 bytes
of the length of its bytes, these, and what was attached. Several are taken off in the reverse order.
"""

from __future__ import annotations

import struct

from flserve_app.errors import StoreError

_LENGTH = struct.Struct("<Q")

State = tuple[str, bytes]


def attached(state: State | None, mark: str, data: bytes) -> State:
    """Return a state, or none, with more bytes."""
    kind, mine = state or ("", b"")
    return (f"{kind}+{mark}" if kind else mark), _LENGTH.pack(len(mine)) + mine + data


def detached(found: State | None, mark: str, version: str) -> tuple[State | None, memoryview | None]:
    """Return the state and the bytes that `attached` put together; no bytes if there are none of this mark.

    Args:
        found: Kind and bytes as they were stored.
        mark: What was attached.
        version: Whose they are, for messages.

    Raises:
        StoreError: If they are malformed.
    """
    if found is None or not (found[0] == mark or found[0].endswith(f"+{mark}")):
        return found, None
    kind, data = found
    if len(data) < _LENGTH.size:
        raise StoreError(f"the {mark} of {version} is malformed: it has {len(data)} bytes")
    (length,) = _LENGTH.unpack_from(data)
    if _LENGTH.size + length > len(data):
        raise StoreError(
            f"the {mark} of {version} is malformed: its first part has {length} bytes, all of it {len(data)}"
        )
    mine = None if kind == mark else (kind.removesuffix(f"+{mark}"), data[_LENGTH.size : _LENGTH.size + length])
    return mine, memoryview(data)[_LENGTH.size + length :]
