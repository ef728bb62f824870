"""How a client gets from what it holds to what it shall hold.

`plan` is a pure function: values in, a plan out. `Payloads` is where payloads are made, once each: a payload
depends on (base, target, codec) alone, so all clients on the same base share one encode and one copy.

Rules:
- A client that holds the target gets nothing, but under `full`, which always sends the whole model, as
  Flower does: it is what the others are measured against.
- A base is used only if the server can still read it and the client said that it holds it.
- Making the same payload twice at once is avoided by a lock for each (single flight); the cache is bounded
  in bytes and drops what was least recently used.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, final

PlanKind = Literal["none", "delta", "full"]
PayloadKey = tuple[str | None, str, str]

DEFAULT_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one client gets.

    Attributes:
        kind: `none` (it holds the target), `delta` (relative to `base`) or `full` (relative to nothing).
        target: Hex digest of the artifact to hold.
        base: Hex digest the payload is relative to, for a delta.
        codec: Name of the codec the payload is made with.
    """

    kind: PlanKind
    target: str
    base: str | None = None
    codec: str

    @property
    def key(self) -> PayloadKey:
        """What the payload depends on."""
        return self.base, self.target, self.codec

    def in_full(self) -> Plan:
        """Return the plan for the same target that needs no base."""
        return Plan(kind="full", target=self.target, codec=self.codec)


def plan(held: Sequence[str], target: str, codec: str, readable: Collection[str]) -> Plan:
    """Return how to bring a client to the target.

    Args:
        held: Digests the client said it holds, the preferred base first.
        target: Digest of the artifact to hold.
        codec: The delivery codec.
        readable: Digests of the artifacts the server can use as a base.
    """
    if codec == "full":
        return Plan(kind="full", target=target, codec=codec)
    if target in held:
        return Plan(kind="none", target=target, codec=codec)
    base = next((digest for digest in held if digest in readable), None)
    if base is None:
        return Plan(kind="full", target=target, codec=codec)
    return Plan(kind="delta", target=target, base=base, codec=codec)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInfo:
    """Counters of a payload cache: `hits` and `encodes` are calls, `held_bytes` is what it keeps."""

    hits: int
    encodes: int
    held_bytes: int


@final
class Payloads:
    """Payloads by what they depend on; each is made once.

    Args:
        make: Makes the payload for (base digest or None, target digest, codec name).
        max_bytes: Bound on what is kept.
    """

    def __init__(self, make: Callable[[PayloadKey], bytes], max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._make = make
        self._max_bytes = max_bytes
        self._kept: OrderedDict[PayloadKey, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._flights: dict[PayloadKey, threading.Lock] = {}
        self._hits = 0
        self._encodes = 0

    def get(self, key: PayloadKey) -> bytes:
        """Return the payload for a key, making it if it is not kept."""
        with self._lock:
            flight = self._flights.setdefault(key, threading.Lock())
        try:
            with flight:
                found = self._find(key)
                if found is None:
                    found = self._make(key)
                    self._keep(key, found)
        finally:
            with self._lock:
                self._flights.pop(key, None)
        return found

    def put(self, key: PayloadKey, payload: bytes) -> None:
        """Keep a payload that was made elsewhere."""
        with self._lock:
            self._insert(key, payload)

    def info(self) -> CacheInfo:
        """Return the counters so far."""
        with self._lock:
            held = sum(len(payload) for payload in self._kept.values())
            return CacheInfo(hits=self._hits, encodes=self._encodes, held_bytes=held)

    def _find(self, key: PayloadKey) -> bytes | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                self._hits += 1
            return found

    def _keep(self, key: PayloadKey, payload: bytes) -> None:
        with self._lock:
            self._encodes += 1
            self._insert(key, payload)

    def _insert(self, key: PayloadKey, payload: bytes) -> None:
        self._kept[key] = payload
        self._kept.move_to_end(key)
        total = sum(len(kept) for kept in self._kept.values())
        while total > self._max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            total -= len(dropped)
