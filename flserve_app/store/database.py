"""The catalog's database: opening, format, transactions.

SQLite runs in WAL mode with `synchronous=FULL`, so a commit that returned survives a power cut (`journal`: where it
cannot), and waits for other processes' locks; nothing gives up before that wait is over, so connections are not
counted. Where nothing can be written the catalog is opened to be read (`unwritable`). Transactions are short. One that
writes takes the write lock when it starts: what it reads stays true until it commits; the threads of a process take it
in turns (`turns`). A fresh database gets the newest tables at once; alembic is imported only to move an older one. A
database of a revision that this program does not know is left untouched.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, final

from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from flserve_app.errors import Conflict, StoreError
from flserve_app.store import rows
from flserve_app.store.journal import journal_for, keep_rollback, leave_log
from flserve_app.store.schema import HEAD, metadata
from flserve_app.store.turns import Turns
from flserve_app.store.unwritable import UnwritableFile

BUSY_SECONDS = 60.0
_MIGRATIONS = Path(__file__).with_name("migrations")
_ASK_SECONDS, _LEAST_ASK_SECONDS = 0.01, 0.001
_WRITES = "flserve_writes"
_SQLITE_OPTIONS: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS, "isolation_level": None}}
# As many connections as there are threads: one that waits for the lock must not keep another from reading.
_FILE_OPTIONS: dict[str, Any] = {"poolclass": QueuePool, "pool_size": 5, "max_overflow": -1}


@final
class Database:
    """Connections to one catalog; threads may share it.

    Args:
        url: SQLAlchemy URL, such as `sqlite:////path/to/catalog.sqlite`.
        unwritable: Opens the file of that URL, which must be there and of the newest revision; nothing is written.

    Raises:
        StoreError: If it cannot be opened, or was made by a newer flserve.
    """

    def __init__(self, url: str | URL, *, unwritable: UnwritableFile | None = None) -> None:
        self._engine = _engine(url, unwritable)
        self._writer = self._engine.execution_options(**{_WRITES: True})
        self._turns = Turns(BUSY_SECONDS)
        self._read_only = unwritable is not None
        try:
            if self._read_only:
                self._check_head()
            else:
                self._bring_to_head()
        except BaseException:
            self.close()
            raise

    @property
    def folder(self) -> Path | None:
        """The folder of the database's file; None if it is in memory."""
        name = self._engine.url.database
        return Path(name).absolute().parent if name and name != ":memory:" else None

    @classmethod
    def at(cls, path: Path) -> Self:
        """Open the SQLite database in a file, which is made if it is not there.

        Raises:
            StoreError: If it cannot be opened, or can only be read and was left in the middle of something.
        """
        url = URL.create("sqlite", database=str(path))
        if path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            return cls(url, unwritable=UnwritableFile(path, BUSY_SECONDS))
        try:
            return cls(url)
        except StoreError:
            if not leave_log(path):
                raise
        return cls(url)

    @property
    def place(self) -> str:
        """Where it is, to be shown: the folder of its file, or its URL without a password."""
        url = self._engine.url
        if url.get_backend_name() == "sqlite" and url.database:
            return str(Path(url.database).parent)
        return url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the catalog.

        Raises:
            StoreError: If the database cannot answer.
        """
        with _translated(self._engine), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that nobody writes beside; it commits at the end, or not at all.

        Raises:
            Conflict: If what it writes contradicts what is there.
            StoreError: If the database cannot do it.
        """
        if self._read_only:
            raise StoreError(f"catalog {_place(self._engine)} cannot be written: it or its folder is read-only")
        with _translated(self._writer), self._turns.turn(), self._writer.begin() as connection:
            yield connection

    def check(self) -> tuple[str, ...]:
        """Return what the database itself finds wrong with its file and its references, a sentence each.

        Raises:
            StoreError: If it cannot be read.
        """
        if self._engine.dialect.name != "sqlite":
            return ()
        with self.read() as connection:
            said = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
            dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        broken = [f"a row of table {row[0]!r} refers to one of {row[2]!r} that is not there" for row in dangling]
        return tuple([f"catalog: {line}" for line in said if line != "ok"] + broken)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _check_head(self) -> None:
        with self.read() as connection:
            revision = _revision(connection)
        if revision != HEAD:
            raise StoreError(
                f"the store's catalog has revision {str(revision)[:40]!r}, this flserve reads {HEAD!r}, and the store "
                "cannot be written to be moved: open it once where it can"
            )

    def _bring_to_head(self) -> None:
        with self.read() as connection:
            if _revision(connection) == HEAD:
                return
        with _translated(self._engine), self._engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("COMMIT")  # the journal mode cannot change inside a transaction
                connection.exec_driver_sql(f"PRAGMA journal_mode={journal_for(self._engine.url.database)}")
        with self.write() as connection:
            revision = _revision(connection)
            if revision is None:
                _create(connection)
            elif revision != HEAD:
                _upgrade(connection, revision)


def _engine(url: str | URL, unwritable: UnwritableFile | None) -> Engine:
    try:
        place = make_url(url)
        engine = create_engine(
            place,
            json_serializer=partial(json.dumps, allow_nan=False),
            json_deserializer=rows.json_from_text,
            **_options(place, unwritable),
        )
    except (SQLAlchemyError, ImportError) as error:
        raise StoreError(f"cannot open a catalog: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _options(place: URL, unwritable: UnwritableFile | None) -> dict[str, Any]:
    if unwritable is not None:
        return {"creator": unwritable.connect, "poolclass": NullPool}
    if place.get_backend_name() != "sqlite":
        return {}
    return {**_SQLITE_OPTIONS, **(_FILE_OPTIONS if place.database not in (None, "", ":memory:") else {})}


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")
    keep_rollback(connection)


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get(_WRITES, False):
        _begin_to_write(connection)
    else:
        connection.exec_driver_sql("BEGIN")


def _begin_to_write(connection: Connection) -> None:
    """Wait for the write lock, asking at random moments, and more often the longer it takes.

    SQLite itself asks ten times a second, while a writer that writes again takes the lock back within a millisecond:
    of several such processes one or two would write, and the others wait until they are told that it is locked.
    """
    seconds = int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()) / 1000
    begun = time.monotonic()
    connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        while not _has_begun(connection, patient=(waited := time.monotonic() - begun) < seconds):
            time.sleep(random.uniform(0, max(_ASK_SECONDS / (1 + 5 * waited), _LEAST_ASK_SECONDS)))
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={round(seconds * 1000)}")


def _has_begun(connection: Connection, *, patient: bool) -> bool:
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except OperationalError as error:
        if patient and getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True


def _revision(connection: Connection) -> str | None:
    """Return the revision of the tables, "" if they name none, None if there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def _create(connection: Connection) -> None:
    metadata.create_all(connection)
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision and revision not in known:
        raise StoreError(
            f"the store's catalog has revision {revision[:40]!r}, this flserve knows up to {HEAD!r}: "
            "a newer flserve wrote it, and it was left untouched"
        )
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(f"cannot move the catalog from revision {revision!r} to {HEAD!r}: {error}") from error


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    """Turn the database's exceptions into ours."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"catalog {_place(engine)}: {error.orig}") from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StoreError(f"catalog {_place(engine)}: {reason}") from error


def _place(engine: Engine) -> str:
    return engine.url.database or engine.url.render_as_string(hide_password=True)
