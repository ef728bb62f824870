"""What was published: models, versions, artifacts and the payloads that make them.

Each method is one transaction. A number is allotted inside the transaction that writes the version, from a
counter in the model's row, so two publishers never get the same one and none is given twice. Blobs must be
durable before their edge is added, and are seen to be there when it is (`claims`); the catalog knows no bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import final

from sqlalchemy import Connection, select, update

from flserve_app.errors import Conflict, NotFound, StoreError
from flserve_app.store import lookup, rows
from flserve_app.store.admission import admit
from flserve_app.store.bounds import check_metrics
from flserve_app.store.claims import Holds, is_named
from flserve_app.store.database import Database
from flserve_app.store.edges import add_artifact, add_edge, check_kept, edges_behind, sizes_of
from flserve_app.store.inventory import Inventory, take_inventory
from flserve_app.store.labels import follow_latest
from flserve_app.store.leases import check_held
from flserve_app.store.lookup import History, of_model
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
        self,
        draft: Draft,
        edge: Edge | None,
        state: State | None = None,
        *,
        also: Sequence[Edge] = (),
        lease: str | None = None,
    ) -> Version:
        """Add a version, the edge that makes its content and its state, and move the label `latest` to it.

        Args:
            draft: All but the number.
            edge: The payload that was stored for it; None if the artifact is known already.
            state: What the strategy remembers, stored already.
            also: Further payloads that were stored for it.
            lease: Token of the model's lease, for a run that holds it: a version without a parent is then the
                model's first.

        Raises:
            Conflict: If the run lost its lease, or the model is not new any more.
            NotFound: If the parent or the run is not there.
            Overtaken: If the artifact (without an edge), the edge's base or a blob is not there any more.
            StoreError: If the model's name is not plain.
        """
        with self._database.write() as connection:
            key = ensure_model(connection, draft.model)
            if lease is not None:
                check_held(connection, draft.model, lease)
                _check_new(connection, key, draft)
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

    def add_metrics(
        self, model: str, number: int, metrics: Mapping[str, float], *, keep: bool = False, lease: str | None = None
    ) -> Version:
        """Add metrics to a version, replacing those of the same name, or keeping them.

        Args:
            model: Name of the model.
            number: Number of the version.
            metrics: By name.
            keep: Whether those that are there stay as they are.
            lease: Token of the model's lease, for a run that holds it.

        Raises:
            Conflict: If the run lost its lease.
            NotFound: If the version is not there.
            StoreError: If they are too many, or a name is not plain.
        """
        with self._database.write() as connection:
            if lease is not None:
                check_held(connection, model, lease)
            version = _version(connection, model, number)
            merged = {**metrics, **version.metrics} if keep else {**version.metrics, **metrics}
            check_metrics(merged)
            text = rows.metrics_to_json(merged)
            connection.execute(update(versions).where(versions.c.serial == version.serial).values(metrics=text))
            return _version(connection, model, number)

    def announce(self, model: str) -> None:
        """Note the name of a model of which a first payload is about to be put. Raises StoreError."""
        with self._database.read() as connection:
            known = connection.execute(select(models.c.id).where(models.c.name == model)).first()
        if known is None:
            with self._database.write() as connection:
                ensure_model(connection, model)

    def emptied(self) -> bool:
        """Whether no version is named, though some were, or no model that blobs could be of was announced."""
        with self._database.read() as connection:
            if connection.execute(select(versions.c.serial).limit(1)).first() is not None:
                return False
            numbers = connection.execute(select(models.c.next_number)).scalars().all()
        return not numbers or any(number != 0 for number in numbers)

    def models(self) -> tuple[str, ...]:
        """Return the names of the models that have a version, sorted."""
        with self._database.read() as connection:
            return lookup.models_of(connection)

    def resolve(self, model: str, *refs: str) -> tuple[Version, ...]:
        """Return the versions that names stand for at one moment; see `lookup`. Raises NotFound."""
        with self._database.read() as connection:
            return lookup.resolve(connection, model, refs)

    def labelled(self, model: str, ref: str) -> tuple[Version, tuple[str, ...]]:
        """Return the version that a name stands for, and the labels that stand at it then. Raises NotFound."""
        with self._database.read() as connection:
            (found,) = lookup.resolve(connection, model, (ref,))
            labels = lookup.labels_of(connection, model)
        return found, tuple(label for label, number in labels.items() if number == found.number)

    def between(self, model: str, first: str, last: str) -> tuple[Version, ...]:
        """Return the versions from one name to another, by number. Raises NotFound."""
        with self._database.read() as connection:
            return lookup.between(connection, model, first, last)

    def history(self, model: str, *, limit: int | None = None) -> History:
        """Return the newest versions of a model, and its labels as they stand at that moment."""
        with self._database.read() as connection:
            return lookup.history(connection, model, limit)

    def versions(self, model: str) -> tuple[Version, ...]:
        """Return all versions of a model by number; none if the model is not there."""
        with self._database.read() as connection:
            return tuple(rows.version(row) for row in connection.execute(of_model(model).order_by(versions.c.number)))

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
            row = connection.execute(of_model(model).order_by(versions.c.number.desc()).limit(1)).one_or_none()
        return None if row is None else rows.version(row)

    def edges_behind(self, digest: str) -> tuple[Edge, ...]:
        """Return every stored payload on any way to an artifact, in no particular order."""
        with self._database.read() as connection:
            return edges_behind(connection, [digest])

    def made_of(self, digests: Iterable[str]) -> tuple[tuple[Edge, ...], dict[str, int]]:
        """Return every stored payload on any way to some artifacts, and the bytes of what they make, at one moment."""
        with self._database.read() as connection:
            found = edges_behind(connection, digests)
            return found, sizes_of(connection, {edge.target for edge in found})

    def lacks(self, blob: str) -> bool:
        """Whether a blob is gone that is needed: named before and after it was looked for, else it was let go."""
        return self._names(blob) and not self._holds(blob) and self._names(blob)

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

    def inventory(self, told: list[str] | None = None) -> Inventory:
        """Return everything the catalog knows, as it stands now; see `take_inventory`."""
        with self._database.read() as connection:
            return take_inventory(connection, told)

    def _names(self, blob: str) -> bool:
        with self._database.read() as connection:
            return is_named(connection, blob)

    def _add_artifact(self, connection: Connection, draft: Draft, edge: Edge | None) -> int:
        """Add the artifact and its edge unless they are there; return the bytes of what was added."""
        if edge is not None and edge.target != draft.digest:
            raise StoreError(f"the payload makes {edge.target}, expected {draft.digest}")
        if edge is None:
            check_kept(connection, draft.digest)
            return 0
        add_artifact(connection, draft.digest, draft.nbytes)
        return add_edge(connection, edge, holds=self._holds)


def _version(connection: Connection, model: str, number: int) -> Version:
    row = connection.execute(of_model(model).where(versions.c.number == number)).one_or_none()
    if row is None:
        raise NotFound(f"model {model!r} has no version v{number}")
    return rows.version(row)


def _check_new(connection: Connection, key: int, draft: Draft) -> None:
    if draft.parent is None and connection.execute(select(versions.c.serial).where(versions.c.model_id == key)).first():
        raise Conflict(
            f"model {draft.model!r} was new when the run began, and is in the store now: nothing was published"
        )


def _check_parents(connection: Connection, key: int, draft: Draft) -> None:
    parent = select(versions.c.serial).where(versions.c.model_id == key, versions.c.number == draft.parent)
    if draft.parent is not None and not connection.execute(parent).first():
        raise NotFound(f"model {draft.model!r} has no version v{draft.parent} to be the parent of a new one")
    run = select(runs.c.id).where(runs.c.id == draft.run)
    if draft.run is not None and not connection.execute(run).first():
        raise NotFound(f"run {draft.run!r} is not in the store: start it before it publishes")
