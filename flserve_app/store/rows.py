"""Rows of the catalog to values and back.

JSON has no NaN or infinity, and a diverged model has them as metrics: they are stored as `"nan"`, `"inf"` and
`"-inf"`, which `float` reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select

from flserve_app.store.schema import artifacts, label_moves, models, runs, versions
from flserve_app.store.version import Draft, Edge, Holder, LabelMove, Run, Serving, State, Version

VERSIONS: Select[Any] = (
    select(versions, models.c.name.label("model"), artifacts.c.nbytes, artifacts.c.collected)
    .join(models, versions.c.model_id == models.c.id)
    .join(artifacts, versions.c.digest == artifacts.c.digest)
)
RUNS: Select[Any] = select(runs, models.c.name.label("model")).join(models, runs.c.model_id == models.c.id)
MOVES: Select[Any] = select(label_moves, models.c.name.label("model")).join(models)


def version(row: Row[Any]) -> Version:
    """Return a row of `VERSIONS` as a value."""
    return Version(
        model=row.model,
        number=row.number,
        serial=row.serial,
        digest=row.digest,
        nbytes=row.nbytes,
        stored=row.stored,
        parent=row.parent,
        round=row.round,
        run=row.run,
        codec=row.codec,
        metrics={name: float(value) for name, value in row.metrics.items()},
        created=datetime.fromisoformat(row.created),
        serving=serving_from_json(row.serving),
        collected=None if row.collected is None else datetime.fromisoformat(row.collected),
    )


def edge(row: Row[Any]) -> Edge:
    """Return a row of `edges` as a value."""
    return Edge(target=row.target, base=row.base, codec=row.codec, blob=row.blob, nbytes=row.nbytes)


def state(row: Row[Any]) -> State:
    """Return a row of `states` as a value."""
    return State(kind=row.kind, blob=row.blob, nbytes=row.nbytes)


def holder(row: Row[Any]) -> Holder:
    """Return a row of `clients` as a value."""
    seen = datetime.fromisoformat(row.seen)
    return Holder(identity=row.identity, digest=row.digest, number=row.number, round=row.round, seen=seen)


def run(row: Row[Any]) -> Run:
    """Return a row of `RUNS` as a value."""
    return Run(
        run=row.id,
        model=row.model,
        config=row.config,
        started=datetime.fromisoformat(row.started),
        finished=None if row.finished is None else datetime.fromisoformat(row.finished),
        state=row.state,
    )


def label_move(row: Row[Any]) -> LabelMove:
    """Return a row of `MOVES` as a value."""
    return LabelMove(
        model=row.model,
        label=row.label,
        before=row.before,
        after=row.after,
        who=row.who,
        why=row.why,
        moved=datetime.fromisoformat(row.moved),
    )


def metrics_to_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """Return metrics as JSON can hold them."""
    values = {str(name): float(value) for name, value in metrics.items()}
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def serving_to_json(serving: Serving | None) -> dict[str, Any] | None:
    """Return what serving takes as a JSON object, without a seed if there is none, as before there were any."""
    if serving is None:
        return None
    plain = {field.name: getattr(serving, field.name) for field in fields(serving)}
    return {name: value for name, value in plain.items() if name != "seed" or value is not None}


def insert_version(connection: Connection, key: int, number: int, draft: Draft, *, stored: int) -> None:
    """Add a row of `versions`."""
    columns = {
        "digest": draft.digest,
        "parent": draft.parent,
        "round": draft.round,
        "run": draft.run,
        "codec": draft.codec,
        "metrics": metrics_to_json(draft.metrics),
        "created": time_to_text(draft.created),
        "serving": serving_to_json(draft.serving),
    }
    connection.execute(insert(versions).values(model_id=key, number=number, stored=stored, **columns))


def time_to_text(time: datetime) -> str:
    """Return a time as the catalog keeps it: UTC, always with microseconds."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def serving_from_json(value: dict[str, Any] | None) -> Serving | None:
    """Return what serving takes from a JSON object."""
    if value is None:
        return None
    tuples = {name: tuple(value[name]) for name in ("inputs", "outputs", "classes")}
    return Serving(**{**value, **tuples})
