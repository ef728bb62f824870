"""Everything the catalog knows, as it stands in one transaction.

For work on the store as a whole: checking it, collecting what nobody needs, bundling. It holds rows, not bytes: a
few hundred bytes a version. Rows that are none (`rows`), or that speak of versions that are not there, end it: what is
decided on half of them would be wrong. A check of the store has them told instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, func, select

from flserve_app.errors import StoreError
from flserve_app.store import rows
from flserve_app.store.schema import clients, edges, label_moves, labels, models, states, versions
from flserve_app.store.version import LATEST, Edge, Holder, State, Version
from flserve_app.text import plain

Value = TypeVar("Value")


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


def take_inventory(connection: Connection, told: list[str] | None = None) -> Inventory:
    """Read the inventory in a transaction.

    Args:
        connection: In a transaction.
        told: Gets a sentence for each row that is none, which is left out.

    Raises:
        StoreError: If a row is none, or speaks of a version that is not there, and nobody is told.
    """
    name = models.c.name.label("model")
    named = select(labels.c.name, labels.c.number, name).join(models, labels.c.model_id == models.c.id)
    former = select(label_moves.c.after, name).join(models).where(label_moves.c.label != LATEST).distinct()
    remembered = select(states, name).join(models, states.c.model_id == models.c.id)
    seen = select(clients, name).join(models, clients.c.model_id == models.c.id)
    every = rows.VERSIONS.order_by(models.c.name, versions.c.number)

    def read(query: Any, value: Callable[[Row[Any]], Value]) -> Iterator[Value]:
        return _values(connection.execute(query), value, told)

    inventory = Inventory(
        versions=tuple(read(every, rows.version)),
        edges=tuple(read(select(edges).order_by(edges.c.blob), rows.edge)),
        labels={(model, label): number for model, (label, number) in read(named, _with_model(rows.label))},
        former=frozenset((row.model, row.after) for row in connection.execute(former)),
        states={(model, number): state for model, (number, state) in read(remembered, _with_model(_numbered))},
        holders=tuple(read(seen, _with_model(rows.holder))),
    )
    if told is None:
        _check_references(inventory)
        _check_whole(connection, inventory)
    return inventory


def _values(found: Iterable[Row[Any]], value: Callable[[Row[Any]], Value], told: list[str] | None) -> Iterator[Value]:
    for row in found:
        try:
            yield value(row)
        except StoreError as error:
            if told is None:
                raise
            told.append(str(error))


def _with_model(value: Callable[[Row[Any]], Value]) -> Callable[[Row[Any]], tuple[str, Value]]:
    return lambda row: (row.model, value(row))


def _numbered(row: Row[Any]) -> tuple[int, State]:
    return row.number, rows.state(row)


def _check_whole(connection: Connection, inventory: Inventory) -> None:
    """Check that each version has its model and artifact, without which it is not seen. Raises StoreError."""
    lacking = connection.execute(select(func.count()).select_from(versions)).scalar_one() - len(inventory.versions)
    if lacking:
        raise StoreError(
            f"catalog: {lacking} version{'' if lacking == 1 else 's'} of a model or an artifact that is not there: "
            "it was damaged from outside"
        )


def _check_references(inventory: Inventory) -> None:
    """Check that labels, their moves and states are of versions that are there. Raises StoreError."""
    there = {(version.model, version.number) for version in inventory.versions}
    spoken = [((model, number), f"label {label!r}") for (model, label), number in inventory.labels.items()]
    spoken += [(version, "a state") for version in inventory.states]
    spoken += [(version, "a move of a label") for version in inventory.former]
    for (model, number), what in spoken:
        if (model, number) not in there:
            raise StoreError(
                f"catalog: {what} is of version {plain(number, 20)} of {model!r}, which is not there: "
                "it was damaged from outside"
            )
