"""The strategy's memory: a state with each of the last versions, as blobs.

Bytes are durable before the catalog names them. What a newer state replaces is removed once nothing names it,
so that a long run does not fill the disk with old states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import final

from flserve_app.errors import NotFound, Overtaken, StoreError
from flserve_app.registry.insist import insist
from flserve_app.store import BlobStore, Database, State, States, Sweeper
from flserve_app.store.states import check_kind


@final
class Memory:
    """The states of one store.

    Args:
        database: The catalog, which names them.
        blobs: Holds their bytes.
        lacks: Tells whether a blob is gone that the catalog names.
    """

    def __init__(self, database: Database, blobs: BlobStore, lacks: Callable[[str], bool]) -> None:
        self._states = States(database, holds=blobs.has)
        self._sweeper = Sweeper(database, blobs)
        self._blobs = blobs
        self._lacks = lacks

    def save(self, model: str, number: int, data: bytes, kind: str) -> None:
        """Set the state of a version that is there. Raises NotFound, StoreError."""
        with self.kept(model, data, kind) as state:
            if state is not None:
                self._states.save(model, number, state)

    def load(self, model: str, number: int) -> tuple[str, bytes] | None:
        """Return kind and bytes of a version's state, verified. Raises NotFound, CorruptBlob."""
        return insist(lambda: self._load(model, number))

    @contextmanager
    def kept(self, model: str, data: bytes | None, kind: str) -> Iterator[State | None]:
        """Make a state durable for a block that names it, and remove what is not named after it.

        Raises:
            StoreError: If the kind is not plain, or the bytes cannot be kept.
        """
        before = self._states.blobs(model)
        state = None
        if data is not None:
            state = State(kind=check_kind(kind), blob=self._blobs.put(data), nbytes=len(data))
        yield state
        # The write is committed: what cannot be removed now is left to the next collection.
        with suppress(StoreError):
            self._sweeper.sweep(before)

    def _load(self, model: str, number: int) -> tuple[str, bytes] | None:
        state = self._states.get(model, number)
        if state is None:
            return None
        try:
            return state.kind, self._blobs.get(state.blob, max_bytes=state.nbytes)
        except NotFound as error:
            if self._lacks(state.blob):
                raise
            raise Overtaken(f"the state of {model!r} v{number} was replaced or forgotten while it was read") from error
