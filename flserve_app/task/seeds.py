"""One seed, many streams.

Data, partition, weights and each client's shuffling draw from streams of their own, named by purpose, so that
no two are correlated and adding one leaves the others as they were. Streams are numpy's `RandomState`, whose
numbers are frozen by numpy's compatibility policy (NEP 19): a seed means the same everywhere.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed in [0, 2**32) for one purpose.

    Args:
        seed: The seed of the whole run; any integer.
        purpose: What the numbers are for, such as `("train", round, partition_id)`.

    Returns:
        The first four bytes of SHA-256 over the JSON of the arguments.
    """
    text = json.dumps([seed, *purpose], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def stream(seed: int, *purpose: str | int) -> np.random.RandomState:
    """Return the stream of random numbers for one purpose; see `derived_seed`."""
    return np.random.RandomState(derived_seed(seed, *purpose))
