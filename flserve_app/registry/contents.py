"""What a bundle contains: its `manifest.json`, to bytes and back.

The manifest is ASCII JSON with sorted keys and no white space, so equal contents have equal bytes:

    {"format": 1, "kind": "flserve-bundle", "model": name,
     "payloads": [{"base": digest or null, "blob": SHA-256, "codec": name, "nbytes": n, "target": digest}, ...],
     "sizes": {digest: bytes of the artifact},
     "versions": [{"codec", "created", "digest", "metrics", "number", "parent", "round", "serving"}, ...]}

Versions are in the order of their numbers; a parent outside the bundle is null; runs and labels stay at home, as
they say where and by whom. Every byte of a bundle is named here by its SHA-256, and every artifact by its digest:
whoever signs the manifest signs the bundle. A reader trusts nothing: fields, types and sizes are checked here,
content by whoever reads it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from flserve_app.errors import StoreError
from flserve_app.store import Draft, Edge, Serving, Version, check_digest
from flserve_app.store.names import check_name
from flserve_app.store.rows import metrics_to_json, serving_from_json, serving_to_json, time_to_text

FORMAT = 1
KIND = "flserve-bundle"
MAX_ENTRIES = 1 << 17
_MAX_NUMBER = (1 << 31) - 2
_MAX_BYTES = 1 << 46
_CODEC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SERVING = {"model_id": str, "arguments": dict, "inputs": list, "outputs": list, "classes": list, "preprocessing": dict}

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a bundle contains.

    Attributes:
        model: Name of the model.
        versions: Number to the version as it was published, by number.
        payloads: Payloads that make them, each after the one that makes its base.
        sizes: Digest to bytes of every artifact that the payloads make.
    """

    model: str
    versions: Mapping[int, Draft]
    payloads: tuple[Edge, ...]
    sizes: Mapping[str, int]


def draft_of(version: Version, parent: int | None) -> Draft:
    """Return a version as it was published, without the run and with the given parent."""
    return Draft(
        model=version.model,
        digest=version.digest,
        nbytes=version.nbytes,
        parent=parent,
        round=version.round,
        run=None,
        codec=version.codec,
        metrics=version.metrics,
        created=version.created,
        serving=version.serving,
    )


def to_json(contents: Contents) -> bytes:
    """Return the manifest."""
    value = {
        "format": FORMAT,
        "kind": KIND,
        "model": contents.model,
        "payloads": [
            {"target": one.target, "base": one.base, "codec": one.codec, "blob": one.blob, "nbytes": one.nbytes}
            for one in contents.payloads
        ],
        "sizes": dict(contents.sizes),
        "versions": [_version_to_json(number, draft) for number, draft in contents.versions.items()],
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def from_json(data: bytes) -> Contents:
    """Return what a manifest says.

    Raises:
        StoreError: If it is of a newer format, or not as the format says.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"bundle: its manifest is not JSON ({error})") from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise StoreError("bundle: its manifest is not one of a bundle")
    if (found := _number(value, "format")) != FORMAT:
        raise StoreError(f"bundle: it has format {found}, this flserve reads {FORMAT}: a newer flserve wrote it")
    model = _get(value, "model", str)
    check_name("bundle: a model's name", model)
    sizes = {check_digest(digest): _bytes(size) for digest, size in _get(value, "sizes", dict).items()}
    payloads = tuple(_edge(entry) for entry in _entries(value, "payloads"))
    versions = {_number(entry, "number"): _draft(entry, model, sizes) for entry in _entries(value, "versions")}
    _check_whole(versions, payloads, sizes)
    contents = Contents(model=model, versions=versions, payloads=payloads, sizes=sizes)
    if to_json(contents) != data:  # other fields, a name twice, another order: what is signed has one form
        raise StoreError("bundle: its manifest is not in its canonical form")
    return contents


def _check_whole(versions: Mapping[int, Draft], payloads: tuple[Edge, ...], sizes: Mapping[str, int]) -> None:
    """Check what holds for a manifest as a whole."""
    if not versions or list(versions) != sorted(versions):
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


def _version_to_json(number: int, draft: Draft) -> dict[str, Any]:
    return {
        "number": number,
        "digest": draft.digest,
        "parent": draft.parent,
        "round": draft.round,
        "codec": draft.codec,
        "metrics": metrics_to_json(draft.metrics),
        "created": time_to_text(draft.created),
        "serving": serving_to_json(draft.serving),
    }


def _edge(entry: Mapping[str, Any]) -> Edge:
    base = entry.get("base")
    return Edge(
        target=check_digest(_get(entry, "target", str)),
        base=None if base is None else check_digest(base),
        codec=_codec(entry),
        blob=check_digest(_get(entry, "blob", str)),
        nbytes=_bytes(entry.get("nbytes")),
    )


def _draft(entry: Mapping[str, Any], model: str, sizes: Mapping[str, int]) -> Draft:
    digest = check_digest(_get(entry, "digest", str))
    if digest not in sizes:
        raise StoreError(f"bundle: the size of artifact {digest} is not in its manifest")
    return Draft(
        model=model,
        digest=digest,
        nbytes=sizes[digest],
        parent=None if entry.get("parent") is None else _number(entry, "parent"),
        round=_number(entry, "round"),
        run=None,
        codec=_codec(entry),
        metrics={name: _metric(name, figure) for name, figure in _get(entry, "metrics", dict).items()},
        created=_time(_get(entry, "created", str)),
        serving=_serving(entry.get("serving")),
    )


def _get(entry: Mapping[str, Any], name: str, kind: type[Value]) -> Value:
    value = entry.get(name)
    if type(value) is not kind or not isinstance(value, kind):
        raise StoreError(f"bundle: {name} must be {kind.__name__}, found {str(value)[:80]!r}")
    return value


def _entries(value: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    entries = _get(value, name, list)
    if len(entries) > MAX_ENTRIES or not all(isinstance(entry, dict) for entry in entries):
        raise StoreError(f"bundle: {name} must be at most {MAX_ENTRIES} objects, found {len(entries)} entries")
    return entries


def _number(entry: Mapping[str, Any], name: str) -> int:
    number = _get(entry, name, int)
    if not 0 <= number <= _MAX_NUMBER:
        raise StoreError(f"bundle: {name} must be 0 to {_MAX_NUMBER}, found {number}")
    return number


def _bytes(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_BYTES:
        raise StoreError(f"bundle: a size is 0 to {_MAX_BYTES} bytes, found {str(value)[:80]!r}")
    return value


def _codec(entry: Mapping[str, Any]) -> str:
    name = _get(entry, "codec", str)
    if _CODEC.fullmatch(name) is None:
        raise StoreError(f"bundle: a codec's name is plain, found {name[:80]!r}")
    return name


def _metric(name: str, figure: object) -> float:
    if type(figure) is float and math.isfinite(figure):
        return figure
    if figure in ("nan", "inf", "-inf"):
        return float(str(figure))
    raise StoreError(f"bundle: metric {name[:80]!r} must be a number, found {str(figure)[:80]!r}")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = datetime.min
    if time.tzinfo is None or time_to_text(time) != text:
        raise StoreError(f"bundle: a time is ISO 8601 in UTC with microseconds, found {text[:80]!r}")
    return time


def _serving(value: object) -> Serving | None:
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or {name: type(item) for name, item in value.items()} not in (_SERVING, {**_SERVING, "seed": int})
        or not all(isinstance(name, str) for name in value["classes"])
    ):
        raise StoreError("bundle: what serving takes does not hold together")
    return serving_from_json(value)
