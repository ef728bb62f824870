"""Files that are there completely or not at all.

A file is written under a temporary name in the file system it belongs to, synced, renamed over its name, and the
folder is synced: after a crash at any point the name stands for the old content or for the new one. Its name may
be settled when all is written. What a crash leaves behind is a file whose name starts with `TEMPORARY`; readers
skip those. POSIX only.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, final

from flserve_app.disk.durable import force, force_folder
from flserve_app.errors import StoreError

TEMPORARY = ".tmp-"


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
        force(self.file.fileno())
        os.replace(self._temporary, path)
        force_folder(path.parent)


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
            force_folder(folder.parent)
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
