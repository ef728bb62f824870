"""A cache directory is kept small: what kills left behind and what nobody asks for any more goes.

It is swept by whoever installs a version, under the directory's lock. Rules:
- A temporary file of a process that is gone goes at once, one that may be somebody's after an hour.
- A reference that was not renewed for `cache_days` goes, with what lies beside it; so does the oldest, and the next,
  while the versions together are over `cache_bytes`. The one that is being installed stays.
- A version that no reference names goes.
- Private tensors go by their own age alone, `private_days` after a server last asked for them, and not in silence.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from logging import WARNING
from pathlib import Path

from flwr.common.logger import log

from flserve_app.client.files import TEMPORARY
from flserve_app.client.policy import SitePolicy
from flserve_app.client.private_files import BEFORE, SUFFIX
from flserve_app.client.reference import parse_reference
from flserve_app.client.regular import read_regular
from flserve_app.errors import StoreError

FEW_CLIENTS = 16  # so many that looking at all of them costs less than a small version
PAUSE_SECONDS = 600.0  # for more
TEMPORARY_SECONDS = 3600.0
MOST_REFERENCES = 256
DAY_SECONDS = 24 * 3600.0

_swept: dict[Path, float] = {}
_lock = threading.Lock()


def sweep_when_due(root: Path, client: str, kept: Path, policy: SitePolicy) -> None:
    """Sweep a cache directory, unless many clients share it and this process did a moment ago.

    Args:
        root: The directory; its lock is held.
        client: Who sweeps.
        kept: The reference that was just written.
        policy: What may stay.
    """
    folders = _entries(root / "clients")
    now = time.time()
    with _lock:
        if len(folders) > FEW_CLIENTS and now - _swept.get(root, 0.0) < PAUSE_SECONDS:
            return
        _swept[root] = now
    sweep(root, client, kept, policy, now)


def sweep(root: Path, client: str, kept: Path, policy: SitePolicy, now: float) -> None:
    """Remove what a cache directory does not need at a time `now`."""
    clients = _entries(root / "clients")
    blobs = _entries(root / "blobs")
    # Versions are written under the lock, so nobody is writing one now.
    _forget_temporaries([path for blob in blobs for path in _entries(blob)], now, idle=True)
    _forget_temporaries([*_entries(root), *(path for folder in clients for path in _entries(folder))], now, idle=False)
    references = [path for folder in clients for path in _entries(folder) if path.suffix == ".json"]
    oldest = now - policy.cache_days * DAY_SECONDS
    for path in references:
        if path != kept and _age_of(path) < oldest:
            _forget_reference(path)
    for folder in clients:
        for path in _too_many(folder):
            if path != kept:
                _forget_reference(path)
    _forget_unneeded(root, [path for path in references if path.exists()], kept, policy.cache_bytes)
    for folder in clients:
        _forget_private(folder, now, policy.private_days)
        if folder.name != client:
            with suppress(OSError):
                folder.rmdir()  # nothing but an empty one


def _too_many(folder: Path) -> list[Path]:
    """Return the oldest references of a client that was told of more models than anybody has."""
    references = sorted((path for path in _entries(folder) if path.suffix == ".json"), key=_age_of)
    return references[:-MOST_REFERENCES]


def _forget_temporaries(paths: Iterable[Path], now: float, *, idle: bool) -> None:
    for path in paths:
        if path.name.startswith(TEMPORARY) and (idle or _is_gone(path.name) or _age_of(path) < now - TEMPORARY_SECONDS):
            _unlink(path)


def _is_gone(name: str) -> bool:
    """Whether the process that a temporary file is named by is not there; not known of other hosts' processes."""
    number = name.removeprefix(TEMPORARY).partition("-")[0]
    if not number.isdigit() or os.name != "posix":
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _forget_unneeded(root: Path, references: list[Path], kept: Path, most_bytes: int) -> None:
    """Remove versions without a reference, and then the oldest references until the rest is small enough."""
    blobs = {path.name: path for path in _entries(root / "blobs")}
    needed: dict[Path, str] = {path: _digest_at(path) for path in references}
    sizes = {digest: _nbytes(path) for digest, path in blobs.items()}
    waiting = sorted((path for path in needed if path != kept), key=_age_of, reverse=True)
    while True:
        named = set(needed.values())
        for digest in [digest for digest in sizes if digest not in named]:
            shutil.rmtree(blobs[digest], ignore_errors=True)
            del sizes[digest]
        if sum(sizes.values()) <= most_bytes or not waiting:
            return
        path = waiting.pop()
        del needed[path]
        _forget_reference(path)


def _forget_reference(path: Path) -> None:
    _unlink(path)
    _unlink(path.with_suffix(".leftover"))


def _forget_private(folder: Path, now: float, days: int) -> None:
    for path in _entries(folder):
        if path.suffix == SUFFIX and _age_of(path) < now - days * DAY_SECONDS:
            _unlink(path)
            _unlink(path.with_suffix(BEFORE))
            log(
                WARNING,
                "flserve: private tensors that %s kept are removed: no server asked for them for %d days (%s)",
                folder.name,
                days,
                path.name,
            )


def _digest_at(path: Path) -> str:
    try:
        return parse_reference(read_regular(path).decode()).digest
    except (OSError, UnicodeDecodeError, StoreError):
        return ""


def _age_of(path: Path) -> float:
    """Return when a file was last written; what is gone or cannot be seen is as new as can be."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return float("inf")


def _nbytes(blob: Path) -> int:
    found = 0
    for path in _entries(blob):
        with suppress(OSError):
            found += path.lstat().st_size
    return found


def _entries(folder: Path) -> list[Path]:
    return list(_listed(folder))


def _listed(folder: Path) -> Iterator[Path]:
    # Links are not followed: what they lead to is not the cache's.
    with suppress(OSError), os.scandir(folder) as entries:
        if not folder.is_symlink():
            yield from (Path(entry.path) for entry in entries)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
