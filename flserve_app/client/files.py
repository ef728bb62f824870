"""Files that a client keeps: replaced whole or not at all, in folders that are its user's own."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from flserve_app.disk.durable import force, force_folder
from flserve_app.disk.regular import open_regular
from flserve_app.processes import this_place

TEMPORARY = ".new-"


def make_private(path: Path) -> None:
    """Make a folder that only this user may write to, or check that it is one.

    Names under a shared temporary directory can be guessed: whoever made the folder first could place links
    in it, and have this user's files overwritten.

    Raises:
        OSError: If it cannot be made, is a link, or somebody else may write to it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(path)


def check_private(path: Path) -> None:
    """Check that a folder is this user's own, and that only this user may write to it.

    Raises:
        OSError: If it is not there, is a link, or somebody else may write to it.
    """
    found = path.lstat()
    owner = os.getuid() if hasattr(os, "getuid") else found.st_uid
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o022:
        raise PermissionError(f"{path} is a link, belongs to somebody else or may be written to by others")


def write_atomically(
    path: Path, data: bytes | Iterable[bytes | memoryview], *, forced: bool = False, shared: bool = False
) -> None:
    """Write `data`, whole or in parts, to `path` through a temporary file beside it and a rename.

    Most content is not forced to disk: what a client keeps is checked by digest when it is read and fetched
    again if it was lost. What cannot be fetched again is `forced`, the file and the folders that name it.
    What is `shared` may be read by the group of a folder that hands its group on (setgid); all else by its user only.

    Raises:
        OSError: If the directory cannot be written; nothing is left behind then.
    """
    made = _made(path.parent)
    # Named by the process: what a kill leaves behind is known by nobody running under that number.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{_here()}-{os.getpid()}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines((data,) if isinstance(data, bytes) else data)
            if shared and path.parent.stat().st_mode & stat.S_ISGID:
                os.fchmod(file.fileno(), 0o640)
            if forced:
                file.flush()
                force(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink(missing_ok=True)
        raise
    if forced:
        for folder in (path.parent, *(each.parent for each in made)):
            force_folder(folder)


def is_abandoned(name: str) -> bool:
    """Whether a temporary file was written by a process of this host and container that is gone."""
    parts = name.removeprefix(TEMPORARY).split("-")
    if len(parts) != 3 or parts[0] != _here() or not parts[1].isdecimal() or os.name != "posix":
        return False
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, ValueError):
        return False
    return False


def mapped(path: Path) -> memoryview:
    """Return a file's bytes as they are on disk, without reading them into memory; for files replaced as a whole.

    Raises:
        OSError: If it is no regular file, or cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        # Unmapped with the last view of it: an error's traceback may keep one for a while.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _here() -> str:
    """Return a name of the place within which a process's number is its own."""
    return hashlib.sha256(this_place().encode()).hexdigest()[:12]


def _made(folder: Path) -> list[Path]:
    """Make a folder with its parents; return those that were not there."""
    missing = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        missing.append(each)
    folder.mkdir(parents=True, exist_ok=True)
    return missing
