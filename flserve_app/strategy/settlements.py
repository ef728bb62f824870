"""Which updates were aggregated, and whom that has still to be told.

A client keeps what rounding left out of an update as pending until it knows. Rules:
- An update is aggregated if it was given to the inner strategy and the round's version is published.
- A client is told with every delivery until it answered one: it then knows.
- What is still to be told is committed with the version: a run that is resumed tells it.
- Clients are known by their identities, as node ids change from run to run: by those that are theirs (see
  `identities`), whatever an answer says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, final

from flwr.app import Message

from flserve_app.errors import StoreError
from flserve_app.strategy.annex import State, attached, detached

MOST = 8  # updates of one client; one that never answers is not told of older ones
_MARK = "settled"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@final
class Settlements:
    """The updates of one run.

    Args:
        active: Whether clients keep anything; if not, nothing is noted.
    """

    def __init__(self, *, active: bool = False) -> None:
        self.active = active
        self._taken: dict[int, tuple[Message, str, str]] = {}
        self._untold: dict[str, tuple[str, ...]] = {}

    def enter(self) -> None:
        """Begin a round: replies of the one before cannot be aggregated any more."""
        self._taken.clear()

    def took(self, reply: Message, identity: str, update: str) -> None:
        """Note what a reply's update leads to (hex digest)."""
        if self.active:
            # With the reply itself: an id is only good for as long as it lives.
            self._taken[id(reply)] = (reply, identity, update)

    def aggregated(self, replies: Iterable[Message]) -> None:
        """Note which replies the next version is made of."""
        for reply in replies:
            if id(reply) in self._taken:
                _, identity, update = self._taken.pop(id(reply))
                self._untold[identity] = (*self._untold.get(identity, ()), update)[-MOST:]

    def untold(self, identity: str) -> tuple[str, ...]:
        """Return the digests that a client has still to be told, oldest first."""
        return self._untold.get(identity, ())

    def owed(self) -> tuple[str, ...]:
        """Return the identities of the clients that have something still to be told."""
        return tuple(self._untold)

    def told(self, identity: str, updates: Iterable[str]) -> None:
        """Note that a client answered a delivery which told it of these."""
        known = set(updates)
        left = tuple(update for update in self.untold(identity) if update not in known)
        if left:
            self._untold[identity] = left
        else:
            self._untold.pop(identity, None)

    def renamed(self, before: str, after: str) -> None:
        """Note that a client has another identity than it went by."""
        self._taken = {
            key: (reply, after if identity == before else identity, update)
            for key, (reply, identity, update) in self._taken.items()
        }
        if before in self._untold:
            self._untold[after] = (*self.untold(after), *self._untold.pop(before))[-MOST:]

    def attached(self, state: State | None) -> State | None:
        """Return a strategy's state with what is still to be told; as it is if that is nothing."""
        return attached(state, _MARK, json.dumps(self._untold).encode()) if self._untold else state

    def recall(self, found: State | None, version: str) -> State | None:
        """Take what is still to be told out of a version's state; return what is the strategy's. Raises StoreError."""
        state, data = detached(found, _MARK, version)
        if data is None:
            return state
        try:
            told: Any = json.loads(bytes(data))
            self._untold = {str(identity): tuple(map(_checked, updates)) for identity, updates in told.items()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"the settled updates of {version} are malformed: {error}") from error
        return state


def _checked(digest: object) -> str:
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{str(digest)[:80]!r} is no digest")
    return digest
