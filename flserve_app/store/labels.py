"""Labels: movable names for versions, with a history of every move.

A move can state where it expects the label to stand, and fails if it stands elsewhere (compare and set), so
two people cannot undo each other unseen. `latest` follows every publication, in the same transaction.
"""

from __future__ import annotations

from datetime import datetime
from types import EllipsisType
from typing import final

from sqlalchemy import Connection, delete, insert, select

from flserve_app.errors import Conflict, NotFound
from flserve_app.store import rows
from flserve_app.store.database import Database
from flserve_app.store.edges import is_kept
from flserve_app.store.lookup import labels_of
from flserve_app.store.names import check_label, check_said, model_key
from flserve_app.store.schema import label_moves, labels, models, versions
from flserve_app.store.version import LATEST, LabelMove

Expected = int | None | EllipsisType


@final
class Labels:
    """The labels in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, model: str) -> dict[str, int]:
        """Return the labels of a model and the numbers they stand at, by name."""
        with self._database.read() as connection:
            return labels_of(connection, model)

    def move(
        self, model: str, label: str, number: int, *, who: str, why: str, moved: datetime, expect: Expected = ...
    ) -> LabelMove:
        """Move a label of a model to a version.

        Args:
            model: Name of the model.
            label: Name of the label; made if it is new.
            number: The version it shall stand at.
            who: Who moves it.
            why: The reason, for the history.
            moved: When, with a time zone.
            expect: Number it must stand at now, None if it must not be there; anything goes if left out.

        Raises:
            Conflict: If it does not stand where it was expected.
            NotFound: If the model or the version is not there, or its content is not any more.
            StoreError: If the name cannot be a label, or what is said is no line of text.
        """
        check_label(label)
        check_said("who moves a label", who)
        check_said("why a label is moved", why)
        with self._database.write() as connection:
            key = model_key(connection, model)
            before = _number(connection, key, label)
            if not isinstance(expect, EllipsisType) and before != expect:
                raise Conflict(
                    f"label {label!r} of {model!r} stands at {_named(before)}, expected {_named(expect)}: not moved"
                )
            _check_kept(connection, model, key, number)
            _put(connection, key, label, number, before=before, who=who, why=why, moved=moved)
        return LabelMove(model=model, label=label, before=before, after=number, who=who, why=why, moved=moved)

    def moves(self, model: str, label: str | None = None) -> tuple[LabelMove, ...]:
        """Return the moves of a model's labels (or of one), oldest first."""
        query = rows.MOVES.where(models.c.name == model).order_by(label_moves.c.id)
        if label is not None:
            query = query.where(label_moves.c.label == label)
        with self._database.read() as connection:
            return tuple(rows.label_move(row) for row in connection.execute(query))


def follow_latest(connection: Connection, key: int, number: int, moved: datetime, *, why: str = "published") -> None:
    """Move `latest` of a model to the version that is being published."""
    before = _number(connection, key, LATEST)
    _put(connection, key, LATEST, number, before=before, who="flserve", why=why, moved=moved)


def _put(
    connection: Connection,
    key: int,
    label: str,
    number: int,
    *,
    before: int | None,
    who: str,
    why: str,
    moved: datetime,
) -> None:
    move = {"label": label, "before": before, "after": number, "who": who, "why": why}
    connection.execute(insert(label_moves).values(model_id=key, moved=rows.time_to_text(moved), **move))
    connection.execute(delete(labels).where(labels.c.model_id == key, labels.c.name == label))
    connection.execute(insert(labels).values(model_id=key, name=label, number=number))


def _check_kept(connection: Connection, model: str, key: int, number: int) -> None:
    query = select(versions.c.digest).where(versions.c.model_id == key, versions.c.number == number)
    digest = connection.execute(query).scalar()
    if digest is None:
        raise NotFound(f"model {model!r} has no version v{number}: label not moved")
    if not is_kept(connection, digest):
        raise NotFound(f"the content of {model!r} v{number} was collected: label not moved")


def _number(connection: Connection, key: int, label: str) -> int | None:
    query = select(labels.c.number).where(labels.c.model_id == key, labels.c.name == label)
    found: int | None = connection.execute(query).scalar()
    return found


def _named(number: int | None) -> str:
    return "no version" if number is None else f"v{number}"
