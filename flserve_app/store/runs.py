"""Runs: what published versions, with which configuration, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, final

from sqlalchemy import Connection, insert, select, update

from flserve_app.errors import Conflict, NotFound
from flserve_app.store import rows
from flserve_app.store.database import Database
from flserve_app.store.names import check_name, ensure_model
from flserve_app.store.schema import models, runs
from flserve_app.store.version import Run, RunState


@final
class Runs:
    """The runs in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, run: str, model: str, *, config: Mapping[str, Any], started: datetime) -> Run:
        """Add a run; the model need not have a version yet.

        Raises:
            Conflict: If a run has this id already.
            StoreError: If the id or the model's name is not plain, or the configuration is not JSON.
        """
        check_name("a run's id", run)
        values = {"config": dict(config), "started": rows.time_to_text(started), "state": "running"}
        with self._database.write() as connection:
            if connection.execute(select(runs.c.id).where(runs.c.id == run)).first():
                raise Conflict(f"run {run!r} is in the store already")
            connection.execute(insert(runs).values(id=run, model_id=ensure_model(connection, model), **values))
            return _run(connection, run)

    def finish(self, run: str, state: RunState, *, finished: datetime) -> Run:
        """Record how a run ended.

        Raises:
            NotFound: If there is no such run.
        """
        values = {"state": state, "finished": rows.time_to_text(finished)}
        with self._database.write() as connection:
            connection.execute(update(runs).where(runs.c.id == run).values(**values))
            return _run(connection, run)

    def all(self, model: str | None = None) -> tuple[Run, ...]:
        """Return the runs (of one model), by start."""
        query = rows.RUNS if model is None else rows.RUNS.where(models.c.name == model)
        with self._database.read() as connection:
            return tuple(rows.run(row) for row in connection.execute(query.order_by(runs.c.started, runs.c.id)))


def _run(connection: Connection, run: str) -> Run:
    row = connection.execute(rows.RUNS.where(runs.c.id == run)).one_or_none()
    if row is None:
        raise NotFound(f"run {run!r} is not in the store")
    return rows.run(row)
