"""Bytes by their SHA-256.

A blob's name is the digest of its content, so a blob never changes, putting it twice is putting it once, and
what was read can be checked against the name. `put` and `keep` return when the blob is durable; `get` and `view`
return verified bytes or raise. Large content need not be in memory as a whole: `writing` takes it part by part,
and `view` gives it where it lies. A digest is checked to be 64 lower-case hex digits before anything is done with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Protocol, final

from flserve_app.errors import NotFound, StoreError

DEFAULT_MAX_BYTES = 8 << 30
_DIGEST = re.compile(r"[0-9a-f]{64}")


class NewBlob(Protocol):
    """Content that is written and hashed, and no blob unless it is kept."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the content."""

    @property
    def nbytes(self) -> int:
        """Bytes of the content."""

    def keep(self) -> None:
        """Make it a blob. Raises StoreError if it cannot."""


class BlobStore(Protocol):
    """Where blobs live. Iterating gives the digests, in no particular order."""

    def put(self, data: bytes | memoryview) -> str:
        """Keep bytes; return their hex SHA-256. Raises StoreError if it cannot."""

    def writing(self, parts: Iterable[bytes | memoryview]) -> AbstractContextManager[NewBlob]:
        """Write content for the time of a block; it is a blob afterwards if it was kept. Raises StoreError."""

    def get(self, digest: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """Return a blob, verified. Raises NotFound, CorruptBlob, or StoreError if it is larger than `max_bytes`."""

    def view(self, digest: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> memoryview:
        """Return a blob as `get` does, without a copy of it in memory if it is large."""

    def has(self, digest: str) -> bool:
        """Whether a blob is there; its content is not read."""

    def size(self, digest: str) -> int:
        """Return the bytes of a blob. Raises NotFound."""

    def delete(self, digest: str) -> None:
        """Remove a blob; one that is not there is fine."""

    def check_own(self) -> None:
        """Check that blobs may be removed: that they are this store's own. Raises StoreError."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the digests."""

    def put_before(self, time: datetime) -> Iterator[str]:
        """Iterate over the digests of the blobs that were first put at a time or before."""

    def leftovers(self, time: datetime) -> Iterator[str]:
        """Iterate over the names of what crashes left behind at a time or before."""

    def tidy(self, time: datetime) -> None:
        """Remove those leftovers. Raises StoreError if it cannot."""


def is_digest(name: object) -> bool:
    """Whether something is 64 lower-case hex digits."""
    return isinstance(name, str) and _DIGEST.fullmatch(name) is not None


def check_digest(digest: str) -> str:
    """Return the digest if it is 64 lower-case hex digits.

    Raises:
        StoreError: If it is anything else.
    """
    if not is_digest(digest):
        raise StoreError(f"a digest is 64 lower-case hex digits, found {str(digest)[:80]!r}")
    return digest


@final
class MemoryBlobs:
    """Blobs in memory, for tests and short-lived processes."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._times: dict[str, datetime] = {}

    def put(self, data: bytes | memoryview) -> str:
        """Keep bytes; return their digest."""
        digest = hashlib.sha256(data).hexdigest()
        self._times.setdefault(digest, datetime.now(UTC))
        self._blobs.setdefault(digest, bytes(data))
        return digest

    @contextmanager
    def writing(self, parts: Iterable[bytes | memoryview]) -> Iterator[NewBlob]:
        """Take the parts together."""
        yield _InMemory(self, b"".join(parts))

    def get(self, digest: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """Return a blob."""
        check_size(digest, self.size(digest), max_bytes)
        return self._blobs[digest]

    def view(self, digest: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> memoryview:
        """Return a blob."""
        return memoryview(self.get(digest, max_bytes=max_bytes))

    def has(self, digest: str) -> bool:
        """Whether a blob is there."""
        return check_digest(digest) in self._blobs

    def size(self, digest: str) -> int:
        """Return the bytes of a blob."""
        if not self.has(digest):
            raise NotFound(f"blob {digest} is not in memory")
        return len(self._blobs[digest])

    def delete(self, digest: str) -> None:
        """Remove a blob."""
        self._blobs.pop(check_digest(digest), None)
        self._times.pop(digest, None)

    def check_own(self) -> None:
        """Do nothing: memory is nobody else's."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the digests."""
        return iter(tuple(self._blobs))

    def put_before(self, time: datetime) -> Iterator[str]:
        """Iterate over the digests of older blobs."""
        return iter([digest for digest in self if self._times[digest] <= time])

    def leftovers(self, time: datetime) -> Iterator[str]:
        """Iterate over nothing: memory does not outlive a crash."""
        return iter(())

    def tidy(self, time: datetime) -> None:
        """Do nothing."""


@final
class _InMemory:
    def __init__(self, blobs: MemoryBlobs, data: bytes) -> None:
        self._blobs, self._data = blobs, data
        self.digest, self.nbytes = hashlib.sha256(data).hexdigest(), len(data)

    def keep(self) -> None:
        self._blobs.put(self._data)


def check_size(digest: str, size: int, max_bytes: int) -> None:
    """Check that a blob is no larger than expected. Raises StoreError."""
    if size > max_bytes:
        raise StoreError(f"blob {digest} has {size} bytes, at most {max_bytes} were expected")
