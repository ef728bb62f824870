"""Payloads that versions need and the catalog does not name, or not as they are.

A payload says of itself what it makes of what, so its row can be made again. Which ones that concerns is the same
for a collection, which must not take them for garbage, and for a repair, which names them again. Stores in which
every version can be made have none, and are not looked at any further.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from flserve_app.errors import CodecError, NotFound, StoreError
from flserve_app.registry.examine import behind
from flserve_app.registry.history import made_by
from flserve_app.registry.lineage import Found, read_header
from flserve_app.registry.registry import Registry
from flserve_app.store import Inventory, Version
from flserve_app.store.salvage import rename_payloads

_NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unnamed:
    """What a catalog lost of its payloads.

    Attributes:
        versions: Those with content that cannot be made from the payloads that are named.
        payloads: Payloads that are there on a way to them, and are named wrongly or not at all.
    """

    versions: tuple[Version, ...]
    payloads: tuple[Found, ...]


def unnamed(registry: Registry, inventory: Inventory) -> Unnamed:
    """Return what an inventory of a store lacks. Raises StoreError if blobs cannot be listed."""
    made = made_by(inventory.edges)
    versions = tuple(one for one in inventory.versions if one.collected is None and one.digest not in made)
    if not versions:
        return Unnamed(versions=(), payloads=())
    named = {edge.blob: (edge.target, edge.base) for edge in inventory.edges}
    found = {payload.edge.blob: payload for payload in _payloads(registry, registry.blobs)}
    ways = behind((one.digest for one in versions), [payload.edge for payload in found.values()])
    wrong = (found[edge.blob] for edge in ways if named.get(edge.blob) != (edge.target, edge.base))
    return Unnamed(versions=versions, payloads=tuple(wrong))


def misjudged(registry: Registry, inventory: Inventory) -> Iterator[tuple[str, str]]:
    """Yield the blobs that do not have as many bytes as their rows say, each with a sentence about it."""
    rows = [(edge.blob, "payload", edge.nbytes) for edge in inventory.edges]
    rows += [
        (state.blob, f"state of {model} v{number},", state.nbytes)
        for (model, number), state in inventory.states.items()
    ]
    for blob, what, nbytes in rows:
        with suppress(NotFound):  # it is lost, or was let go a moment ago
            if (size := registry.blobs.size(blob)) != nbytes:
                yield blob, f"{what} {blob[:12]} has {size} bytes, the catalog says {nbytes}"


def name_again(registry: Registry, doubtful: Iterable[str] = ()) -> int:
    """Name the payloads again that a store's versions need; return how many.

    Args:
        registry: The store.
        doubtful: Blobs whose rows may be wrong; as are those that lie about bytes.

    Raises:
        StoreError: If the store cannot be read or written.
    """
    inventory = registry.catalog.inventory([])
    rows = {edge.blob: (edge.target, edge.base, edge.nbytes) for edge in inventory.edges}
    found = {one.edge: one.nbytes for one in unnamed(registry, inventory).payloads}
    for one in _payloads(registry, rows.keys() & {*doubtful, *(blob for blob, _ in misjudged(registry, inventory))}):
        if rows[one.edge.blob] != (one.edge.target, one.edge.base, one.edge.nbytes):
            found[one.edge] = one.nbytes
    if found:
        with registry.database.write() as connection:
            rename_payloads(connection, found)
    return len(found)


def _payloads(registry: Registry, blobs: Iterable[str]) -> Iterator[Found]:
    for blob in blobs:
        with suppress(CodecError, StoreError, NotFound):  # a state, or damaged: neither makes anything
            yield read_header(blob, registry.blobs.view(blob), _NEVER)
