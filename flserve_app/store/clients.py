"""The clients of each model, and what they held when they were last heard of.

So a store knows which artifacts somebody out there may still build on, and a later run whom to expect. A
client is one row, replaced at every sight of it; all that were seen in a round go in one transaction. A model has at
most `MOST_CLIENTS` rows: those that were unseen the longest go.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import final

from sqlalchemy import bindparam, delete, func, insert, select

from flserve_app.errors import StoreError
from flserve_app.store import rows
from flserve_app.store.blobs import check_digest
from flserve_app.store.database import Database
from flserve_app.store.names import ensure_model
from flserve_app.store.schema import clients, models
from flserve_app.store.version import Holder
from flserve_app.text import is_identity, plain

MOST_CLIENTS = 100_000


@final
class Clients:
    """The clients in one database.

    Args:
        database: The catalog.
        most: The most clients of a model that are remembered.
    """

    def __init__(self, database: Database, *, most: int = MOST_CLIENTS) -> None:
        self._database = database
        self._most = most

    def saw(self, model: str, holders: Iterable[Holder], *, now: datetime) -> None:
        """Record clients of a model; of several of one identity the last counts.

        Args:
            model: Name of the model; made if it is new.
            holders: Who was seen, with what.
            now: The time, for those that do not say when they were seen.

        Raises:
            StoreError: If an identity or a digest is not plain; then none was recorded.
        """
        found = {holder.identity: _columns(holder, now) for holder in holders}
        if not found:
            return
        with self._database.write() as connection:
            key = ensure_model(connection, model)
            old = delete(clients).where(clients.c.model_id == key, clients.c.identity == bindparam("who"))
            connection.execute(old, [{"who": identity} for identity in found])
            connection.execute(insert(clients), [{"model_id": key, **columns} for columns in found.values()])
            mine = clients.c.model_id == key
            beyond = connection.execute(select(func.count()).select_from(clients).where(mine)).scalar_one() - self._most
            if beyond > 0:
                oldest = select(clients.c.identity).where(mine).order_by(clients.c.seen, clients.c.round).limit(beyond)
                connection.execute(delete(clients).where(mine, clients.c.identity.in_(oldest)))

    def of(self, model: str) -> tuple[Holder, ...]:
        """Return the clients of a model by identity."""
        query = select(clients).join(models, clients.c.model_id == models.c.id).where(models.c.name == model)
        with self._database.read() as connection:
            return tuple(rows.holder(row) for row in connection.execute(query.order_by(clients.c.identity)))


def _columns(holder: Holder, now: datetime) -> dict[str, object]:
    if not is_identity(holder.identity):
        raise StoreError(
            "a client's identity is 1 to 128 letters, digits, dots, dashes or underscores, a letter or digit first; "
            f"found {plain(holder.identity, 140)!r}"
        )
    return {
        "identity": holder.identity,
        "digest": check_digest(holder.digest),
        "number": holder.number,
        "round": holder.round,
        "seen": rows.time_to_text(holder.seen or now),
    }
