"""Which blobs the catalog names, and the rule by which blobs come and go.

Bytes and names live in two places, and many processes write to both. One rule keeps them together:

- A blob is named only in a write transaction in which it was seen to be there.
- A blob is removed only in a write transaction in which nothing names it.

Write transactions exclude each other, so whoever put a blob and finds it gone when he names it puts it again,
and a named blob is never removed. A crash between the two leaves a blob that nothing names, for the next sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import final

from sqlalchemy import Connection, select

from flserve_app.errors import Overtaken
from flserve_app.store.blobs import BlobStore
from flserve_app.store.database import Database
from flserve_app.store.schema import edges, states

Holds = Callable[[str], bool]
_BATCH = 500


def check_there(holds: Holds, blob: str) -> None:
    """Check, in a write transaction that is about to name a blob, that it is there.

    Raises:
        Overtaken: If it is not.
    """
    if not holds(blob):
        raise Overtaken(f"blob {blob} was removed before it was named: put it again")


def named_blobs(connection: Connection) -> set[str]:
    """Return every blob that the catalog names."""
    return {blob for column in (edges.c.blob, states.c.blob) for blob in connection.execute(select(column)).scalars()}


def is_named(connection: Connection, blob: str) -> bool:
    """Whether the catalog names a blob."""
    named = (select(column).where(column == blob).limit(1) for column in (edges.c.blob, states.c.blob))
    return any(connection.execute(query).first() is not None for query in named)


@final
class Sweeper:
    """Removes blobs that nothing names.

    Args:
        database: Knows the names.
        blobs: Holds the bytes.
    """

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def sweep(self, candidates: Iterable[str]) -> tuple[str, ...]:
        """Remove those blobs that nothing names; return them.

        Raises:
            StoreError: If one cannot be removed; those before it are gone.
        """
        wanted = sorted(set(candidates))
        removed: list[str] = []
        # In batches, so that a publisher never waits long.
        for start in range(0, len(wanted), _BATCH):
            removed += self._sweep(wanted[start : start + _BATCH])
        return tuple(removed)

    def _sweep(self, candidates: Sequence[str]) -> list[str]:
        with self._database.write() as connection:
            named = named_blobs(connection)
            free = [blob for blob in candidates if blob not in named]
            for blob in free:
                self._blobs.delete(blob)
        return free
