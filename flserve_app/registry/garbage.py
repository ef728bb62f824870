"""What has to hold before anything is removed from a store.

A blob goes because nothing names it. Where the catalog names nothing at all though blobs are there, that says
nothing about the blobs: the catalog was emptied or replaced. And blobs behind a link may be somebody else's.
"""

from __future__ import annotations

import time

from flserve_app.errors import StoreError
from flserve_app.registry.registry import Registry

PATIENCE_SECONDS = 1.0
NAMES_NOTHING = "the store has blobs, and its catalog names none"


def names_nothing(registry: Registry) -> bool:
    """Whether there are blobs, and no version that could need them. Raises StoreError.

    Who publishes a first version puts its blobs a moment before he names them: that moment is waited for.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while next(iter(registry.blobs), None) is not None and not registry.catalog.models():
        if time.monotonic() > end:
            return True
        time.sleep(PATIENCE_SECONDS / 10)
    return False


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
