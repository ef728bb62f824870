"""What rounding left out of the newest version, kept with what the strategy remembers (see `annex`).

Both are one state of the version, committed with it: a run that is resumed adds what was left out, as if it had
never stopped. The residual is a payload (codec `lossless`).
"""

from __future__ import annotations

from flserve_app.artifact import Artifact
from flserve_app.codec import decode, encode
from flserve_app.errors import FlserveError, StoreError
from flserve_app.strategy.annex import State, attached, detached

_MARK = "residual"


def joined(state: State | None, residual: Artifact | None) -> State | None:
    """Return the strategy's state with a residual; as it is without one."""
    return state if residual is None else attached(state, _MARK, encode(residual, None, "lossless"))


def parted(found: State | None, version: str) -> tuple[State | None, Artifact | None]:
    """Return the strategy's state and the residual that `joined` put together.

    Args:
        found: Kind and bytes as they were stored.
        version: Whose they are, for messages.

    Raises:
        StoreError: If they are malformed.
    """
    state, data = detached(found, _MARK, version)
    try:
        return state, None if data is None else decode(data)
    except FlserveError as error:
        raise StoreError(f"the residual of {version} is malformed: {error}") from error
