"""Doing again what another process overtook.

A write is prepared outside the catalog's lock and checked inside it; in between, a collection may remove what it
builds on. Then it is prepared anew, from what is there now. So is a read of several parts that did not stay together.
Between two attempts there is a pause of a random time, longer from one to the next: two who overtake each other do
not go on in step.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from flserve_app.errors import Overtaken

ATTEMPTS = 12
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.5

Result = TypeVar("Result")


def insist(attempt: Callable[[], Result]) -> Result:
    """Return what `attempt` gives, calling it again when it was overtaken.

    Raises:
        Overtaken: If it was, `ATTEMPTS` times in a row.
    """
    for turn in range(ATTEMPTS - 1):
        try:
            return attempt()
        except Overtaken:
            time.sleep(random.uniform(0, min(_FIRST_PAUSE_SECONDS * 2**turn, _LONGEST_PAUSE_SECONDS)))
    return attempt()
