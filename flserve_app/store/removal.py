"""Taking payloads, states and clients out of the catalog, in one transaction.

Versions stay: an artifact that nothing leads to any more is marked collected, and its versions are history. What
goes is decided by a pure function inside the transaction, so that it is right for what is there at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, final

from sqlalchemy import Connection, bindparam, delete, select, update

from flserve_app.store import rows
from flserve_app.store.claims import Holds
from flserve_app.store.database import Database
from flserve_app.store.edges import add_edge
from flserve_app.store.inventory import Inventory, take_inventory
from flserve_app.store.schema import artifacts, clients, edges, models, states
from flserve_app.store.version import Edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What goes, and what takes its place.

    Attributes:
        keyframes: Edges to be added first; their blobs are durable.
        edges: Edges that go.
        digests: Artifacts to which no edge leads then.
        states: (model, number) of the states that go.
        clients: (model, identity) of the clients that are forgotten.
    """

    keyframes: tuple[Edge, ...]
    edges: tuple[Edge, ...]
    digests: frozenset[str]
    states: tuple[tuple[str, int], ...]
    clients: tuple[tuple[str, str], ...]


@final
class Remover:
    """Applies removals to one database.

    Args:
        database: The catalog.
        holds: Tells whether a blob is there.
    """

    def __init__(self, database: Database, *, holds: Holds) -> None:
        self._database = database
        self._holds = holds

    def apply(self, decide: Callable[[Inventory], Removal], *, now: datetime) -> Removal:
        """Do what is decided on the inventory of this moment, and return it.

        Raises:
            Overtaken: If the blob of a keyframe is gone; then nothing was removed.
        """
        with self._database.write() as connection:
            removal = decide(take_inventory(connection))
            for keyframe in removal.keyframes:
                add_edge(connection, keyframe, holds=self._holds)
            _run(
                connection, delete(edges).where(edges.c.blob == bindparam("b")), [{"b": e.blob} for e in removal.edges]
            )
            marking = update(artifacts).where(artifacts.c.digest == bindparam("d"), artifacts.c.collected.is_(None))
            when = {"collected": rows.time_to_text(now)}
            _run(connection, marking.values(**when), [{"d": digest} for digest in sorted(removal.digests)])
            self._forget(connection, removal)
        return removal

    def _forget(self, connection: Connection, removal: Removal) -> None:
        keys = {row.name: row.id for row in connection.execute(select(models.c.name, models.c.id))}
        state = delete(states).where(states.c.model_id == bindparam("m"), states.c.number == bindparam("n"))
        _run(connection, state, [{"m": keys[model], "n": number} for model, number in removal.states])
        client = delete(clients).where(clients.c.model_id == bindparam("m"), clients.c.identity == bindparam("i"))
        _run(connection, client, [{"m": keys[model], "i": identity} for model, identity in removal.clients])


def _run(connection: Connection, statement: Any, values: list[Mapping[str, object]]) -> None:
    if values:
        connection.execute(statement, values)
