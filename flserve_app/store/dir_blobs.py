"""Blobs as files: the content at `ab/abcd...`, written once, found again by its SHA-256.

A file that is there is a blob, whole and durable, or was damaged from outside; what is being written has another
name (`files`), in the folder itself while its digest is not known. A blob put again is written again if it was
damaged, and a blob kept again always: it is on disk already, and reading the other would cost more.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeVar, final

from flserve_app.errors import CorruptBlob, NotFound, StoreError
from flserve_app.store.blobs import DEFAULT_MAX_BYTES, NewBlob, check_digest, check_size, is_digest
from flserve_app.store.files import TEMPORARY, NewFile, make_folder, new_file, remove_file, sync_folder, write_file
from flserve_app.store.mapped import mapped

Data = TypeVar("Data", bytes, memoryview)


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

    @contextmanager
    def writing(self, parts: Iterable[bytes | memoryview]) -> Iterator[NewBlob]:
        """Write content to a file that is gone after the block unless it was kept."""
        make_folder(self._path)
        with new_file(self._path, f"a blob in {self._path}") as new:
            digest, nbytes = hashlib.sha256(), 0
            for part in parts:
                nbytes += new.file.write(part)
                digest.update(part)
            yield _InFile(new, self._file(digest.hexdigest()), nbytes)

    def get(self, digest: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """Return a blob, verified against its digest."""
        return self._read(digest, max_bytes, _whole)

    def view(self, digest: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> memoryview:
        """Return a blob, verified against its digest; a large one is mapped."""
        return self._read(digest, max_bytes, lambda file, size: mapped(file, 0, size))

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
        return (
            str(path)
            for folder in ("", "*/")
            for path in self._path.glob(f"{folder}{TEMPORARY}*")
            if _is_older(path, time)
        )

    def tidy(self, time: datetime) -> None:
        """Remove those files."""
        for path in self.leftovers(time):
            remove_file(Path(path))

    def _read(self, digest: str, max_bytes: int, read: Callable[[BinaryIO, int], tuple[Data, str]]) -> Data:
        path = self._file(digest)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                check_size(digest, size, max_bytes)
                data, found = read(file, size)
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not in {self._path}") from None
        except OSError as error:
            raise StoreError(f"cannot read blob {path}: {error.strerror}") from error
        if found != digest:
            raise CorruptBlob(f"blob {path} is damaged: its content ({len(data)} bytes) has SHA-256 {found}")
        return data

    def _holds(self, digest: str, size: int) -> bool:
        """Whether a blob is there undamaged; a damaged one is to be written again."""
        try:
            self.get(digest, max_bytes=size)
        except StoreError:
            return False
        return True

    def _file(self, digest: str) -> Path:
        return self._path / check_digest(digest)[:2] / digest


@final
class _InFile:
    def __init__(self, new: NewFile, path: Path, nbytes: int) -> None:
        self._new, self._path = new, path
        self.digest, self.nbytes = path.name, nbytes

    def keep(self) -> None:
        make_folder(self._path.parent)
        self._new.name(self._path)


def _whole(file: BinaryIO, size: int) -> tuple[bytes, str]:
    data = file.read(size)
    return data, hashlib.sha256(data).hexdigest()


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
