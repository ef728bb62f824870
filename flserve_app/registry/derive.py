"""Making every artifact that some payloads lead to, each payload decoded once.

Payloads form a graph of artifacts. It is walked depth first from the keyframes, so that few artifacts are in
memory at a time: those on the way to the present one that more payloads leave from, at most one a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flserve_app.artifact import Artifact
from flserve_app.codec import decode
from flserve_app.errors import CorruptBlob, FlserveError, NotFound
from flserve_app.store import Edge


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Derived:
    """What became of one payload.

    Attributes:
        edge: Which one.
        artifact: What it makes; None if it does not.
        error: Why it does not.
    """

    edge: Edge
    artifact: Artifact | None = None
    error: FlserveError | None = None


def apply(edge: Edge, payload: bytes | memoryview, base: Artifact | None) -> Artifact:
    """Return the artifact that an edge's payload makes of its base.

    Raises:
        CorruptBlob: If it makes another one.
        FlserveError: If it cannot be decoded.
    """
    artifact = decode(payload, base)
    if artifact.digest != edge.target:
        raise CorruptBlob(f"payload {edge.blob} makes {artifact.digest}, the catalog expects {edge.target}")
    return artifact


def derive_all(edges: Iterable[Edge], read: Callable[[Edge], bytes | memoryview]) -> Iterator[Derived]:
    """Yield what becomes of every payload.

    Args:
        edges: The payloads; circles are fine.
        read: Gives a payload's bytes; raises an `FlserveError` if it cannot.
    """
    leaving: dict[str | None, list[Edge]] = {}
    for edge in edges:
        leaving.setdefault(edge.base, []).append(edge)
    for steps in leaving.values():
        steps.sort(key=lambda edge: (edge.target not in leaving, edge.blob))  # taken from the end: leaves first
    stack: list[tuple[Artifact | None, list[Edge]]] = [(None, leaving.pop(None, []))]
    while stack:
        base, steps = stack[-1]
        if not steps:
            stack.pop()
            continue
        edge = steps.pop()
        if not steps:
            stack.pop()  # before what follows is made: the base is needed for this step only
        done = _derived(edge, read, base)
        del base
        yield done
        if done.artifact is not None and edge.target in leaving:
            stack.append((done.artifact, leaving.pop(edge.target)))
        del done
    for base_digest, steps in leaving.items():
        for edge in steps:
            yield Derived(edge=edge, error=NotFound(f"it needs {str(base_digest)[:12]}, which cannot be made"))


def _derived(edge: Edge, read: Callable[[Edge], bytes | memoryview], base: Artifact | None) -> Derived:
    try:
        return Derived(edge=edge, artifact=apply(edge, read(edge), base))
    except FlserveError as error:
        return Derived(edge=edge, error=error)
