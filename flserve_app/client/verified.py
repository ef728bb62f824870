"""Artifacts this process verified a moment ago, so that it does not verify the same file again.

Many clients may share a process and a cache directory: in a simulation the same blob would be read and hashed
for each of them. What is remembered is bound to the file it was verified in: another size, time or inode and
it counts for nothing. Large artifacts are not kept, they would double the process's memory.

Whoever names an artifact by its digest alone is not given it: *ways* are remembered too, what was sent and where it
led, and only the same way leads there again without being walked.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import final

from flserve_app.artifact import Artifact

MOST_BYTES = 256 << 20
MOST_BYTES_EACH = 128 << 20
MOST_WAYS = 1024
_TAKEN = 1 << 20
_SLICES = 64

Signature = tuple[int, int, int]


@final
class VerifiedArtifacts:
    """Artifacts by the file they were verified in, those used last, bounded in bytes; threads may share it.

    Args:
        max_bytes: What they may take together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Path, tuple[Signature, Artifact]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> Artifact | None:
        """Return the artifact that was verified in a file, if the file is still the same."""
        with self._lock:
            signature, artifact = self._kept.get(path, (None, None))
            if artifact is None or signature != _signature(path):
                self._kept.pop(path, None)
                return None
            self._kept.move_to_end(path)
            return artifact

    def put(self, path: Path, artifact: Artifact) -> None:
        """Remember what is in a file that was just written or read and verified."""
        signature = _signature(path)
        if signature is None or artifact.nbytes > MOST_BYTES_EACH:
            return
        with self._lock:
            self._kept[path] = (signature, artifact)
            self._kept.move_to_end(path)
            while sum(kept.nbytes for _, kept in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)


@cache
def verified_artifacts() -> VerifiedArtifacts:
    """Return this process's memory."""
    return VerifiedArtifacts(MOST_BYTES)


@final
class _Ways:
    """Where deliveries led, those used last; threads may share it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, str], str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, root: Path, way: str) -> str:
        with self._lock:
            return self._kept.get((root, way), "")

    def put(self, root: Path, way: str, digest: str) -> None:
        with self._lock:
            self._kept[root, way] = digest
            self._kept.move_to_end((root, way))
            while len(self._kept) > MOST_WAYS:
                self._kept.popitem(last=False)


_ways = _Ways()


def way_of(recipe: str, payloads: Iterable[bytes | memoryview]) -> str:
    """Return a name of what a delivery leads by: its recipe and its payloads, in order.

    Of a long payload slices are taken, in all `_TAKEN` bytes: who has these has been sent it. That the rest is whole
    need not be known, as where it leads was verified before.
    """
    named = hashlib.sha256(recipe.encode())
    for payload in payloads:
        view = memoryview(payload).cast("B")
        named.update(len(view).to_bytes(8, "little"))
        size = _TAKEN // _SLICES
        step = (len(view) - size) / (_SLICES - 1)
        slices = [view[int(at * step) :][:size] for at in range(_SLICES)] if len(view) > _TAKEN else [view]
        for each in slices:
            named.update(each)
    return named.hexdigest()


def remember_way(root: Path, way: str, digest: str) -> None:
    """Remember where a way led, for clients that share a cache directory."""
    _ways.put(root, way, digest)


def led_to(root: Path, way: str) -> str:
    """Return the digest that a way led to; empty if it is not remembered."""
    return _ways.get(root, way)


def _signature(path: Path) -> Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
