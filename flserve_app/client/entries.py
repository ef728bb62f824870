"""What lies in the folders of a cache directory, looked at without following links; what cannot be seen is no error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if it is a link or cannot be listed."""
    return list(_listed(folder))


def is_hidden(folder: Path) -> bool:
    """Whether there is a folder that cannot be listed: what `entries` says of it is not all."""
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return not folder.is_symlink()
    return False


def age_of(path: Path) -> float:
    """Return when a file was last written; what is gone or cannot be seen is as new as can be."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return float("inf")


def nbytes(folder: Path) -> int:
    """Return the bytes of what is in a folder."""
    found = 0
    for path in entries(folder):
        with suppress(OSError):
            found += path.lstat().st_size
    return found


def unlink(path: Path) -> None:
    """Remove a file, if that can be done."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _listed(folder: Path) -> Iterator[Path]:
    # Links are not followed: what they lead to is not the cache's.
    with suppress(OSError), os.scandir(folder) as found:
        if not folder.is_symlink():
            yield from (Path(entry.path) for entry in found)
