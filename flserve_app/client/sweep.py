"""A cache directory is kept small: what kills left behind and what nobody asks for any more goes.

It is swept by whoever installs a version, under the directory's lock. Rules:
- A directory of few clients is swept each time; that of many once an hour, whichever process does it, and at once where
  the versions are over `cache_bytes` or a client has too many references.
- A temporary file of a process that is gone goes at once, one that may be somebody's after an hour: a process of
  another host or container cannot be seen from here.
- A reference that was not used for `cache_days` goes, with what lies beside it. Those of other clients, which may have
  bounds of their own, go by the default if that is longer. The one that is being installed stays.
- To get below `cache_bytes` a client lets go of its own references only (`needed`).
- A client keeps references to `MOST_REFERENCES` models: a server may name a new one in every message.
- A version that no reference names goes.
- Private tensors go by their own age alone, `private_days` after a server last asked for them (those of other clients
  by the default if that is longer), and not in silence.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from logging import WARNING
from pathlib import Path
from typing import Literal

from flwr.common.logger import log

from flserve_app.client.entries import age_of, entries, unlink
from flserve_app.client.files import TEMPORARY, is_abandoned
from flserve_app.client.needed import forget_reference, forget_unneeded
from flserve_app.client.policy import SitePolicy
from flserve_app.client.private_files import BEFORE, SUFFIX

FEW_CLIENTS = 16  # so many that looking at all of them costs less than a small version
PAUSE_SECONDS = 3600.0  # for more
TEMPORARY_SECONDS = 3600.0
MOST_REFERENCES = 16
DAY_SECONDS = 24 * 3600.0
_SWEPT = "swept"  # a file whose time says when that was


def sweep_when_due(root: Path, client: str, kept: Path, policy: SitePolicy) -> str:
    """Sweep a cache directory, unless many clients share it, one did a moment ago, and it is small.

    Args:
        root: The directory; its lock is held.
        client: Who sweeps.
        kept: The reference that was just written.
        policy: What may stay.

    Returns:
        What the client should be told; empty if there is nothing.
    """
    now = time.time()
    if (
        len(entries(root / "clients")) <= FEW_CLIENTS
        or not 0 <= now - age_of(root / _SWEPT) < PAUSE_SECONDS
        or _too_many(kept.parent)
        or sum(map(_payload_bytes, entries(root / "blobs"))) > policy.cache_bytes
    ):
        _note_time(root / _SWEPT)
        return sweep(root, client, kept, policy, now)
    return ""


def sweep(root: Path, client: str, kept: Path, policy: SitePolicy, now: float) -> str:
    """Remove what a cache directory does not need at a time `now`; return what the client should be told."""
    clients = entries(root / "clients")
    blobs = entries(root / "blobs")
    # Versions are written under the lock, so nobody is writing one now.
    _forget_temporaries([path for blob in blobs for path in (*entries(blob), *entries(blob / "by"))], now, idle=True)
    elsewhere = (path for folder in (root, *clients) for path in entries(folder))
    _forget_temporaries([*elsewhere, *clients, *blobs], now, idle=False)
    for folder in clients:
        own = folder.name == client
        _forget_old(folder, kept, now - DAY_SECONDS * (policy.cache_days if own else _longer(policy, "cache_days")))
        for path in _too_many(folder):
            if path != kept:
                forget_reference(path)
    said = forget_unneeded(root, client, kept, policy.cache_bytes)
    for folder in clients:
        own = folder.name == client
        _forget_private(folder, now, policy.private_days if own else _longer(policy, "private_days"))
        if not own:
            with suppress(OSError):
                folder.rmdir()  # nothing but an empty one
    return said


def _longer(policy: SitePolicy, days: Literal["cache_days", "private_days"]) -> int:
    """Return after how many days another client's go, whose own policy is not known here."""
    return max(int(getattr(each, days)) for each in (policy, SitePolicy()))


def _too_many(folder: Path) -> list[Path]:
    """Return the oldest references of a client that was told of more models than anybody has."""
    references = sorted((path for path in entries(folder) if path.suffix == ".json"), key=age_of)
    return references[:-MOST_REFERENCES]


def _forget_temporaries(paths: Iterable[Path], now: float, *, idle: bool) -> None:
    for path in paths:
        if path.name.startswith(TEMPORARY) and (
            idle or is_abandoned(path.name) or age_of(path) < now - TEMPORARY_SECONDS
        ):
            unlink(path)


def _forget_old(folder: Path, kept: Path, oldest: float) -> None:
    """Remove old references, and what lay beside those that are gone: a kill may come between the two."""
    for path in entries(folder):
        if path.suffix == ".json" and path != kept and age_of(path) < oldest:
            forget_reference(path)
    for path in entries(folder):
        if path.suffix == ".leftover" and age_of(path) < oldest and not path.with_suffix(".json").exists():
            unlink(path)


def _forget_private(folder: Path, now: float, days: int) -> None:
    for path in entries(folder):
        if path.suffix == SUFFIX and age_of(path) < now - days * DAY_SECONDS:
            unlink(path)
            unlink(path.with_suffix(BEFORE))
            log(
                WARNING,
                "flserve: private tensors that %s kept are removed: no server asked for them for %d days (%s)",
                folder.name,
                days,
                path.name,
            )


def _payload_bytes(blob: Path) -> int:
    try:
        return (blob / "payload").lstat().st_size
    except OSError:
        return 0


def _note_time(path: Path) -> None:
    # One that cannot be written is due again next time.
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        os.close(os.open(path, flags, 0o664))
        os.utime(path)
