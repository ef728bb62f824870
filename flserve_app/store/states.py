"""What a strategy remembered with a version, so that a run can go on as if it had never stopped.

A state is opaque bytes and a kind that says what they are. The states of a model's last `KEPT` versions are
kept; the transaction that adds one forgets the older ones. Their blobs are then nobody's, and left to a sweep.
"""

from __future__ import annotations

import re
from typing import final

from sqlalchemy import Connection, delete, func, insert, select

from flserve_app.errors import NotFound, StoreError
from flserve_app.store import rows
from flserve_app.store.claims import Holds, check_there
from flserve_app.store.database import Database
from flserve_app.store.names import model_key
from flserve_app.store.schema import models, states, versions
from flserve_app.store.version import State

KEPT = 3
_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def check_kind(kind: str) -> str:
    """Return the kind of a state if it is plain. Raises StoreError."""
    if not isinstance(kind, str) or _KIND.fullmatch(kind) is None:
        raise StoreError(
            f"a state's kind is 1 to 64 letters, digits, dots, dashes, pluses or underscores; found {str(kind)[:80]!r}"
        )
    return kind


@final
class States:
    """The states in one database.

    Args:
        database: The catalog.
        holds: Tells whether a blob is there.
    """

    def __init__(self, database: Database, *, holds: Holds) -> None:
        self._database = database
        self._holds = holds

    def save(self, model: str, number: int, state: State) -> None:
        """Set the state of a version that is there.

        Raises:
            NotFound: If the version is not there.
            StoreError: If it is older than the last `KEPT`.
        """
        with self._database.write() as connection:
            key = model_key(connection, model)
            newest = connection.execute(select(func.max(versions.c.number)).where(versions.c.model_id == key)).scalar()
            there = select(versions.c.serial).where(versions.c.model_id == key, versions.c.number == number)
            if not connection.execute(there).first():
                raise NotFound(f"model {model!r} has no version v{number}: state not saved")
            if number <= int(newest or 0) - KEPT:
                raise StoreError(
                    f"state of {model!r} v{number} not saved: only the last {KEPT} versions, up to v{newest}, have one"
                )
            put_state(connection, key, number, state, holds=self._holds)
            forget_old_states(connection, key)

    def get(self, model: str, number: int) -> State | None:
        """Return the state of a version, if it has one."""
        query = select(states).join(models, states.c.model_id == models.c.id)
        with self._database.read() as connection:
            row = connection.execute(query.where(models.c.name == model, states.c.number == number)).one_or_none()
        return None if row is None else rows.state(row)

    def blobs(self, model: str) -> tuple[str, ...]:
        """Return the blobs of a model's states."""
        query = select(states.c.blob).join(models, states.c.model_id == models.c.id).where(models.c.name == model)
        with self._database.read() as connection:
            return tuple(connection.execute(query.distinct()).scalars())


def put_state(connection: Connection, key: int, number: int, state: State, *, holds: Holds) -> None:
    """Set the state of a version."""
    check_there(holds, state.blob)
    connection.execute(delete(states).where(states.c.model_id == key, states.c.number == number))
    values = {"kind": check_kind(state.kind), "blob": state.blob, "nbytes": state.nbytes}
    connection.execute(insert(states).values(model_id=key, number=number, **values))


def forget_old_states(connection: Connection, key: int) -> None:
    """Forget the states of all but the last versions of a model."""
    newest = select(func.max(versions.c.number)).where(versions.c.model_id == key).scalar_subquery()
    connection.execute(delete(states).where(states.c.model_id == key, states.c.number <= newest - KEPT))
