"""How a SQLite catalog makes its commits durable, on file systems as they are.

A write-ahead log lets readers go on beside a writer, and needs memory that processes share by way of a file. Where
a file system has no such memory (some FUSE and network ones), a rollback journal that is cut to nothing at each
commit does the same job: it needs no sync of the folder, and a commit survives a power cut as well; readers and
a writer then wait for each other. A catalog that was made with a log elsewhere is moved over when it is opened.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from flserve_app.errors import StoreError
from flserve_app.store.files import TEMPORARY

LOG, ROLLBACK = "WAL", "TRUNCATE"


def shares_memory(folder: Path) -> bool:
    """Whether processes can share memory by way of a file in a folder; True if that cannot be found out."""
    try:
        with tempfile.NamedTemporaryFile(prefix=TEMPORARY, dir=folder) as file:
            os.ftruncate(file.fileno(), mmap.PAGESIZE)
            try:
                mmap.mmap(file.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_WRITE).close()
            except OSError:
                return False
    except OSError:
        return True
    return True


def journal_for(database: str | None) -> str:
    """Return the journal mode for a new database in a file."""
    in_memory = not database or database == ":memory:"
    return LOG if in_memory or shares_memory(Path(str(database)).parent) else ROLLBACK


def keep_rollback(connection: Any) -> None:
    """Let a new connection to a database without a log commit as the module says."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
        connection.execute(f"PRAGMA journal_mode={ROLLBACK}")


def leave_log(path: Path) -> bool:
    """Move a database from a log to a rollback journal where its file system cannot have a log.

    Returns:
        Whether there was a need to.

    Raises:
        StoreError: If it cannot be done, or another process is at it.
    """
    if not path.exists() or shares_memory(path.parent):
        return False
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")  # alone, it keeps in its own memory what it would share
            database.execute("PRAGMA synchronous=FULL")
            database.execute(f"PRAGMA journal_mode={ROLLBACK}")
            database.execute("BEGIN IMMEDIATE")
            database.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(f"catalog {path}: its file system has no memory to share for its log: {error}") from error
    return True
