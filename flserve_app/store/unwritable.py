"""Reading an SQLite database that cannot be written, nor the files that SQLite keeps beside it.

Somebody else may write it meanwhile: its owner, or whoever has the same folder mounted to be written. SQLite offers
two ways, and each is wrong half of the time. With a log (`-wal`) and its index (`-shm`) beside the database, it is
read with locks, and shows what was committed last. Without them SQLite would have to make them; told that the file
is `immutable` it does without, and then sees nothing new, or one page of this state and one of that. So:

- Which way is decided anew for every connection, and a connection serves one transaction.
- Without a log the file is read as a whole into memory, and again when it changed. What was read counts only if the
  file stayed as it was and no log appeared: a file that is written has one.
- A database that keeps no log is written in place, under locks: it is read with them.
- A log without its index is there for a moment while a writer comes or goes; if it stays, he was cut off.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import final
from urllib.parse import quote

from flserve_app.errors import StoreError

_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.02
_TICK_SECONDS = 0.05  # two writes within one tick of the system's clock leave the same time
_VERSIONS = slice(18, 20)  # of the file's header: 2 where there is a log
_WITH_LOG, _WITHOUT = b"\2\2", b"\1\1"

_Stamp = tuple[int, int, int, int]


@final
class UnwritableFile:
    """One database file; threads may share it.

    Args:
        path: The file.
        busy_seconds: How long to wait for others' locks.
    """

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._log, self._index = (path.with_name(path.name + ending) for ending in ("-wal", "-shm"))
        self._lock = threading.Lock()
        self._read: tuple[_Stamp, bytes] | None = None

    def connect(self) -> sqlite3.Connection:
        """Return a connection that sees what is committed now, for one transaction.

        Raises:
            StoreError: If whoever wrote it last was cut off, or it cannot be read.
            sqlite3.Error: If it is no database.
        """
        patience = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                connection = self._connect()
            except (StoreError, sqlite3.OperationalError):  # a writer came or went a moment ago
                if time.monotonic() > patience:
                    raise
                connection = None
            if connection is not None:
                return connection
            time.sleep(_PAUSE_SECONDS)

    def _connect(self) -> sqlite3.Connection | None:
        """Return a connection; None if the file was written meanwhile."""
        if _nbytes(self._log):
            if not self._index.exists():
                raise StoreError(
                    f"the store {self._path.parent} cannot be written, and whoever wrote it last was cut off: open it "
                    f"once where it can be written, so that the changes in {self._log.name} are taken in"
                )
            return self._with_locks()
        if not self._keeps_log():
            return self._with_locks()
        with self._lock:
            content = self._content()
        return None if content is None else _in_memory(content)

    def _keeps_log(self) -> bool:
        try:
            with self._path.open("rb") as file:
                return file.read(_VERSIONS.stop)[_VERSIONS] == _WITH_LOG
        except OSError as error:
            raise StoreError(f"cannot read catalog {self._path}: {error.strerror}") from error

    def _with_locks(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode=ro", uri=True, timeout=self._busy_seconds, isolation_level=None
        )
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # from here on, the log stays
        except BaseException:
            connection.close()
            raise
        return connection

    def _content(self) -> bytes | None:
        """Return the file as it stands; None if it was written meanwhile."""
        try:
            before = _stamp(os.stat(self._path))
            if self._read is not None and self._read[0] == before:
                return self._read[1]
            content = self._path.read_bytes()
            after = os.stat(self._path)
        except OSError as error:
            raise StoreError(f"cannot read catalog {self._path}: {error.strerror}") from error
        if _nbytes(self._log) or _stamp(after) != before or -1 < time.time() - after.st_mtime < _TICK_SECONDS:
            return None
        self._read = (before, content)
        return content


def _in_memory(content: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        # There is no log, and memory has no room for one.
        connection.deserialize(content[: _VERSIONS.start] + _WITHOUT + content[_VERSIONS.stop :])
    except BaseException:
        connection.close()
        raise
    return connection


def _nbytes(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StoreError(f"cannot look at {path}: {error.strerror}") from error


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
