"""Bytes by their SHA-256.

A blob's name is the digest of its content, so a blob never changes, putting it twice is putting it once, and
what was read can be checked against the name. `put` returns when the blob is durable; `get` returns verified
bytes or raises. A digest is checked to be 64 lower-case hex digits before it touches a path.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, final

from flserve_app.errors import CorruptBlob, NotFound, StoreError
from flserve_app.store.files import TEMPORARY, make_folder, remove_file, sync_folder, write_file

DEFAULT_MAX_BYTES = 8 << 30
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobStore(Protocol):
    """Where blobs live. Iterating gives the digests, in no particular order."""

    def put(self, data: bytes | memoryview) -> str:
        """Keep bytes; return their hex SHA-256. Raises StoreError if it cannot."""

    def get(self, digest: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """Return a blob, verified. Raises NotFound, CorruptBlob, or StoreError if it is larger than `max_bytes`."""

    def has(self, digest: str) -> bool:
        """Whether a blob is there; its content is not read."""

    def size(self, digest: str) -> int:
        """Return the bytes of a blob. Raises NotFound."""

    def delete(self, digest: str) -> None:
        """Remove a blob; one that is not there is fine."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the digests."""

    def put_before(self, time: datetime) -> Iterator[str]:
        """Iterate over the digests of the blobs that were first put at a time or before."""

    def leftovers(self, time: datetime) -> Iterator[str]:
        """Iterate over the names of what crashes left behind at a time or before."""

    def tidy(self, time: datetime) -> None:
        """Remove those leftovers. Raises StoreError if it cannot."""


def check_digest(digest: str) -> str:
    """Return the digest if it is 64 lower-case hex digits.

    Raises:
        StoreError: If it is anything else.
    """
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
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

    def get(self, digest: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """Return a blob."""
        _check_size(digest, self.size(digest), max_bytes)
        return self._blobs[digest]

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
class DirBlobs:
    """Blobs as files `ab/abcd...` in a folder; many threads and processes may share it.

    Args:
        path: The folder; made when the first blob is put.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, data: bytes | memoryview) -> str:
        """Keep bytes; return their digest once they would survive a power cut."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._file(digest)
        if self._holds(digest, len(data)):
            # Another process may have renamed it a moment ago: only the folder's sync makes the name durable.
            _sync_names(path.parent)
        else:
            make_folder(path.parent)
            write_file(path, data)
        return digest

    def get(self, digest: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """Return a blob, verified against its digest."""
        path = self._file(digest)
        try:
            with path.open("rb") as file:
                _check_size(digest, os.fstat(file.fileno()).st_size, max_bytes)
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not in {self._path}") from None
        except OSError as error:
            raise StoreError(f"cannot read blob {path}: {error.strerror}") from error
        if (found := hashlib.sha256(data).hexdigest()) != digest:
            raise CorruptBlob(f"blob {path} is damaged: its content ({len(data)} bytes) has SHA-256 {found}")
        return data

    def has(self, digest: str) -> bool:
        """Whether a blob is there."""
        return _stored_bytes(self._file(digest)) is not None

    def size(self, digest: str) -> int:
        """Return the bytes of a blob."""
        size = _stored_bytes(self._file(digest))
        if size is None:
            raise NotFound(f"blob {digest} is not in {self._path}")
        return size

    def delete(self, digest: str) -> None:
        """Remove a blob."""
        remove_file(self._file(digest))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the digests."""
        for path in self._path.glob("[0-9a-f][0-9a-f]/*"):
            if not path.name.startswith(TEMPORARY) and _DIGEST.fullmatch(path.name):
                yield path.name

    def put_before(self, time: datetime) -> Iterator[str]:
        """Iterate over the digests of blobs whose file is that old."""
        return (digest for digest in self if _is_older(self._file(digest), time))

    def leftovers(self, time: datetime) -> Iterator[str]:
        """Iterate over the paths of temporary files that are that old."""
        return (str(path) for path in self._path.glob(f"*/{TEMPORARY}*") if _is_older(path, time))

    def tidy(self, time: datetime) -> None:
        """Remove those files."""
        for path in self.leftovers(time):
            remove_file(Path(path))

    def _holds(self, digest: str, size: int) -> bool:
        """Whether a blob is there undamaged; a damaged one is to be written again."""
        try:
            self.get(digest, max_bytes=size)
        except StoreError:
            return False
        return True

    def _file(self, digest: str) -> Path:
        return self._path / check_digest(digest)[:2] / digest


def _stored_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot look at blob {path}: {error.strerror}") from error


def _is_older(path: Path, time: datetime) -> bool:
    try:
        return path.stat().st_mtime <= time.timestamp()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"cannot look at {path}: {error.strerror}") from error


def _sync_names(folder: Path) -> None:
    try:
        sync_folder(folder)
    except OSError as error:
        raise StoreError(f"cannot sync {folder}: {error.strerror}") from error


def _check_size(digest: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise StoreError(f"blob {digest} has {size} bytes, at most {max_bytes} were expected")
