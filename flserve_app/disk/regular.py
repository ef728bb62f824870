"""Reading regular files only.

Whoever may write to a folder may put a FIFO, a link or a device where a file is expected: opened as they are, they
would answer never, or with somebody else's file. Rules:
- The last name of a path is not followed if it is a link, unless the caller says that one will do; nothing that is
  opened can make the reader wait.
- What is read whole is bounded. Everything else is an OSError, as if the file could not be read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST_TEXT = 1 << 20

_WAITLESS = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")  # each where the system has it
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in _WAITLESS)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
}


def is_regular(path: Path) -> bool:
    """Whether there is a regular file, no link, that can be seen."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def open_regular(path: Path, *, follow: bool = False) -> BinaryIO:
    """Open a file for reading.

    Args:
        path: Where; what stands there has to be a regular file.
        follow: Whether a link to one will do.

    Raises:
        OSError: If the system cannot, or something else stands there.
    """
    # Looked at before as well: opening some devices does something.
    _check_regular(path, os.stat(path, follow_symlinks=follow).st_mode)
    descriptor = os.open(path, _FLAGS | (0 if follow else _NO_LINK))
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, most: int = MOST_TEXT) -> bytes:
    """Return the content of a small regular file.

    Raises:
        OSError: If it is something else, cannot be read, or has more than `most` bytes.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"expected at most {most} bytes", str(path))
    return content


def kind_of(mode: int) -> str:
    """Return what kind of thing a mode is of, as people say it."""
    return _KINDS.get(stat.S_IFMT(mode), "a file")


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, expected a file", str(path))
