"""Doing again what another process overtook.

A write is prepared outside the catalog's lock and checked inside it; in between, a collection may remove what it
builds on. Then it is prepared anew, from what is there now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flserve_app.errors import Overtaken

ATTEMPTS = 10

Result = TypeVar("Result")


def insist(write: Callable[[], Result]) -> Result:
    """Return what `write` gives, calling it again when it was overtaken.

    Raises:
        Overtaken: If it was, `ATTEMPTS` times in a row.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return write()
        except Overtaken:
            continue
    return write()
