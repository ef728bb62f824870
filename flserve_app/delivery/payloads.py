"""Payloads by what they depend on: each is made once, and shared by every client that needs it.

Rules:
- Making the same payload twice at once is avoided by a lock for each (single flight).
- What is kept is bounded in bytes; what was least recently used is dropped. Its bytes stay known.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from flserve_app.delivery.plan import Step

DEFAULT_CACHE_BYTES = 1 << 30
MOST_SIZES = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInfo:
    """Counters of a payload cache.

    Attributes:
        hits: Calls that were answered by what is kept.
        encodes: Payloads that were made.
        held_bytes: What it keeps.
        reads: Payloads that had been made before, and were read.
    """

    hits: int
    encodes: int
    held_bytes: int
    reads: int = 0


@final
class Payloads:
    """Payloads by what they depend on; each is made once.

    Args:
        make: Makes a payload.
        read: Returns one that is stored, or None.
        max_bytes: Bound on what is kept.
    """

    def __init__(
        self,
        make: Callable[[Step], bytes],
        read: Callable[[Step], bytes | None] = lambda key: None,
        *,
        max_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self._make = make
        self._read = read
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Step, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._flights: dict[Step, threading.Lock] = {}
        self._sizes: OrderedDict[Step, int] = OrderedDict()
        self._hits = self._encodes = self._reads = 0

    def get(self, key: Step) -> bytes:
        """Return the payload for a key: what is kept, or else what is stored, or else a new one."""
        with self._lock:
            flight = self._flights.setdefault(key, threading.Lock())
        try:
            with flight:
                found = self._find(key)
                if found is None:
                    found = self._fetch(key)
        finally:
            with self._lock:
                self._flights.pop(key, None)
        return found

    def put(self, key: Step, payload: bytes) -> None:
        """Keep a payload that was made elsewhere."""
        with self._lock:
            self._insert(key, payload)

    def size(self, key: Step) -> int | None:
        """Return the bytes of a payload that was once made, read or put here; None for any other."""
        with self._lock:
            return self._sizes.get(key)

    def kept(self) -> dict[Step, int]:
        """Return what is kept, with its bytes."""
        with self._lock:
            return {key: len(payload) for key, payload in self._kept.items()}

    def info(self) -> CacheInfo:
        """Return the counters so far."""
        with self._lock:
            held = sum(len(payload) for payload in self._kept.values())
            return CacheInfo(hits=self._hits, encodes=self._encodes, held_bytes=held, reads=self._reads)

    def _find(self, key: Step) -> bytes | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                self._hits += 1
            return found

    def _fetch(self, key: Step) -> bytes:
        stored = self._read(key)
        payload = self._make(key) if stored is None else stored
        with self._lock:
            self._encodes += stored is None
            self._reads += stored is not None
            self._insert(key, payload)
        return payload

    def _insert(self, key: Step, payload: bytes) -> None:
        self._sizes[key] = len(payload)
        if len(self._sizes) > MOST_SIZES:
            self._sizes.popitem(last=False)
        self._kept[key] = payload
        self._kept.move_to_end(key)
        total = sum(len(kept) for kept in self._kept.values())
        while total > self._max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            total -= len(dropped)
