"""Which versions in a cache directory somebody needs, and which of a client's go to make room.

Rules:
- A version that no reference names goes. While a reference cannot be read, or a client's folder not be listed, nobody
  knows what it names: then a version stays that another client has marked as its own.
- To get below its `cache-bytes` a client lets go of its own references only, the oldest first, and of those only that
  make room: a bound of one client is none for its neighbours.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from flserve_app.client.entries import age_of, entries, is_hidden, nbytes, unlink
from flserve_app.client.files import TEMPORARY
from flserve_app.client.reference import parse_reference
from flserve_app.disk.regular import read_regular
from flserve_app.errors import StoreError

# What a file is answered with that is no reference, whoever reads it.
_NO_REFERENCE = frozenset({errno.ENOENT, errno.EINVAL, errno.ELOOP, errno.EFBIG, errno.ENOTDIR})


def marks(blob: Path) -> frozenset[str] | None:
    """Return the clients that marked a version as their own; None if that cannot be seen."""
    if is_hidden(blob) or is_hidden(blob / "by"):
        return None
    return frozenset(path.name for path in entries(blob / "by") if not path.name.startswith(TEMPORARY))


def forget_reference(path: Path) -> None:
    """Remove a reference, and what its updates left out."""
    unlink(path)
    unlink(path.with_suffix(".leftover"))


def forget_unneeded(root: Path, client: str, kept: Path, most_bytes: int) -> str:
    """Remove what nobody needs, and then of one client's the oldest, until the rest is small enough.

    Args:
        root: The cache directory; its lock is held.
        client: Whose references may go.
        kept: The one of them that stays in any case.
        most_bytes: What all versions together should have.

    Returns:
        What the client should be told; empty if there is nothing.
    """
    folders = entries(root / "clients")
    named = {path: digest_at(path) for folder in folders for path in entries(folder) if path.suffix == ".json"}
    unseen = {folder.name for folder in folders if is_hidden(folder)}
    unseen |= {path.parent.name for path, digest in named.items() if digest is None}
    blind = bool(unseen) or is_hidden(root / "clients")
    # Whose references are all read has no need of its marks.
    read = frozenset() if client in unseen else frozenset({client})
    blobs = {path.name: path for path in entries(root / "blobs")}
    claimed = {digest for digest, path in blobs.items() if blind and _is_marked(path, read)}
    sizes = {digest: nbytes(path) for digest, path in blobs.items()}
    own = {path for path in named if path.parent.name == client and path != kept}
    others = claimed.union(digest for path, digest in named.items() if digest and path not in own)
    waiting = sorted((path for path in own if named[path] not in others), key=age_of, reverse=True)
    let_go = False
    while True:
        needed = claimed.union(filter(None, named.values()))
        for digest in [digest for digest in sizes if digest not in needed]:
            shutil.rmtree(blobs[digest], ignore_errors=True)
            del sizes[digest]
        over = sum(sizes.values()) > most_bytes
        if not over or not waiting:
            break
        path = waiting.pop()
        let_go |= bool(named.pop(path))
        forget_reference(path)
    if over and sizes.keys() - {named.get(kept)}:
        return f"shares {root}, which is over its cache-bytes {most_bytes}: what other clients hold there stays"
    return f"lets its oldest versions in {root} go: they are over its cache-bytes {most_bytes}" if let_go else ""


def digest_at(path: Path) -> str | None:
    """Return the digest that a reference names; empty if the file is none, None if it cannot be read."""
    try:
        return parse_reference(read_regular(path).decode()).digest
    except OSError as error:
        return "" if error.errno in _NO_REFERENCE else None
    except (UnicodeDecodeError, StoreError):
        return ""


def _is_marked(blob: Path, read: frozenset[str]) -> bool:
    found = marks(blob)
    return found is None or bool(found - read)
