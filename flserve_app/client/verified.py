"""Artifacts this process verified a moment ago, so that it does not verify the same file again.

Many clients may share a process and a cache directory: in a simulation the same blob would be read and hashed
for each of them. What is remembered is bound to the file it was verified in: another size, time or inode and
it counts for nothing. Large artifacts are not kept, they would double the process's memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import final

from flserve_app.artifact import Artifact

MOST_BYTES = 256 << 20
MOST_BYTES_EACH = 128 << 20

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


def _signature(path: Path) -> Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
