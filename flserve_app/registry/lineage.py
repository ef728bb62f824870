"""What order payloads tell: which artifacts can be made, and each after the one that it was made from.

Pure functions on values. Names, metrics and labels are in no payload, but a delta names its base, and the time at
which a payload was written tells which of two chains came first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from flserve_app.codec import inspect
from flserve_app.store import Edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A payload in the store.

    Attributes:
        edge: What it says of itself.
        nbytes: Bytes of the artifact it makes.
        names: Names of its tensors; None if it leaves them to its base.
        written: When its file was.
    """

    edge: Edge
    nbytes: int
    names: tuple[str, ...] | None
    written: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """An artifact in its line.

    Attributes:
        payload: By which it was reached first.
        parent: Place in the line of the artifact that it was made from; None if it stands alone.
    """

    payload: Found
    parent: int | None


def read_header(blob: str, data: memoryview, written: datetime) -> Found:
    """Return what a payload says of itself. Raises CodecError if it is none."""
    said = inspect(data)
    names = [tensor.name for tensor in said.tensors]
    return Found(
        edge=Edge(target=said.target, base=said.base, codec=said.codec, blob=blob, nbytes=len(data)),
        nbytes=said.declared_bytes,
        names=tuple(name for name in names if name is not None) if None not in names else None,
        written=written,
    )


def lines(found: Iterable[Found], known: frozenset[str] = frozenset()) -> tuple[tuple[Ancestor, ...], ...]:
    """Return the artifacts that payloads make, those with the same tensors in one line, each line in order.

    Args:
        found: The payloads.
        known: Digests of artifacts that need no place: something else speaks of them.
    """
    leaving: dict[str | None, list[Found]] = {}
    for payload in found:
        leaving.setdefault(payload.edge.base, []).append(payload)
    queue: list[tuple[datetime, str, str, int]] = []
    waiting: list[tuple[Found, tuple[str, ...]]] = []

    def reach(base: str | None, names: tuple[str, ...]) -> None:
        for payload in leaving.pop(base, []):
            waiting.append((payload, payload.names or names))
            heapq.heappush(queue, (payload.written, payload.edge.target, payload.edge.blob, len(waiting) - 1))

    reach(None, ())
    grown: dict[tuple[str, ...], list[Ancestor]] = {}
    places: dict[str, tuple[tuple[str, ...], int] | None] = {}
    while queue:
        payload, names = waiting[heapq.heappop(queue)[-1]]
        target = payload.edge.target
        if target in places:
            continue
        line = grown.setdefault(names, [])
        places[target] = None
        if target not in known:
            places[target] = names, len(line)
            line.append(Ancestor(payload=payload, parent=_parent(payload, names, places)))
        reach(target, names)
    return tuple(tuple(line) for line in grown.values() if line)


def _parent(
    payload: Found, names: tuple[str, ...], places: Mapping[str, tuple[tuple[str, ...], int] | None]
) -> int | None:
    place = places.get(payload.edge.base or "")
    return place[1] if place is not None and place[0] == names else None
