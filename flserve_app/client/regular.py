"""Reading regular files only.

Whoever may write to a folder may put a FIFO, a link or a device where a file is expected: opened as they are, they
would answer never, or with somebody else's file. Rules:
- The last name of a path is never followed if it is a link; nothing that is opened can make the reader wait.
- What is read whole is bounded. Everything else is an OSError, as if the file could not be read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST_TEXT = 1 << 20

_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def is_regular(path: Path) -> bool:
    """Whether there is a regular file, no link, that can be seen."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def open_regular(path: Path) -> int:
    """Return a descriptor to read a regular file from.

    Raises:
        OSError: If it is something else, or cannot be read.
    """
    # Looked at before as well: opening some devices does something.
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "expected a regular file, found another kind", str(path))
    descriptor = os.open(path, _FLAGS | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "expected a regular file, found another kind", str(path))
    return descriptor


def read_regular(path: Path, most: int = MOST_TEXT) -> bytes:
    """Return the content of a small regular file.

    Raises:
        OSError: If it is something else, cannot be read, or has more than `most` bytes.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"expected at most {most} bytes", str(path))
    return content
