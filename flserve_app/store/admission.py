"""Versions that were published elsewhere and keep their numbers.

One transaction takes all of them in or none. What is there stays as it is. `latest` follows only if a version
newer than all before came in, and the next publication gets the number after the highest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, func, select, update

from flserve_app.errors import Conflict
from flserve_app.store.claims import Holds
from flserve_app.store.edges import add_artifact, add_edge, is_kept
from flserve_app.store.labels import follow_latest
from flserve_app.store.names import ensure_model
from flserve_app.store.rows import insert_version
from flserve_app.store.schema import models, versions
from flserve_app.store.version import Draft, Edge


def admit(
    connection: Connection,
    model: str,
    drafts: Mapping[int, Draft],
    edges: Iterable[Edge],
    sizes: Mapping[str, int],
    *,
    holds: Holds,
    now: datetime,
) -> None:
    """Add versions with their payloads.

    Args:
        connection: In a write transaction.
        model: Name of the model; made if it is new.
        drafts: Number to version.
        edges: Payloads that make them, each after the one that makes its base.
        sizes: Digest to bytes of the artifacts that the payloads make.
        holds: Tells whether a blob is there.
        now: The time.

    Raises:
        Conflict: If a version of the same number has other content.
        Overtaken: If a blob is not there any more.
    """
    key = ensure_model(connection, model)
    query = select(versions.c.number, versions.c.digest).where(versions.c.model_id == key)
    there = {row.number: row.digest for row in connection.execute(query)}
    stored = {edge.target: _keep(connection, edge, sizes, holds) for edge in edges}
    for number, draft in drafts.items():
        if there.setdefault(number, draft.digest) != draft.digest:
            raise Conflict(f"{model} v{number} is in the store with other content: {there[number]}")
    for number, draft in drafts.items():
        query = select(versions.c.serial).where(versions.c.model_id == key, versions.c.number == number)
        if connection.execute(query).first() is None:
            known = replace(draft, parent=draft.parent if draft.parent in there else None)
            insert_version(connection, key, number, known, stored=stored.pop(draft.digest, 0))
    _move_on(connection, key, now)


def _keep(connection: Connection, edge: Edge, sizes: Mapping[str, int], holds: Holds) -> int:
    """Add an edge unless its artifact is kept; return the bytes of what was added."""
    if is_kept(connection, edge.target):
        return 0
    add_artifact(connection, edge.target, sizes[edge.target])
    return add_edge(connection, edge, holds=holds)


def _move_on(connection: Connection, key: int, now: datetime) -> None:
    newest = connection.execute(select(func.max(versions.c.number)).where(versions.c.model_id == key)).scalar_one()
    expected = connection.execute(select(models.c.next_number).where(models.c.id == key)).scalar_one()
    if newest >= expected:
        connection.execute(update(models).where(models.c.id == key).values(next_number=newest + 1))
        follow_latest(connection, key, newest, now, why="imported")
