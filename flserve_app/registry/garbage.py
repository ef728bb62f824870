"""What has to hold before anything is removed from a store.

A blob goes because nothing names it. Where the catalog names nothing at all though blobs are there, that says
nothing about the blobs: the catalog was emptied or replaced. Nor does it where versions have content and nothing that
is named makes it, while payloads that would are there: rows were lost. And blobs behind a link may be somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterator

from flserve_app.errors import StoreError
from flserve_app.registry.registry import Registry
from flserve_app.registry.unnamed import unnamed
from flserve_app.store import Inventory

NAMES_NOTHING = "the store has blobs, and its catalog names none"


def names_nothing(registry: Registry) -> bool:
    """Whether there are blobs, and a catalog of which the rows that named them were lost. Raises StoreError.

    Who publishes a model's first version names the model before he puts a blob: a catalog that names no version of it
    yet, and gave no number away, has lost nothing.
    """
    return next(iter(registry.blobs), None) is not None and registry.catalog.emptied()


def shared(inventory: Inventory) -> Iterator[str]:
    """Yield a sentence for each state that is said to be in the blob of a payload: its own would be removed."""
    payloads = {edge.blob for edge in inventory.edges}
    for (model, number), state in inventory.states.items():
        if state.blob in payloads:
            yield f"the state of {model} v{number} is said to be {state.blob[:12]}, which is a payload"


def check_removable(registry: Registry) -> None:
    """Check that what nothing names may be removed.

    Raises:
        StoreError: If it may not.
    """
    registry.blobs.check_own()
    if names_nothing(registry):
        raise StoreError(
            f"{NAMES_NOTHING}: nothing was removed; `flserve verify --repair` makes what the blobs tell, and a store "
            "of which nothing is wanted goes with its folder"
        )
    inventory = registry.catalog.inventory()
    if told := next(shared(inventory), None):
        raise StoreError(f"{told}: the catalog was damaged from outside, and nothing was removed")
    lost = unnamed(registry, inventory)
    if lost.payloads:
        first, more = lost.versions[0], len(lost.versions) - 1
        which = f"{first.model} {first.name}{f' (and {more} more)' * bool(more)}"
        raise StoreError(
            f"{which} cannot be made from the payloads that the catalog names, and {len(lost.payloads)} that lead "
            "there it names wrongly or not at all: nothing was removed; `flserve verify --repair` names them again"
        )
