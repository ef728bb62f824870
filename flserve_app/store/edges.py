"""Artifacts and the payloads that lead to them: what a transaction checks before it adds one.

An artifact is kept while an edge leads to it. An edge is added only if its base is kept and its blob is there,
in the transaction that adds it: what was true when the payload was made may not be any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection, insert, select, update

from flserve_app.errors import NotFound, Overtaken
from flserve_app.store import rows
from flserve_app.store.claims import Holds, check_there
from flserve_app.store.schema import artifacts, edges
from flserve_app.store.version import Edge

_AT_ONCE = 500  # values in one statement; SQLite's bound has been 999


def is_kept(connection: Connection, digest: str) -> bool:
    """Whether an edge leads to an artifact."""
    return connection.execute(select(edges.c.blob).where(edges.c.target == digest).limit(1)).first() is not None


def check_kept(connection: Connection, digest: str) -> None:
    """Check that an artifact's content is in the store.

    Raises:
        NotFound: If the store never had it.
        Overtaken: If it was collected.
    """
    if is_kept(connection, digest):
        return
    if connection.execute(select(artifacts.c.digest).where(artifacts.c.digest == digest)).first() is None:
        raise NotFound(f"artifact {digest} is not in the store")
    raise Overtaken(f"artifact {digest} was collected before it was named: store it again")


def add_artifact(connection: Connection, digest: str, nbytes: int) -> None:
    """Add an artifact unless it is there; one that was collected is kept again."""
    if connection.execute(select(artifacts.c.digest).where(artifacts.c.digest == digest)).first() is None:
        connection.execute(insert(artifacts).values(digest=digest, nbytes=nbytes))
    else:
        connection.execute(
            update(artifacts)
            .where(artifacts.c.digest == digest, artifacts.c.collected.is_not(None))
            .values(collected=None)
        )


def add_edge(connection: Connection, edge: Edge, *, holds: Holds) -> int:
    """Add an edge unless it is there; return the bytes of what was added.

    Raises:
        NotFound: If the base never was in the store.
        Overtaken: If the base was collected, or the blob is gone.
    """
    if edge.base is not None:
        check_kept(connection, edge.base)
    check_there(holds, edge.blob)
    if connection.execute(select(edges.c.blob).where(edges.c.blob == edge.blob)).first() is not None:
        return 0
    values = {"target": edge.target, "base": edge.base, "codec": edge.codec, "nbytes": edge.nbytes}
    connection.execute(insert(edges).values(blob=edge.blob, **values))
    return edge.nbytes


def edges_behind(connection: Connection, digests: Iterable[str]) -> tuple[Edge, ...]:
    """Return every payload on any way to some artifacts, each once, in no particular order."""
    found: dict[str, Edge] = {}
    for some in _parts(digests):
        behind = select(artifacts.c.digest).where(artifacts.c.digest.in_(some)).cte("behind", recursive=True)
        bases = select(edges.c.base).join(behind, edges.c.target == behind.c.digest).where(edges.c.base.is_not(None))
        behind = behind.union(bases)
        query = select(edges).join(behind, edges.c.target == behind.c.digest)
        found |= {row.blob: rows.edge(row) for row in connection.execute(query)}
    return tuple(found.values())


def sizes_of(connection: Connection, digests: Iterable[str]) -> dict[str, int]:
    """Return the bytes of those artifacts that were ever in the store."""
    found: dict[str, int] = {}
    for some in _parts(digests):
        query = select(artifacts.c.digest, artifacts.c.nbytes).where(artifacts.c.digest.in_(some))
        found |= {row.digest: row.nbytes for row in connection.execute(query)}
    return found


def _parts(digests: Iterable[str]) -> Iterator[Sequence[str]]:
    every = list(dict.fromkeys(digests))
    return (every[start : start + _AT_ONCE] for start in range(0, len(every), _AT_ONCE))
