"""Blobs as files: the content at `ab/abcd...`, written once, found again by its SHA-256.

A file that is there is a blob, whole and durable, or was damaged from outside; what is being written has another
name (`files`). A blob put again is written again if it was damaged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import final

from flserve_app.errors import CorruptBlob, NotFound, StoreError
from flserve_app.store.blobs import DEFAULT_MAX_BYTES, check_digest, check_size, is_digest
from flserve_app.store.files import TEMPORARY, make_folder, remove_file, sync_folder, write_file


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
                check_size(digest, os.fstat(file.fileno()).st_size, max_bytes)
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
            if not path.name.startswith(TEMPORARY) and is_digest(path.name):
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
