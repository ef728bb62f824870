"""What rounding left out of the newest version, kept with what the strategy remembers.

Both are one state of the version, committed with it: a run that is resumed adds what was left out, as if it had
never stopped. The form is the strategy's kind with `+residual` behind it (`residual` alone if the strategy has
none), 8 bytes of the length of its bytes, these, and a payload of the residual (codec `lossless`).
"""

from __future__ import annotations

import struct

from flserve_app.artifact import Artifact
from flserve_app.codec import decode, encode
from flserve_app.errors import FlserveError, StoreError

_MARK = "+residual"
_ALONE = "residual"
_LENGTH = struct.Struct("<Q")

State = tuple[str, bytes]


def joined(state: State | None, residual: Artifact | None) -> State | None:
    """Return the strategy's state with a residual; as it is without one."""
    if residual is None:
        return state
    kind, data = state or ("", b"")
    return (kind + _MARK if kind else _ALONE), _LENGTH.pack(len(data)) + data + encode(residual, None, "lossless")


def parted(found: State | None, version: str) -> tuple[State | None, Artifact | None]:
    """Return the strategy's state and the residual that `joined` put together.

    Args:
        found: Kind and bytes as they were stored.
        version: Whose they are, for messages.

    Raises:
        StoreError: If they are malformed.
    """
    if found is None or not (found[0].endswith(_MARK) or found[0] == _ALONE):
        return found, None
    kind, data = found
    try:
        (length,) = _LENGTH.unpack_from(data)
        if _LENGTH.size + length > len(data):
            raise StoreError(f"its first part has {length} bytes, all of it {len(data)}")
        residual = decode(memoryview(data)[_LENGTH.size + length :])
    except (struct.error, FlserveError) as error:
        raise StoreError(f"the residual of {version} is malformed: {error}") from error
    mine = None if kind == _ALONE else (kind.removesuffix(_MARK), data[_LENGTH.size : _LENGTH.size + length])
    return mine, residual
