"""Files that a client keeps: replaced whole or not at all, in folders that are its user's own."""

from __future__ import annotations

import mmap
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path


def make_private(path: Path) -> None:
    """Make a folder that only this user may write to, or check that it is one.

    Names under a shared temporary directory can be guessed: whoever made the folder first could place links
    in it, and have this user's files overwritten.

    Raises:
        OSError: If it cannot be made, is a link, or somebody else may write to it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    owner = os.getuid() if hasattr(os, "getuid") else found.st_uid
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o022:
        raise PermissionError(f"{path} is a link, belongs to somebody else or may be written to by others")


def write_atomically(path: Path, data: bytes | Iterable[bytes | memoryview], *, forced: bool = False) -> None:
    """Write `data`, whole or in parts, to `path` through a temporary file beside it and a rename.

    Most content is not forced to disk: what a client keeps is checked by digest when it is read and fetched
    again if it was lost. What cannot be fetched again is `forced`.

    Raises:
        OSError: If the directory cannot be written; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines((data,) if isinstance(data, bytes) else data)
            if forced:
                file.flush()
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def mapped(path: Path) -> memoryview:
    """Return a file's bytes as they are on disk, without reading them into memory; for files replaced as a whole.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        # Unmapped with the last view of it: an error's traceback may keep one for a while.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
