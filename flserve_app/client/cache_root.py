"""Where a client's cache directory is, and whether this user may trust and use it.

Rules:
- It is looked at before anything in it is read. Under the shared temporary directory a folder that somebody else
  made first is not used at all.
- A directory of the owner's choice may be shared by the users of a group, if all of them may write to what is in it.
  Where the first one's files are closed to the others, each other one has a folder of its own in it.
- What cannot be used is said in one line, and the client then keeps what it holds in memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flserve_app.client.files import check_private, make_private
from flserve_app.client.own_place import announced, place_of_run

_IN_MEMORY = "keeps its version in memory, the cache cannot be written"
_PARTS = ("blobs", "clients", "identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRoot:
    """Where a client keeps what it holds.

    Attributes:
        path: The directory, which may not be there yet; None if there is none that can be used.
        lasting: Whether it outlives the run.
        guarded: A folder that has to be this user's own before anything is written; None if there is none.
        trouble: What to say about it; empty if there is nothing.
        own: Where a simulated client keeps what is its own and outlives the run; None if that is not elsewhere.
    """

    path: Path | None
    lasting: bool
    guarded: Path | None = None
    trouble: str = ""
    own: Path | None = None


def cache_root(node_config: Mapping[str, object], run_id: int, node_id: int) -> CacheRoot:
    """Return where a node keeps what it holds."""
    try:
        path, lasting = cache_directory(node_config, run_id, node_id)
        return _lasting(path) if lasting else _passing(path)
    # RuntimeError: there is no home directory; ValueError: a name no file can have.
    except (OSError, RuntimeError, ValueError) as error:
        return CacheRoot(path=None, lasting=False, trouble=f"{_IN_MEMORY}: {error}")


def cache_directory(node_config: Mapping[str, object], run_id: int, node_id: int) -> tuple[Path, bool]:
    """Return the node's cache directory, and whether it outlives the run.

    Raises:
        RuntimeError: If it is below a home directory that cannot be found.
    """
    if configured := str(node_config.get("cache-dir", "") or os.environ.get("FLSERVE_CACHE_DIR", "")):
        return Path(configured).expanduser().absolute(), True
    if "partition-id" in node_config:
        return place_of_run(run_id), False
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "flserve" / f"node-{node_id}", True


def _passing(path: Path) -> CacheRoot:
    own = None
    with suppress(FileNotFoundError):
        check_private(path.parent)
        own = announced(path)
    return CacheRoot(path=path, lasting=False, guarded=path.parent, own=own)


def _lasting(path: Path) -> CacheRoot:
    try:
        found = path.stat()
    except FileNotFoundError:
        return CacheRoot(path=path, lasting=True)
    if not stat.S_ISDIR(found.st_mode) or not os.access(path, os.R_OK | os.X_OK):
        raise PermissionError(f"{path} is no directory, or may not be entered")
    others = next((name for name in _PARTS if _is_closed(path / name, found)), None)
    if others is None:
        return CacheRoot(path=path, lasting=True)
    own = path / f"user-{_user()}"
    make_private(own)
    trouble = f"keeps its versions in {own}: {path / others} belongs to another user"
    return CacheRoot(path=own, lasting=True, guarded=own, trouble=trouble)


def _is_closed(path: Path, folder: os.stat_result) -> bool:
    """Whether a part of a cache directory is somebody else's, and not meant for this user or not to be trusted."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if found.st_uid == _user():
        return False
    if folder.st_mode & stat.S_IWOTH or stat.S_ISLNK(found.st_mode):
        return True  # anybody could have put it there
    wanted = os.R_OK | os.W_OK | os.X_OK if stat.S_ISDIR(found.st_mode) else os.R_OK
    # A directory that is closed to writing altogether (a read-only mount) is read as it is.
    return not os.access(path, wanted) and (os.access(path.parent, os.W_OK) or not os.access(path, os.R_OK))


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
