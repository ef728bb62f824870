"""Blobs as files: the content at `ab/abcd...`, written once, found again by its SHA-256.

A file that is there is a blob, whole and durable, or was damaged from outside; what is being written has another
name (`files`), in the folder itself while its digest is not known. A blob put again is written again if it was
damaged, and a blob kept again always: it is on disk already, and reading the other would cost more. Only regular
files are blobs, and nothing is listed or removed by way of a link: it may lead to somebody else's files.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeVar, final

from flserve_app.disk.durable import force_folder
from flserve_app.disk.regular import open_regular
from flserve_app.errors import CorruptBlob, NotFound, StoreError
from flserve_app.store.blobs import DEFAULT_MAX_BYTES, NewBlob, check_digest, check_size, is_digest
from flserve_app.store.files import (
    TEMPORARY,
    NewFile,
    make_folder,
    new_file,
    remove_file,
    write_file,
)
from flserve_app.store.mapped import mapped

Data = TypeVar("Data", bytes, memoryview)
_FOLDER = re.compile(r"[0-9a-f]{2}")


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
        path = self._file(digest)
        self._check_own(path.parent)
        remove_file(path)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the digests."""
        for folder in self._folders():
            for entry in _entries(folder):
                # A folder of that name is nobody's blob, and could not be removed as one.
                if is_digest(entry.name) and not entry.is_dir(follow_symlinks=False):
                    yield entry.name

    def put_before(self, time: datetime) -> Iterator[str]:
        """Iterate over the digests of blobs whose file is that old."""
        return (digest for digest in self if _is_older(self._file(digest), time))

    def leftovers(self, time: datetime) -> Iterator[str]:
        """Iterate over the paths of temporary files that are that old."""
        return (
            entry.path
            for folder in (self._path, *self._folders())
            for entry in _entries(folder)
            if entry.name.startswith(TEMPORARY)
            and entry.is_file(follow_symlinks=False)
            and _is_older(Path(entry.path), time)
        )

    def tidy(self, time: datetime) -> None:
        """Remove those files."""
        self._check_own(self._path)
        for path in self.leftovers(time):
            remove_file(Path(path))

    def check_own(self) -> None:
        """Check that blobs may be removed here: the folder is one, and no link to another. Raises StoreError."""
        self._check_own(self._path)

    def _folders(self) -> Iterator[Path]:
        """Iterate over the folders `00` to `ff` that are there."""
        for entry in _entries(self._path):
            if _FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)

    def _check_own(self, folder: Path) -> None:
        for path in (self._path, folder):
            if path.is_symlink():
                raise StoreError(f"{path} is a link to {os.path.realpath(path)}: nothing is removed by way of a link")

    def _read(self, digest: str, max_bytes: int, read: Callable[[BinaryIO, int], tuple[Data, str]]) -> Data:
        path = self._file(digest)
        try:
            with open_regular(path) as file:
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
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot look at blob {path}: {error.strerror}") from error
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder; nothing if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"cannot list {folder}: {error.strerror}") from error


def _is_older(path: Path, time: datetime) -> bool:
    try:
        return path.lstat().st_mtime <= time.timestamp()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"cannot look at {path}: {error.strerror}") from error


def _sync_names(folder: Path) -> None:
    try:
        force_folder(folder)
    except OSError as error:
        raise StoreError(f"cannot sync {folder}: {error.strerror}") from error
