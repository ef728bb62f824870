"""Digests of tensors, as trees.

A tensor's digest is SHA-256 over the concatenated SHA-256 digests of its 1 MiB chunks, in order; its bytes
are the C-order, little-endian bytes of its storage dtype. An empty tensor has no chunk. So a large tensor
is hashed on all cores, and a range of it can be checked alone. Digests are lower-case hex.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import final

CHUNK_BYTES = 1 << 20
_PARALLEL_FROM_BYTES = 4 * CHUNK_BYTES


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return this process's threads; after a fork, those of the parent are not there."""
    return ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 1), thread_name_prefix="flserve-hash")


def _chunks(data: memoryview) -> Iterable[memoryview]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def _chunk_digest(chunk: memoryview) -> bytes:
    return hashlib.sha256(chunk).digest()


def is_worth_spreading(nbytes: int) -> bool:
    """Whether so many bytes are hashed faster by several threads."""
    return nbytes >= _PARALLEL_FROM_BYTES


@final
class GrowingDigest:
    """The tree digest of a buffer that is filled from front to back; hashes while the rest is filled.

    Args:
        buffer: Contiguous bytes (format `B`).
        submit: Has a function called on another thread, as an executor's does; None to hash on the spot.
    """

    def __init__(self, buffer: memoryview, submit: Callable[..., Future[bytes]] | None = None) -> None:
        self._buffer = buffer
        self._submit = submit
        self._begun = 0
        self._leaves: list[Future[bytes] | bytes] = []

    def filled(self, size: int) -> None:
        """Take note that the first `size` bytes are filled and will not change."""
        while self._begun < size and (size >= self._begun + CHUNK_BYTES or size == len(self._buffer)):
            chunk = self._buffer[self._begun : self._begun + CHUNK_BYTES]
            self._leaves.append(_chunk_digest(chunk) if self._submit is None else self._submit(_chunk_digest, chunk))
            self._begun += len(chunk)

    def value(self) -> str:
        """Return the digest of the whole buffer in hex; it has to be filled."""
        self.filled(len(self._buffer))
        root = hashlib.sha256()
        for leaf in self._leaves:
            root.update(leaf if isinstance(leaf, bytes) else leaf.result())
        return root.hexdigest()


def tree_digests(buffers: Sequence[memoryview]) -> list[str]:
    """Return the tree digest of each buffer.

    Args:
        buffers: Contiguous byte views (format `B`), one a tensor.

    Returns:
        One hex SHA-256 a buffer, in the same order.
    """
    spread = is_worth_spreading(sum(len(buffer) for buffer in buffers))
    chunks = [chunk for buffer in buffers for chunk in _chunks(buffer)]
    leaves = iter(_pool(os.getpid()).map(_chunk_digest, chunks) if spread else map(_chunk_digest, chunks))
    digests = []
    for buffer in buffers:
        root = hashlib.sha256()
        for _ in _chunks(buffer):
            root.update(next(leaves))
        digests.append(root.hexdigest())
    return digests
