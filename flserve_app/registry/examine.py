"""Reading every payload and state of a store beside those who write to it.

An inventory is old as soon as it is taken: a publisher forgets old states, a collection replaces chains, and their
blobs go. So what cannot be read is in doubt at first, no more. What is in doubt is read again, from a newer inventory
and nothing but that, until it is settled:

- What the newer inventory does not name was let go: no damage.
- What it names and can be read now is sound.
- What it names and could not be read twice in a row, with an inventory that names it before, between and after, is
  damaged; and with it what can be made by nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from flserve_app.errors import FlserveError, StoreError
from flserve_app.registry.derive import derive_all
from flserve_app.registry.history import made_by
from flserve_app.registry.registry import Registry
from flserve_app.store import Edge, Inventory, State

_ROUNDS = 100

Place = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What came of payloads and states.

    Attributes:
        first: The inventory by which all was read.
        inventory: The newest one, which names all that is damaged.
        edges: The payloads that were read first.
        sizes: Digest to bytes of every artifact that could be made.
        failed: Blob to reason of the payloads that could not be read, or not be applied for want of their base.
        states: (model, number) to reason of the states that could not be read.
        told: What is no row of the newest inventory, a sentence each.
    """

    first: Inventory
    inventory: Inventory
    edges: tuple[Edge, ...]
    sizes: Mapping[str, int]
    failed: Mapping[str, FlserveError]
    states: Mapping[Place, FlserveError]
    told: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What payloads made: artifacts and their sizes; what failed, and which of these by themselves."""

    sizes: Mapping[str, int]
    failed: Mapping[str, FlserveError]
    roots: frozenset[str]


def examine(registry: Registry, model: str | None) -> Examined:
    """Make every artifact of a store (or of one model) once, and read every state.

    Raises:
        StoreError: If the catalog cannot be read, or never holds still for what is in doubt.
    """
    first = registry.catalog.inventory([])
    numbers = {(one.model, one.number) for one in first.versions if model in (None, one.model)}
    edges = first.edges if model is None else behind(_wanted(first, numbers, {}), first.edges)
    made = _make(registry, edges)
    sizes = dict(made.sizes)
    states = _unreadable(registry, {place: state for place, state in first.states.items() if place in numbers})
    doubts: tuple[object, ...] | None = None
    for _ in range(_ROUNDS):
        told: list[str] = []
        newer = registry.catalog.inventory(told)
        named = {edge.blob: edge for edge in newer.edges}
        failed = {blob: error for blob, error in made.failed.items() if blob in named}
        kept = {place: newer.states[place] for place in states if place in newer.states}
        wanted = _wanted(newer, numbers, sizes)
        now = (frozenset(failed), wanted, frozenset((place, state.blob) for place, state in kept.items()))
        if not any(now) or (now == doubts and _explained(newer, failed, made.roots, wanted)):
            states = {place: states[place] for place in kept}
            return Examined(
                first=first,
                inventory=newer,
                edges=edges,
                sizes=sizes,
                failed=failed,
                states=states,
                told=tuple(told),
            )
        doubts = now
        made = _make(registry, behind({named[blob].target for blob in failed} | wanted, newer.edges))
        sizes |= made.sizes
        states = _unreadable(registry, kept)
    raise StoreError(f"the store changed {_ROUNDS} times while what was in doubt was read again: nothing is settled")


def behind(digests: Iterable[str], edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Return the payloads on any way to some artifacts."""
    arriving: dict[str, list[Edge]] = {}
    for edge in edges:
        arriving.setdefault(edge.target, []).append(edge)
    found: list[Edge] = []
    queue, seen = list(digests), set[str]()
    while queue:
        digest = queue.pop()
        if digest in seen:
            continue
        seen.add(digest)
        found += arriving.get(digest, [])
        queue += [edge.base for edge in arriving.get(digest, []) if edge.base is not None]
    return tuple(found)


def _wanted(inventory: Inventory, numbers: Collection[Place], sizes: Mapping[str, int]) -> frozenset[str]:
    """Return the artifacts of some versions that should be there and were not made."""
    return frozenset(
        version.digest
        for version in inventory.versions
        if (version.model, version.number) in numbers and version.digest not in sizes and version.collected is None
    )


def _make(registry: Registry, edges: Collection[Edge]) -> _Made:
    sizes: dict[str, int] = {}
    failed: dict[str, FlserveError] = {}
    for done in derive_all(edges, lambda edge: registry.blobs.view(edge.blob, max_bytes=edge.nbytes)):
        if done.artifact is not None:
            sizes[done.edge.target] = done.artifact.nbytes
        elif done.error is not None:
            failed[done.edge.blob] = done.error
    roots = (edge.blob for edge in edges if edge.blob in failed and (edge.base is None or edge.base in sizes))
    return _Made(sizes=sizes, failed=failed, roots=frozenset(roots))


def _unreadable(registry: Registry, states: Mapping[Place, State]) -> dict[Place, FlserveError]:
    found: dict[Place, FlserveError] = {}
    for place, state in states.items():
        try:
            registry.blobs.view(state.blob, max_bytes=state.nbytes)
        except FlserveError as error:
            found[place] = error
    return found


def _explained(inventory: Inventory, failed: Collection[str], roots: Collection[str], wanted: Collection[str]) -> bool:
    """Whether all that was not made cannot be made for want of what failed by itself.

    If not, a way to it was replaced while it was walked, and the one that is there now has to be walked yet.
    """
    reached = {None, *made_by(edge for edge in inventory.edges if edge.blob not in roots)}
    blocked = (edge.base not in reached for edge in inventory.edges if edge.blob in failed and edge.blob not in roots)
    return reached.isdisjoint(wanted) and all(blocked)
