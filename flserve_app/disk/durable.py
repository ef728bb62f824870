"""Forcing files and the names in folders to disk, as far as a file system can.

Rules:
- A file system that has no such thing answers so, each in its own way (CIFS, VirtualBox, some FUSE): that is no
  failure, it orders what it writes itself. Any other answer is one.
- A folder that may be written to but not listed cannot be opened, so it is not forced.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_UNFORCED = frozenset(
    {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EISDIR}
)


def force(descriptor: int) -> None:
    """Force what an open file or folder has to disk. Raises OSError if writing it failed."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNFORCED:
            raise


def force_folder(path: Path) -> None:
    """Force the names in a folder to disk. Raises OSError if writing them failed."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        force(descriptor)
    finally:
        os.close(descriptor)
