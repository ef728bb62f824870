"""Rows of the catalog to values and back.

A catalog is a file that anybody may have written to, so a row is a value only if every column has its type and lies
within its bounds; any other is an error that names the row and what it holds. JSON has no NaN or infinity, and a
diverged model has them as metrics: they are stored as `"nan"`, `"inf"` and `"-inf"`, which `float` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, get_args

from sqlalchemy import Connection, Row, Select, insert, select

from flserve_app.errors import StoreError
from flserve_app.store.blobs import is_digest
from flserve_app.store.bounds import MAX_BYTES, MAX_NUMBER, check_draft, parse_serving, serving_to_json
from flserve_app.store.schema import artifacts, label_moves, models, runs, versions
from flserve_app.store.version import Draft, Edge, Holder, LabelMove, Run, RunState, Serving, State, Version
from flserve_app.text import plain

UNREADABLE: Final = object()  # stands for JSON that is none
_MAX_JSON_CHARACTERS = 32 << 20
_MAX_INTEGER = (1 << 63) - 1

VERSIONS: Select[Any] = (
    select(versions, models.c.name.label("model"), artifacts.c.nbytes, artifacts.c.collected)
    .join(models, versions.c.model_id == models.c.id)
    .join(artifacts, versions.c.digest == artifacts.c.digest)
)
RUNS: Select[Any] = select(runs, models.c.name.label("model")).join(models, runs.c.model_id == models.c.id)
MOVES: Select[Any] = select(label_moves, models.c.name.label("model")).join(models)


def version(row: Row[Any]) -> Version:
    """Return a row of `VERSIONS` as a value. Raises StoreError if it is none."""
    what = f"version {plain(row.number, 20)} of {plain(row.model, 140)!r}"
    return Version(
        model=_text(what, "model", row.model),
        number=_number(what, "number", row.number),
        serial=_number(what, "serial", row.serial, _MAX_INTEGER),
        digest=_digest(what, "digest", row.digest),
        nbytes=_number(what, "nbytes", row.nbytes, MAX_BYTES),
        stored=_number(what, "stored", row.stored, MAX_BYTES),
        parent=None if row.parent is None else _number(what, "parent", row.parent),
        round=_number(what, "round", row.round),
        run=None if row.run is None else _text(what, "run", row.run),
        codec=_text(what, "codec", row.codec),
        metrics=_metrics(what, row.metrics),
        created=_time(what, "created", row.created),
        serving=_serving(what, row.serving),
        collected=None if row.collected is None else _time(what, "collected", row.collected),
    )


def edge(row: Row[Any]) -> Edge:
    """Return a row of `edges` as a value. Raises StoreError if it is none."""
    what = f"payload {plain(row.blob, 70)}"
    return Edge(
        target=_digest(what, "target", row.target),
        base=None if row.base is None else _digest(what, "base", row.base),
        codec=_text(what, "codec", row.codec),
        blob=_digest(what, "blob", row.blob),
        nbytes=_number(what, "nbytes", row.nbytes, MAX_BYTES),
    )


def state(row: Row[Any]) -> State:
    """Return a row of `states` as a value. Raises StoreError if it is none."""
    what = f"the state of version {plain(row.number, 20)}"
    return State(
        kind=_text(what, "kind", row.kind),
        blob=_digest(what, "blob", row.blob),
        nbytes=_number(what, "nbytes", row.nbytes, MAX_BYTES),
    )


def holder(row: Row[Any]) -> Holder:
    """Return a row of `clients` as a value. Raises StoreError if it is none."""
    what = f"client {plain(row.identity, 140)!r}"
    return Holder(
        identity=_text(what, "identity", row.identity),
        digest=_digest(what, "digest", row.digest),
        number=None if row.number is None else _integer(what, "number", row.number),
        round=_integer(what, "round", row.round),
        seen=_time(what, "seen", row.seen),
    )


def run(row: Row[Any]) -> Run:
    """Return a row of `RUNS` as a value. Raises StoreError if it is none."""
    what = f"run {plain(row.id, 140)!r}"
    if row.state not in get_args(RunState):
        raise _strange(what, "state", row.state, f"one of {', '.join(get_args(RunState))}")
    if not isinstance(row.config, dict):
        raise _strange(what, "config", row.config, "a JSON object")
    return Run(
        run=_text(what, "id", row.id),
        model=_text(what, "model", row.model),
        config=row.config,
        started=_time(what, "started", row.started),
        finished=None if row.finished is None else _time(what, "finished", row.finished),
        state=row.state,
    )


def label_move(row: Row[Any]) -> LabelMove:
    """Return a row of `MOVES` as a value. Raises StoreError if it is none."""
    what = f"a move of label {plain(row.label, 70)!r}"
    return LabelMove(
        model=_text(what, "model", row.model),
        label=_text(what, "label", row.label),
        before=None if row.before is None else _number(what, "before", row.before),
        after=_number(what, "after", row.after),
        who=_text(what, "who", row.who),
        why=_text(what, "why", row.why),
        moved=_time(what, "moved", row.moved),
    )


def label(row: Any) -> tuple[str, int]:
    """Return name and number of a row of `labels`. Raises StoreError if it has none."""
    what = f"label {plain(row.name, 70)!r}"
    return _text(what, "name", row.name), _number(what, "number", row.number)


def json_from_text(text: Any) -> Any:
    """Return what a JSON column holds; `UNREADABLE` if it is no JSON, so that the row can be named."""
    if not isinstance(text, str) or len(text) > _MAX_JSON_CHARACTERS:
        return UNREADABLE
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return UNREADABLE


def metrics_to_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """Return metrics as JSON can hold them."""
    values = {str(name): float(value) for name, value in metrics.items()}
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def insert_version(connection: Connection, key: int, number: int, draft: Draft, *, stored: int) -> None:
    """Add a row of `versions`. Raises StoreError if what it says is out of bounds."""
    check_draft(draft)
    columns = {
        "digest": draft.digest,
        "parent": draft.parent,
        "round": draft.round,
        "run": draft.run,
        "codec": draft.codec,
        "metrics": metrics_to_json(draft.metrics),
        "created": time_to_text(draft.created),
        "serving": None if draft.serving is None else serving_to_json(draft.serving),
    }
    connection.execute(insert(versions).values(model_id=key, number=number, stored=stored, **columns))


def time_to_text(time: datetime) -> str:
    """Return a time as the catalog keeps it: UTC, always with microseconds. Raises StoreError if it has none."""
    try:
        return time.astimezone(UTC).isoformat(timespec="microseconds")
    except (OverflowError, ValueError) as error:
        raise StoreError(f"{plain(time, 80)} is no time between the years 1 and 9999 in UTC") from error


def time_from_text(text: object) -> datetime:
    """Return a time that has a time zone. Raises StoreError if it is none."""
    try:
        time = datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError as error:
        raise StoreError(f"{plain(text, 80)!r} is no time") from error
    if time.tzinfo is None:
        raise StoreError(f"{plain(text, 80)!r} is a time without a time zone")
    time_to_text(time)
    return time


def _text(what: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _strange(what, name, value, "text")
    return value


def _number(what: str, name: str, value: object, most: int = MAX_NUMBER) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise _strange(what, name, value, f"a number of 0 to {most}")
    return value


def _integer(what: str, name: str, value: object) -> int:
    """Return what a client said of itself, which need not be a version's number."""
    if type(value) is not int:
        raise _strange(what, name, value, "a whole number")
    return value


def _digest(what: str, name: str, value: object) -> str:
    if not isinstance(value, str) or not is_digest(value):
        raise _strange(what, name, value, "64 lower-case hex digits")
    return value


def _time(what: str, name: str, value: object) -> datetime:
    try:
        return time_from_text(value)
    except StoreError as error:
        raise _strange(what, name, value, "a time with its zone") from error


def _metrics(what: str, value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise _strange(what, "metrics", value, "a JSON object of numbers")
    try:
        return {name: _metric(figure) for name, figure in value.items()}
    except (ValueError, OverflowError) as error:
        raise _strange(what, "metrics", value, "a JSON object of numbers") from error


def _metric(value: object) -> float:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return float(value)
    if value in ("nan", "inf", "-inf"):
        return float(str(value))
    raise ValueError(value)


def _serving(what: str, value: object) -> Serving | None:
    try:
        return None if value is None else parse_serving(value)
    except StoreError as error:
        raise _strange(what, "serving", value, "what serving takes") from error


def _strange(what: str, name: str, found: object, expected: str) -> StoreError:
    held = "no JSON" if found is UNREADABLE else plain(repr(found)[:400], 80)
    return StoreError(f"catalog: {what}: {name} is {held}, expected {expected}: it was damaged from outside")
