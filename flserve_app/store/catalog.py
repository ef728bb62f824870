"""What was published: models, versions, artifacts and the payloads that make them.

Each method is one transaction. A number is allotted inside the transaction that writes the version, from a
counter in the model's row, so two publishers never get the same one and none is given twice. Blobs must be
durable before their edge is added, and are seen to be there when it is (`claims`); the catalog knows no bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, final

from sqlalchemy import Connection, Select, select, update

from flserve_app.errors import NotFound, StoreError
from flserve_app.store import rows
from flserve_app.store.admission import admit
from flserve_app.store.bounds import check_metrics
from flserve_app.store.claims import Holds
from flserve_app.store.database import Database
from flserve_app.store.edges import add_artifact, add_edge, check_kept
from flserve_app.store.inventory import Inventory, take_inventory
from flserve_app.store.labels import follow_latest
from flserve_app.store.names import ensure_model, next_number
from flserve_app.store.schema import artifacts, edges, models, runs, versions
from flserve_app.store.states import forget_old_states, put_state
from flserve_app.store.version import Draft, Edge, State, Version


@final
class Catalog:
    """The versions in one database.

    Args:
        database: Where they are.
        holds: Tells whether a blob is there.
    """

    def __init__(self, database: Database, *, holds: Holds) -> None:
        self._database = database
        self._holds = holds

    def publish(
        self, draft: Draft, edge: Edge | None, state: State | None = None, *, also: Sequence[Edge] = ()
    ) -> Version:
        """Add a version, the edge that makes its content and its state, and move the label `latest` to it.

        Args:
            draft: All but the number.
            edge: The payload that was stored for it; None if the artifact is known already.
            state: What the strategy remembers, stored already.
            also: Further payloads that were stored for it.

        Raises:
            NotFound: If the parent or the run is not there.
            Overtaken: If the artifact (without an edge), the edge's base or a blob is not there any more.
            StoreError: If the model's name is not plain.
        """
        with self._database.write() as connection:
            key = ensure_model(connection, draft.model)
            _check_parents(connection, key, draft)
            stored = self._add_artifact(connection, draft, edge)
            stored += sum(add_edge(connection, other, holds=self._holds) for other in also)
            number = next_number(connection, key)
            rows.insert_version(connection, key, number, draft, stored=stored)
            follow_latest(connection, key, number, draft.created)
            if state is not None:
                put_state(connection, key, number, state, holds=self._holds)
            forget_old_states(connection, key)
            return _version(connection, draft.model, number)

    def admit(
        self, model: str, drafts: Mapping[int, Draft], edges: Iterable[Edge], sizes: Mapping[str, int], *, now: datetime
    ) -> None:
        """Take in versions that were published elsewhere; see `admission`. Raises Conflict, Overtaken."""
        with self._database.write() as connection:
            admit(connection, model, drafts, edges, sizes, holds=self._holds, now=now)

    def add_metrics(self, model: str, number: int, metrics: Mapping[str, float]) -> Version:
        """Add metrics to a version, replacing those of the same name.

        Raises:
            NotFound: If the version is not there.
            StoreError: If they are too many, or a name is not plain.
        """
        with self._database.write() as connection:
            version = _version(connection, model, number)
            check_metrics({**version.metrics, **metrics})
            merged = rows.metrics_to_json({**version.metrics, **metrics})
            connection.execute(update(versions).where(versions.c.serial == version.serial).values(metrics=merged))
            return _version(connection, model, number)

    def models(self) -> tuple[str, ...]:
        """Return the names of the models that have a version, sorted."""
        query = select(models.c.name).where(models.c.id.in_(select(versions.c.model_id))).order_by(models.c.name)
        with self._database.read() as connection:
            return tuple(connection.execute(query).scalars())

    def versions(self, model: str) -> tuple[Version, ...]:
        """Return all versions of a model by number; none if the model is not there."""
        with self._database.read() as connection:
            return tuple(rows.version(row) for row in connection.execute(_of(model).order_by(versions.c.number)))

    def version(self, model: str, number: int) -> Version:
        """Return one version.

        Raises:
            NotFound: If it is not there.
        """
        with self._database.read() as connection:
            return _version(connection, model, number)

    def latest(self, model: str) -> Version | None:
        """Return the version with the highest number, if any."""
        with self._database.read() as connection:
            row = connection.execute(_of(model).order_by(versions.c.number.desc()).limit(1)).one_or_none()
        return None if row is None else rows.version(row)

    def edges_behind(self, digest: str) -> tuple[Edge, ...]:
        """Return every stored payload on any way to an artifact, in no particular order."""
        behind = select(artifacts.c.digest).where(artifacts.c.digest == digest).cte("behind", recursive=True)
        bases = select(edges.c.base).join(behind, edges.c.target == behind.c.digest).where(edges.c.base.is_not(None))
        behind = behind.union(bases)
        with self._database.read() as connection:
            found = connection.execute(select(edges).join(behind, edges.c.target == behind.c.digest))
            return tuple(rows.edge(row) for row in found)

    def edge(self, target: str, base: str | None, codec: str) -> Edge | None:
        """Return the smallest stored payload from a base (or from nothing) to a target by a codec, if any."""
        query = select(edges).where(edges.c.target == target, edges.c.base.is_not_distinct_from(base))
        with self._database.read() as connection:
            row = connection.execute(query.where(edges.c.codec == codec).order_by(edges.c.nbytes)).first()
        return None if row is None else rows.edge(row)

    def collected(self, digest: str) -> datetime | None:
        """Return when an artifact was collected; None if it is kept or was never there."""
        with self._database.read() as connection:
            when = connection.execute(select(artifacts.c.collected).where(artifacts.c.digest == digest)).scalar()
        return None if when is None else rows.time_from_text(when)

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Return the bytes of artifacts that were ever in the store, in the given order."""
        wanted = list(digests)
        with self._database.read() as connection:
            every = select(artifacts.c.digest, artifacts.c.nbytes)
            found = {row.digest: row.nbytes for row in connection.execute(every)}
        return {digest: found[digest] for digest in wanted if digest in found}

    def inventory(self, told: list[str] | None = None) -> Inventory:
        """Return everything the catalog knows, as it stands now; see `take_inventory`."""
        with self._database.read() as connection:
            return take_inventory(connection, told)

    def _add_artifact(self, connection: Connection, draft: Draft, edge: Edge | None) -> int:
        """Add the artifact and its edge unless they are there; return the bytes of what was added."""
        if edge is not None and edge.target != draft.digest:
            raise StoreError(f"the payload makes {edge.target}, expected {draft.digest}")
        if edge is None:
            check_kept(connection, draft.digest)
            return 0
        add_artifact(connection, draft.digest, draft.nbytes)
        return add_edge(connection, edge, holds=self._holds)


def _of(model: str) -> Select[Any]:
    return rows.VERSIONS.where(models.c.name == model)


def _version(connection: Connection, model: str, number: int) -> Version:
    row = connection.execute(_of(model).where(versions.c.number == number)).one_or_none()
    if row is None:
        raise NotFound(f"model {model!r} has no version v{number}")
    return rows.version(row)


def _check_parents(connection: Connection, key: int, draft: Draft) -> None:
    parent = select(versions.c.serial).where(versions.c.model_id == key, versions.c.number == draft.parent)
    if draft.parent is not None and not connection.execute(parent).first():
        raise NotFound(f"model {draft.model!r} has no version v{draft.parent} to be the parent of a new one")
    run = select(runs.c.id).where(runs.c.id == draft.run)
    if draft.run is not None and not connection.execute(run).first():
        raise NotFound(f"run {draft.run!r} is not in the store: start it before it publishes")
