"""Whether a catalog is one at all, before anything is asked of it.

A database that lost its tables would be given new, empty ones and be taken for a store that holds nothing; one that
has a view or a trigger does what somebody else wrote into it; what is a FIFO or a link is no database. All of it is
found by a look at the file's kind and at the database's own list of what it has. Only SQLite opens the file: closing
a file that SQLite has open elsewhere in the process would drop its locks.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from flserve_app.disk.regular import kind_of
from flserve_app.errors import StoreError
from flserve_app.store.schema import HEAD, metadata

BESIDE = ("-wal", "-shm", "-journal")  # the files that SQLite keeps beside its own
_FIRST = ("models", "runs", "artifacts", "edges", "versions", "labels", "label_moves")  # of the first revision
_BROKEN = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_BUSY_SECONDS = 60.0


def check_kinds(path: Path) -> None:
    """Check that a catalog and the files beside it are files, where they are there.

    Raises:
        StoreError: If one is something else, or cannot be looked at.
    """
    for one in (path, *(path.with_name(path.name + ending) for ending in BESIDE)):
        try:
            mode = one.lstat().st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"cannot look at {one}: {error.strerror}") from error
        if not stat.S_ISREG(mode):
            raise StoreError(f"{one} is {kind_of(mode)}, expected a file: the store was damaged from outside")


def catalog_loss(path: Path, *, begun: bool) -> str | None:
    """Return what a catalog lost, as the end of a sentence about it; None if it has all its tables.

    Args:
        path: The database's file; see `check_kinds`.
        begun: Whether the store holds something. If not, a catalog without tables is one that was never made.

    What cannot be found out (a file that cannot be read here) is left to whoever opens it.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "is missing" if begun else None
    except OSError:
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as database:
            return _loss(database, begun, size)
    except sqlite3.Error as error:
        return "is no database" if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN else None


def _loss(database: sqlite3.Connection, begun: bool, size: int) -> str | None:
    rows = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    tables = {name: str(sql) for kind, name, sql in rows if kind == "table"}
    if strange := [f"{kind} {str(name)[:64]!r}" for kind, name, _ in rows if kind in ("view", "trigger")]:
        return f"has the {strange[0]}, which no flserve made"
    if not tables:
        return ("is empty" if size == 0 else "has no tables") if begun else None
    if "alembic_version" not in tables:
        return "names no revision" if begun or tables.keys() & metadata.tables.keys() else "is of something else"
    found = database.execute("SELECT version_num FROM alembic_version LIMIT 2").fetchall()
    if len(found) != 1 or found[0][0] is None:
        return "names several revisions" if len(found) > 1 else "names no revision"
    revision = found[0][0]
    if revision == HEAD:
        wanted = {name: [column.name for column in table.columns] for name, table in metadata.tables.items()}
    else:
        wanted = {name: [] for name in _FIRST}
    return _lacking(database, tables, wanted)


def _lacking(database: sqlite3.Connection, tables: Mapping[str, str], wanted: Mapping[str, list[str]]) -> str | None:
    for name, columns in wanted.items():
        if not tables.get(name, "").upper().startswith("CREATE TABLE"):
            return f"lacks the table {name!r}"
        # hidden is not 0 where a column is computed by an expression of somebody's
        there = {row[1] for row in database.execute(f'PRAGMA table_xinfo("{name}")') if row[6] == 0}
        if missing := [column for column in columns if column not in there]:
            return f"lacks the column {missing[0]!r} of table {name!r}"
    return None
