"""How history is kept: which payloads lead to an artifact, and when a new one stands alone.

Pure functions on values. An edge without a base is a keyframe; the others are deltas. A chain leads from a
keyframe, or from an artifact that is at hand, to its target.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping

from flserve_app.errors import NotFound
from flserve_app.store import Edge


def cheapest_chain(target: str, edges: Iterable[Edge], at_hand: Collection[str] = ()) -> tuple[Edge, ...]:
    """Return the edges to apply, first to last, that make an artifact from the fewest bytes of payload.

    Dijkstra's shortest path, with bytes for lengths. Equal costs are decided by digest, so the same history
    always gives the same chain.

    Args:
        target: Digest of the artifact.
        edges: What is stored; more than is needed is fine, and so are circles.
        at_hand: Digests of artifacts that cost nothing.

    Returns:
        The chain; empty if the target is at hand.

    Raises:
        NotFound: If no chain leads there.
    """
    reached = _reach(edges, at_hand, target)
    if target not in reached:
        raise NotFound(f"artifact {target} cannot be made from what the store holds")
    return _trace(target, reached)


def cheapest_chains(targets: Iterable[str], edges: Iterable[Edge]) -> dict[str, tuple[Edge, ...]]:
    """Return the cheapest chain from nothing to each of some artifacts, but to those that none leads to."""
    reached = _reach(edges, (), None)
    return {target: _trace(target, reached) for target in targets if target in reached}


def made_by(edges: Iterable[Edge]) -> frozenset[str]:
    """Return the artifacts that can be made from nothing."""
    leaving: dict[str | None, list[str]] = {}
    for edge in edges:
        leaving.setdefault(edge.base, []).append(edge.target)
    made: set[str] = set()
    queue: list[str | None] = [None]
    while queue:
        new = [target for target in dict.fromkeys(leaving.pop(queue.pop(), ())) if target not in made]
        made.update(new)
        queue += new
    return frozenset(made)


def keyframe_is_due(chain_to_parent: Collection[Edge], keyframe_every: int) -> bool:
    """Whether the next artifact shall stand alone, so that no chain is longer than `keyframe_every` payloads."""
    return len(chain_to_parent) >= keyframe_every


def delta_is_too_big(delta_bytes: int, chain_to_parent: Collection[Edge]) -> bool:
    """Whether a delta is no smaller than the keyframe its chain starts from, so that a keyframe should be tried."""
    return any(edge.base is None and edge.nbytes <= delta_bytes for edge in chain_to_parent)


def _reach(edges: Iterable[Edge], at_hand: Collection[str], target: str | None) -> Mapping[str | None, Edge | None]:
    """Return by which edge each artifact is reached the cheapest way, up to the target."""
    leaving: dict[str | None, list[Edge]] = {}
    for edge in edges:
        leaving.setdefault(edge.base, []).append(edge)
    starts: list[str | None] = [None, *at_hand]
    reached: dict[str | None, Edge | None] = {}
    queue: list[tuple[int, str, str | None, Edge | None]] = [(0, start or "", start, None) for start in starts]
    heapq.heapify(queue)
    while queue:
        cost, _, node, by = heapq.heappop(queue)
        if node in reached:
            continue
        reached[node] = by
        if node is not None and node == target:
            break
        for step in leaving.get(node, ()):
            heapq.heappush(queue, (cost + step.nbytes, step.blob, step.target, step))
    return reached


def _trace(target: str, reached: Mapping[str | None, Edge | None]) -> tuple[Edge, ...]:
    chain: list[Edge] = []
    edge = reached[target]
    while edge is not None:
        chain.append(edge)
        edge = reached[edge.base]
    return tuple(reversed(chain))
