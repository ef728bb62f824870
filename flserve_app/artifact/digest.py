"""Digests of tensors, as trees.

A tensor's digest is SHA-256 over the concatenated SHA-256 digests of its 1 MiB chunks, in order; its bytes
are the C-order, little-endian bytes of its storage dtype. An empty tensor has no chunk. So a large tensor
is hashed on all cores, and a range of it can be checked alone. Digests are lower-case hex.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from typing import final

from flserve_app.artifact.threads import gather

CHUNK_BYTES = 1 << 20


def _chunks(data: memoryview) -> Iterable[memoryview]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def _chunk_digest(chunk: memoryview) -> bytes:
    return hashlib.sha256(chunk).digest()


@final
class FillingDigest:
    """The tree digest of a buffer that several threads fill, in any order; each hashes what it completes.

    Args:
        buffer: Contiguous bytes (format `B`), filled or not.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._missing = [len(chunk) for chunk in _chunks(buffer)]
        self._leaves = [b""] * len(self._missing)
        self._lock = threading.Lock()

    def filled(self, start: int, stop: int) -> None:
        """Take note that the bytes from `start` to `stop` are filled and will not change; once for each byte."""
        complete = []
        with self._lock:
            for leaf in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
                first = leaf * CHUNK_BYTES
                self._missing[leaf] -= min(stop, first + CHUNK_BYTES) - max(start, first)
                if not self._missing[leaf]:
                    complete.append(leaf)
        for leaf in complete:
            first = leaf * CHUNK_BYTES
            self._leaves[leaf] = _chunk_digest(self._buffer[first : first + CHUNK_BYTES])

    def value(self) -> str:
        """Return the digest of the whole buffer in hex; it has to be filled."""
        return hashlib.sha256(b"".join(self._leaves)).hexdigest()


def tree_digests(buffers: Sequence[memoryview]) -> list[str]:
    """Return the tree digest of each buffer.

    Args:
        buffers: Contiguous byte views (format `B`), one a tensor.

    Returns:
        One hex SHA-256 a buffer, in the same order.
    """
    chunks = [chunk for buffer in buffers for chunk in _chunks(buffer)]
    leaves = iter(gather(_chunk_digest, chunks, sum(map(len, buffers))))
    digests = []
    for buffer in buffers:
        root = hashlib.sha256()
        for _ in _chunks(buffer):
            root.update(next(leaves))
        digests.append(root.hexdigest())
    return digests
