"""Reading the manifest of a bundle (`contents`), which may come from anybody.

Fields, types, sizes and bounds are checked here, content by whoever reads it. A manifest is walked value by value
(`scanner`): what it takes in memory is bounded before it is parsed, and metrics are counted over all versions. What
passes is what `contents.to_json` writes; a writer reads what it wrote, so no bundle is made that is not taken in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, final

from flserve_app.errors import StoreError
from flserve_app.registry.contents import FORMAT, KIND, Contents
from flserve_app.registry.scanner import Scanner, canonical
from flserve_app.store import Draft, Edge, Serving, check_digest
from flserve_app.store.bounds import (
    MAX_SERVING_BYTES,
    check_bytes,
    check_codec,
    check_metrics,
    check_number,
    read_serving,
)
from flserve_app.store.names import check_name
from flserve_app.store.rows import time_from_text, time_to_text
from flserve_app.text import plain

MAX_ENTRIES = 1 << 17
MAX_METRICS = 1 << 20  # of all versions together
_MAX_VERSION_BYTES = MAX_SERVING_BYTES + (2 << 20)
_MAX_SMALL_BYTES = 2048
_PAYLOAD = frozenset({"base", "blob", "codec", "nbytes", "target"})
_VERSION = frozenset({"codec", "created", "digest", "metrics", "number", "parent", "round", "serving"})
_FIELDS = frozenset({"format", "kind", "model", "payloads", "sizes", "versions"})

Value = TypeVar("Value")


def from_json(data: bytes) -> Contents:
    """Return what a manifest says.

    Raises:
        StoreError: If it is of a newer format, or not as the format says.
    """
    return _Reading(data).contents()


@final
class _Reading:
    """One pass over a manifest; names are sorted, so what a later field needs was read before."""

    def __init__(self, data: bytes) -> None:
        self._scanner = Scanner(data, "bundle: its manifest")
        self._found: dict[str, Any] = {}
        self._used = 0  # of the servings, in order
        self._metrics = 0
        self._names: dict[str, str] = {}  # one text for a name that many versions have

    def contents(self) -> Contents:
        for name in self._scanner.members():
            self._found[name] = self._field(name)
        self._scanner.end()
        self._check_kind()
        model = _get(self._found, "model", str)
        payloads, sizes = _get(self._found, "payloads", tuple), _get(self._found, "sizes", dict)
        versions = _get(self._found, "versions", dict)
        if self._found.keys() != _FIELDS | ({"servings"} if self._found["format"] > 1 else set()):
            raise _other_form()
        _check_whole(versions, payloads, sizes)
        if self._used != len(self._found.get("servings", ())):
            raise _other_form()
        return Contents(model=model, versions=versions, payloads=payloads, sizes=sizes)

    def _field(self, name: str) -> Any:
        scanner = self._scanner
        match name:
            case "payloads":
                self._check_kind()
                return tuple(_edge(entry) for entry in scanner.items(MAX_ENTRIES, _MAX_SMALL_BYTES))
            case "servings":
                servings = {}
                for value in scanner.items(MAX_ENTRIES, _MAX_VERSION_BYTES):
                    servings[canonical(value)] = _serving(value)
                return tuple(servings.values())
            case "sizes":
                return {check_digest(digest): check_bytes(scanner.value(32)) for digest in scanner.members()}
            case "versions":
                return dict(self._versions())
            case _:
                return scanner.value(_MAX_SMALL_BYTES)

    def _check_kind(self) -> None:
        if self._found.get("kind") != KIND:
            raise StoreError("bundle: its manifest is not one of a bundle")
        if not 1 <= (found := _number(self._found, "format")) <= FORMAT:
            raise StoreError(
                f"bundle: it has format {found}, this flserve reads up to {FORMAT}: a newer flserve wrote it"
            )

    def _versions(self) -> Iterator[tuple[int, Draft]]:
        model, sizes = _get(self._found, "model", str), _get(self._found, "sizes", dict)
        check_name("bundle: a model's name", model)
        before = -1
        for entry in self._scanner.items(MAX_ENTRIES, _MAX_VERSION_BYTES):
            number = _number(_object(entry, "versions"), "number")
            if number == before or entry.keys() != _VERSION:
                raise _other_form()
            if number < before:
                raise StoreError("bundle: its versions are not one or more in the order of their numbers")
            yield number, self._draft(entry, model, sizes)
            before = number

    def _draft(self, entry: Mapping[str, Any], model: str, sizes: Mapping[str, int]) -> Draft:
        digest = check_digest(_get(entry, "digest", str))
        if digest not in sizes:
            raise StoreError(f"bundle: the size of artifact {digest} is not in its manifest")
        return Draft(
            model=model,
            digest=digest,
            nbytes=sizes[digest],
            parent=None if entry["parent"] is None else _number(entry, "parent"),
            round=_number(entry, "round"),
            run=None,
            codec=check_codec(_get(entry, "codec", str)),
            metrics=self._figures(_get(entry, "metrics", dict)),
            created=_time(_get(entry, "created", str)),
            serving=self._served(entry["serving"]),
        )

    def _figures(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        self._metrics += len(metrics)
        if self._metrics > MAX_METRICS:
            raise StoreError(f"bundle: its versions have more than {MAX_METRICS} metrics together")
        check_metrics({name: 0.0 for name in metrics})
        return {self._names.setdefault(name, name): _metric(name, figure) for name, figure in metrics.items()}

    def _served(self, value: object) -> Serving | None:
        if self._found["format"] == 1:
            return None if value is None else _serving(value)
        servings: tuple[Serving, ...] = self._found.get("servings", ())
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < len(servings):
            raise StoreError(f"bundle: a version's serving is none of {len(servings)}: {plain(value, 40)}")
        if value > self._used:
            raise _other_form()
        self._used += value == self._used
        return servings[value]


def _check_whole(versions: Mapping[int, Draft], payloads: tuple[Edge, ...], sizes: Mapping[str, int]) -> None:
    """Check what holds for a manifest as a whole."""
    if not versions:
        raise StoreError("bundle: its versions are not one or more in the order of their numbers")
    made: set[str | None] = {None}
    for edge in payloads:
        if edge.base not in made or edge.target in made:
            raise StoreError(f"bundle: payload {edge.blob} is out of order, or makes what was made before")
        made.add(edge.target)
    if made - {None} != set(sizes) or not {draft.digest for draft in versions.values()} <= made:
        raise StoreError("bundle: its payloads do not make the artifacts that it names")
    for number, draft in versions.items():
        if draft.parent is not None and (draft.parent not in versions or draft.parent >= number):
            raise StoreError(f"bundle: v{number} has the parent v{draft.parent}, which is no earlier version in it")


def _edge(entry: object) -> Edge:
    fields = _object(entry, "payloads")
    base = fields.get("base")
    edge = Edge(
        target=check_digest(_get(fields, "target", str)),
        base=None if base is None else check_digest(base),
        codec=check_codec(_get(fields, "codec", str)),
        blob=check_digest(_get(fields, "blob", str)),
        nbytes=check_bytes(fields.get("nbytes")),
    )
    if fields.keys() != _PAYLOAD:
        raise _other_form()
    return edge


def _other_form() -> StoreError:
    return StoreError("bundle: its manifest is not in its canonical form: it has other fields, or says a thing twice")


def _object(entry: object, name: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise StoreError(f"bundle: {name} must be objects, found {plain(entry, 80)!r}")
    return entry


def _get(entry: Mapping[str, Any], name: str, kind: type[Value]) -> Value:
    value = entry.get(name)
    if type(value) is not kind or not isinstance(value, kind):
        raise StoreError(f"bundle: {name} must be {kind.__name__}, found {plain(value, 80)!r}")
    return value


def _number(entry: Mapping[str, Any], name: str) -> int:
    return check_number(f"bundle: {name}", _get(entry, name, int))


def _metric(name: str, figure: object) -> float:
    if type(figure) is float and math.isfinite(figure):
        return figure
    if figure in ("nan", "inf", "-inf"):
        return float(str(figure))
    raise StoreError(f"bundle: metric {name!r} must be a number, found {plain(figure, 80)!r}")


def _time(text: str) -> Any:
    try:
        time = time_from_text(text)
        if time_to_text(time) == text:
            return time
    except StoreError as error:
        raise _no_time(text) from error
    raise _no_time(text)


def _no_time(text: str) -> StoreError:
    return StoreError(f"bundle: a time is ISO 8601 in UTC with microseconds, found {plain(text, 80)!r}")


def _serving(value: object) -> Serving:
    try:
        return read_serving(value)
    except StoreError as error:
        raise StoreError(f"bundle: {error}") from error
