"""Files that are there completely or not at all.

A file is written under a temporary name in the file system it belongs to, synced, renamed over its name, and the
folder is synced: after a crash at any point the name stands for the old content or for the new one. Its name may
be settled when all is written. What a crash leaves behind is a file whose name starts with `TEMPORARY`; readers
skip those. What is read is a regular file: a link, FIFO or device in its place is an error, and never waited for.
Where a file system cannot sync folders, it orders names itself. POSIX only.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, final

from flserve_app.errors import StoreError

TEMPORARY = ".tmp-"
# What fsync of a folder answers where there is no such thing: CIFS, VirtualBox, some FUSE.
_UNSYNCED = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY, errno.EISDIR})
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
}


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file durably and at once; its folder must exist.

    Args:
        path: Where; what stands there is replaced.
        data: The content.

    Raises:
        StoreError: If the system cannot (disk full, no permission); nothing then stands there that was not before.
    """
    with writing_file(path, f" ({len(data)} bytes)") as file:
        file.write(data)


@contextmanager
def writing_file(path: Path, what: str = "") -> Iterator[BinaryIO]:
    """Write a file durably and at once, piece by piece: it is there when the block ends without an error.

    Args:
        path: Where; what stands there is replaced. Its folder must exist.
        what: Said about it in an error.

    Raises:
        StoreError: If the system cannot (disk full, no permission); nothing then stands there that was not before.
    """
    with new_file(path.parent, f"{path}{what}") as new:
        yield new.file
        new.name(path)


@final
class NewFile:
    """A file that has a temporary name yet.

    Attributes:
        file: What to write to.
    """

    def __init__(self, file: BinaryIO, temporary: Path) -> None:
        self.file = file
        self._temporary = temporary

    def name(self, path: Path) -> None:
        """Put it in its place, durably, instead of what stands there. Raises OSError."""
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self._temporary, path)
        sync_folder(path.parent)


@contextmanager
def new_file(folder: Path, what: str) -> Iterator[NewFile]:
    """Write a file whose name may be settled later; when the block ends it is gone, unless it was named.

    Args:
        folder: Where it lies meanwhile, on the file system it is meant for; it must exist.
        what: Names it in an error.

    Raises:
        StoreError: If the system cannot (disk full, no permission), for any `OSError` in the block.
    """
    temporary = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            try:
                yield NewFile(file, temporary)
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {what}: {error.strerror}") from error


def make_folder(path: Path) -> None:
    """Make a folder and the ones above it, durably.

    Raises:
        StoreError: If the system cannot.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
        if not path.is_dir():
            raise StoreError(f"cannot make the folder {path}: a file stands there")
    except OSError as error:
        raise StoreError(f"cannot make the folder {path}: {error.strerror}") from error


def remove_file(path: Path) -> None:
    """Remove a file; one that is not there is fine.

    Raises:
        StoreError: If the system cannot.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}") from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, as far as its file system can. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise
    finally:
        os.close(descriptor)


def open_regular(path: Path, *, follow: bool = False) -> BinaryIO:
    """Open a file for reading.

    Args:
        path: Where; what stands there has to be a regular file.
        follow: Whether a link to one will do.

    Raises:
        OSError: If the system cannot, or something else stands there.
    """
    _check_regular(path, os.stat(path, follow_symlinks=follow).st_mode)
    # Should another thing stand there by now, opening it must not wait.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def kind_of(mode: int) -> str:
    """Return what kind of thing a mode is of, as people say it."""
    return _KINDS.get(stat.S_IFMT(mode), "a file")


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, expected a file", str(path))
