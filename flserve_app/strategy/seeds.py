"""Seeds for what a round draws: a pure function of the run's seed, the round and the phase.

Flower's strategies sample clients from Python's global `random`. `drawing` seeds it right before they do and
puts the old state back after, so that a run repeats, a resumed run continues as if never stopped, and other
users of `random` notice nothing. Noise for privacy is never drawn from here.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager


def round_seed(seed: int, server_round: int, phase: str) -> int:
    """Return a 64-bit seed for one phase of one round."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{server_round}/{phase}".encode()).digest()[:8], "big")


@contextmanager
def drawing(seed: int | None, server_round: int, phase: str) -> Iterator[None]:
    """Seed the global `random` for the block; without a seed, leave it alone."""
    if seed is None:
        yield
        return
    before = random.getstate()
    random.seed(round_seed(seed, server_round, phase))
    try:
        yield
    finally:
        random.setstate(before)
