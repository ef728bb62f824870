"""A few recent artifacts in memory, bounded by their bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import final

from flserve_app.artifact import Artifact


@final
class RecentArtifacts:
    """The artifacts used last, by digest; threads may share it.

    Args:
        max_bytes: What their data may take together. The newest is kept whatever its size: without it, every
            publication of a large model would decode a chain.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._artifacts: OrderedDict[str, Artifact] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, artifact: Artifact) -> None:
        """Keep an artifact, dropping those used longest ago."""
        with self._lock:
            self._artifacts[artifact.digest] = artifact
            self._artifacts.move_to_end(artifact.digest)
            while len(self._artifacts) > 1 and self._nbytes() > self._max_bytes:
                self._artifacts.popitem(last=False)

    def drop(self, digests: Iterable[str]) -> None:
        """Drop some of them."""
        with self._lock:
            for digest in digests:
                self._artifacts.pop(digest, None)

    def snapshot(self) -> dict[str, Artifact]:
        """Return what is here now; it stays valid when others drop it."""
        with self._lock:
            return dict(self._artifacts)

    def _nbytes(self) -> int:
        return sum(artifact.nbytes for artifact in self._artifacts.values())
