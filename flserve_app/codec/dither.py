"""Dither: the random numbers by which a change is rounded up or down, so that its mean is exact.

Stochastic rounding, floor(x + u) with u uniform in [0, 1), has the mean x for every x (QSGD: Alistarh et al.,
arXiv:1610.02132). The stream is a counter's (Philox 4x64): the number of each element is a function of the key,
its tensor's name and its place, whatever the blocks and threads, so that runs repeat.
"""

from __future__ import annotations

import hashlib

import numpy as np

from flserve_app.codec.floats import Floats

_PER_COUNT = 8  # numbers of 32 bits that one count of Philox gives


def dither_key(seed: int, number: int, identity: str) -> int:
    """Return the key, below 2**64, of what a client draws in a round."""
    return _hashed(f"{seed}/{number}/{identity}")


def drawn(key: int, name: str, start: int, count: int) -> Floats:
    """Return numbers of a tensor's elements, float64 in (0, 1), shape (count,).

    Args:
        key: As of `dither_key`.
        name: The tensor's.
        start: Place of the first element.
        count: How many.
    """
    skipped = start % _PER_COUNT
    stream = np.random.Philox(counter=start // _PER_COUNT, key=np.array([key, _hashed(name)], np.uint64))
    raw = stream.random_raw(-(-(skipped + count) // 2)).astype("<u8", copy=False).view("<u4")
    return (raw[skipped : skipped + count] + 0.5) * 2.0**-32


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
