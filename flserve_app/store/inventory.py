"""Everything the catalog knows, as it stands in one transaction.

For work on the store as a whole: checking it, collecting what nobody needs, bundling. It holds rows, not bytes: a
few hundred bytes a version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from flserve_app.store import rows
from flserve_app.store.schema import clients, edges, label_moves, labels, models, states, versions
from flserve_app.store.version import LATEST, Edge, Holder, State, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All rows that say what is kept and who needs it.

    Attributes:
        versions: Of all models, by model and number.
        edges: All payloads.
        labels: (model, label) to number.
        former: (model, number) of all versions that a label other than `latest` ever stood at.
        states: (model, number) to state.
        holders: Model and client of each client that was seen.
    """

    versions: tuple[Version, ...]
    edges: tuple[Edge, ...]
    labels: Mapping[tuple[str, str], int]
    former: frozenset[tuple[str, int]]
    states: Mapping[tuple[str, int], State]
    holders: tuple[tuple[str, Holder], ...]


def take_inventory(connection: Connection) -> Inventory:
    """Read the inventory in a transaction."""
    name = models.c.name.label("model")
    named = select(labels.c.name, labels.c.number, name).join(models, labels.c.model_id == models.c.id)
    former = select(label_moves.c.after, name).join(models).where(label_moves.c.label != LATEST).distinct()
    remembered = select(states, name).join(models, states.c.model_id == models.c.id)
    seen = select(clients, name).join(models, clients.c.model_id == models.c.id)
    every = rows.VERSIONS.order_by(models.c.name, versions.c.number)
    return Inventory(
        versions=tuple(rows.version(row) for row in connection.execute(every)),
        edges=tuple(rows.edge(row) for row in connection.execute(select(edges).order_by(edges.c.blob))),
        labels={(row.model, row.name): row.number for row in connection.execute(named)},
        former=frozenset((row.model, row.after) for row in connection.execute(former)),
        states={(row.model, row.number): rows.state(row) for row in connection.execute(remembered)},
        holders=tuple((row.model, rows.holder(row)) for row in connection.execute(seen)),
    )
