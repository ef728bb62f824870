"""Leases: one run at a time publishes under a model's name.

Rules:
- A model has one lease or none. A run takes it before it looks at the model, and gives it back when it ends.
- Its holder says again and again that it lives. A lease is free if its holder is gone, which is seen at once from the
  same host, or else once it was not heard of for `SILENT_SECONDS`. A time that far ahead is no sign of life either.
- Whoever holds a lease writes in a transaction that sees it there: a run that was taken for dead, and is not, can
  publish nothing any more.
- Whoever takes a dead run's lease marks that run as interrupted: it could not do so itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, final

from sqlalchemy import Connection, delete, insert, select, update

from flserve_app.errors import Conflict
from flserve_app.processes import Process, is_there, this_process
from flserve_app.store import rows
from flserve_app.store.database import Database
from flserve_app.store.names import ensure_model
from flserve_app.store.schema import leases, models, runs

SILENT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to publish under a model's name.

    Attributes:
        model: Name of the model.
        token: Names this lease; drawn at random.
        run: Id of the run that holds it, if it has one.
        process: The process that holds it.
        taken: When it was taken, in UTC.
        heard: When its holder was last heard of, in UTC.
    """

    model: str
    token: str
    run: str | None
    process: Process
    taken: datetime
    heard: datetime


def is_free(lease: Lease, *, there: bool | None, now: datetime) -> bool:
    """Whether a lease may be taken over.

    Args:
        lease: The lease.
        there: Whether its process is still there; None if nobody knows.
        now: The time.
    """
    if there is None:
        return abs((now - lease.heard).total_seconds()) > SILENT_SECONDS
    return not there


@final
class Leases:
    """The leases in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, lease: Lease, *, mine: Collection[str]) -> None:
        """Take a model's lease; the model need not have a version yet.

        Args:
            lease: What to take; it is heard of now.
            mine: Tokens of the leases that this process holds.

        Raises:
            Conflict: If another run holds it.
            StoreError: If the model's name is not plain.
        """
        with self._database.write() as connection:
            key = ensure_model(connection, lease.model)
            held = _held(connection, lease.model)
            if held is not None:
                _check_free(held, mine, lease.heard)
                _remove(connection, held)
            connection.execute(insert(leases).values(model_id=key, **_columns(lease)))

    def heard(self, lease: Lease, now: datetime) -> bool:
        """Note that a lease's holder lives; returns whether it still holds it."""
        with self._database.write() as connection:
            own = update(leases).where(leases.c.token == lease.token)
            return bool(connection.execute(own.values(heard=rows.time_to_text(now))).rowcount)

    def give_back(self, lease: Lease) -> None:
        """Give a lease back; one that was taken over is left to its new holder."""
        with self._database.write() as connection:
            connection.execute(delete(leases).where(leases.c.token == lease.token))

    def models(self) -> tuple[str, ...]:
        """Return the names of the models that have a lease."""
        with self._database.read() as connection:
            query = select(models.c.name).join(leases, leases.c.model_id == models.c.id)
            return tuple(connection.execute(query).scalars())

    def check_free(self, model: str, *, mine: Collection[str], now: datetime) -> None:
        """Refuse a model that another run holds now; the model need not be there. Raises Conflict."""
        with self._database.read() as connection:
            held = _held(connection, model)
        if held is not None:
            _check_free(held, mine, now)


def check_held(connection: Connection, model: str, token: str) -> None:
    """Check, in a write transaction of a run, that it holds the model's lease.

    Raises:
        Conflict: If another run took it over.
    """
    held = _held(connection, model)
    if held is None or held.token != token:
        by = "nobody" if held is None else _named(held)
        raise Conflict(
            f"model {model!r} is not this run's any more: it was not heard of for {SILENT_SECONDS:.0f} s, "
            f"and {by} has the model now; nothing was written"
        )


def _check_free(held: Lease, mine: Collection[str], now: datetime) -> None:
    """Refuse to take a lease that another run holds. Raises Conflict."""
    here = held.process == this_process()
    there = held.token in mine if here else is_there(held.process)
    if not is_free(held, there=there, now=now):
        known = "" if there else f" if it lives, and it is free {SILENT_SECONDS:.0f} s after it was last heard of"
        raise Conflict(
            f"model {held.model!r} is being trained by {_named(held)}{known}: "
            "wait until it ends, or choose another model_name"
        )


def _remove(connection: Connection, held: Lease) -> None:
    """Remove a dead run's lease, and mark the run."""
    connection.execute(delete(leases).where(leases.c.token == held.token))
    died = update(runs).where(runs.c.id == held.run, runs.c.state == "running")
    connection.execute(died.values(state="interrupted", finished=rows.time_to_text(held.heard)))


def _named(lease: Lease) -> str:
    run = "a run" if lease.run is None else f"run {lease.run}"
    return f"{run} (process {lease.process.pid} on {lease.process.host or 'an unnamed host'})"


def _columns(lease: Lease) -> dict[str, Any]:
    process = lease.process
    return {
        "token": lease.token,
        "run": lease.run,
        "host": process.host,
        "place": process.place,
        "pid": process.pid,
        "begun": process.begun,
        "taken": rows.time_to_text(lease.taken),
        "heard": rows.time_to_text(lease.heard),
    }


def _held(connection: Connection, model: str) -> Lease | None:
    query = select(leases).join(models, leases.c.model_id == models.c.id).where(models.c.name == model)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Lease(
        model=model,
        token=row.token,
        run=row.run,
        process=Process(host=row.host, place=row.place, pid=row.pid, begun=row.begun),
        taken=datetime.fromisoformat(row.taken),
        heard=datetime.fromisoformat(row.heard),
    )
