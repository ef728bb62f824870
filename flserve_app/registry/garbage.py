"""What has to hold before anything is removed from a store.

A blob goes because nothing names it. Where the catalog names nothing at all though blobs are there, that says
nothing about the blobs: the catalog was emptied or replaced. And blobs behind a link may be somebody else's.
"""

from __future__ import annotations

from flserve_app.errors import StoreError
from flserve_app.registry.registry import Registry


def names_nothing(registry: Registry) -> bool:
    """Whether there are blobs, and no version that could need them. Raises StoreError."""
    held = next(iter(registry.blobs), None) is not None
    return held and not registry.catalog.models()


def check_removable(registry: Registry) -> None:
    """Check that what nothing names may be removed.

    Raises:
        StoreError: If it may not.
    """
    registry.blobs.check_own()
    if names_nothing(registry):
        raise StoreError(
            "the store has blobs, and its catalog names none: nothing was removed; `flserve verify --repair` makes what "
            "the blobs tell, and if nothing here is wanted, remove the store's folder"
        )
