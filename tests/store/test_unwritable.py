"""A catalog that cannot be written, beside somebody who writes it.

Whether a file can be written does not matter to `UnwritableFile`: it writes nothing, and is used here on files that
others write at the same time. `tests/registry/test_read_only.py` has the real thing.
"""

import shutil
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from flserve_app.errors import StoreError
from flserve_app.store import unwritable
from flserve_app.store.unwritable import UnwritableFile


@pytest.fixture
def path(place):
    with writer(place / "catalog.sqlite") as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE pairs (a INTEGER, b INTEGER)")
        connection.execute("INSERT INTO pairs VALUES (0, 0)")
    return place / "catalog.sqlite"


def writer(path):
    return closing(sqlite3.connect(path, isolation_level=None))


def pairs(file):
    with closing(file.connect()) as connection:
        return connection.execute("SELECT a, b FROM pairs").fetchall()


def log_of(path):
    return path.with_name(path.name + "-wal")


def test_what_is_committed_is_seen_whoever_comes_and_goes(path):
    file = UnwritableFile(path, 1)
    assert pairs(file) == [(0, 0)]
    for number in range(1, 6):
        with writer(path) as connection:
            connection.execute("UPDATE pairs SET a = ?, b = ?", (number, number))
            assert log_of(path).exists()
            assert pairs(file) == [(number, number)]
        assert pairs(file) == [(number, number)]


def test_nothing_is_written_beside_it(path):
    before = sorted(one.name for one in path.parent.iterdir())
    with closing(UnwritableFile(path, 1).connect()) as connection:
        connection.execute("SELECT * FROM pairs").fetchall()
    assert sorted(one.name for one in path.parent.iterdir()) == before


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_no_state_is_seen_that_never_was(path, journal):
    """A writer comes, writes, checkpoints and goes all the time, and with him the files beside."""
    end, file, seen, failed = threading.Event(), UnwritableFile(path, 60), set(), []
    with writer(path) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO pairs VALUES (?, ?)", [(0, 0)] * 2000)
        connection.execute("COMMIT")

    def write():
        number = 0
        while not end.wait(0.01):  # or a reader that waits for the lock hardly ever gets it
            number += 1
            with writer(path) as connection:
                connection.execute("UPDATE pairs SET a = ?, b = ?", (number, number))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        until, reads = time.monotonic() + 20, 0
        while time.monotonic() < until and (reads < 60 or len(seen) < 4):
            reads += 1
            found = pairs(file)
            assert len(found) == 2001
            assert len(set(found)) == 1
            assert found[0][0] == found[0][1]
            seen.add(found[0])
    finally:
        end.set()
        thread.join()
    assert len(seen) > 3
    assert failed == []
    with writer(path) as connection:
        assert set(pairs(file)) == set(connection.execute("SELECT a, b FROM pairs"))


def test_a_file_is_read_once_while_it_stays_as_it_is(path, monkeypatch):
    file, read, read_bytes = UnwritableFile(path, 1), [], type(path).read_bytes
    monkeypatch.setattr(type(path), "read_bytes", lambda self: read.append(self) or read_bytes(self))
    for _ in range(5):
        assert pairs(file) == [(0, 0)]
    settled = len(read)
    assert pairs(file) == [(0, 0)]
    assert len(read) == settled
    assert settled < 8


def test_a_database_without_a_log_is_read(path):
    with writer(path) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    assert pairs(UnwritableFile(path, 1)) == [(0, 0)]


def test_a_log_without_its_index_is_waited_for_and_then_told(path, monkeypatch):
    monkeypatch.setattr(unwritable, "_PATIENCE_SECONDS", 0.1)
    with writer(path) as connection:
        connection.execute("UPDATE pairs SET a = 1, b = 1")
        for name in (path.name, log_of(path).name):
            shutil.copy(path.parent / name, path.parent / f"copy-{name}")
    copy = path.parent / f"copy-{path.name}"
    with pytest.raises(StoreError, match="whoever wrote it last was cut off"):
        UnwritableFile(copy, 1).connect()
    log_of(copy).write_bytes(b"")  # a log with nothing in it keeps nothing back
    assert len(pairs(UnwritableFile(copy, 1))) == 1


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_what_is_no_database_is_an_error_at_once_or_empty(path, content):
    path.write_bytes(content)
    with pytest.raises(sqlite3.Error), closing(UnwritableFile(path, 1).connect()) as connection:
        connection.execute("SELECT * FROM pairs")


def test_a_file_that_went_is_told(path, monkeypatch):
    monkeypatch.setattr(unwritable, "_PATIENCE_SECONDS", 0.1)
    path.unlink()
    with pytest.raises(StoreError, match=r"cannot read catalog .*: No such file"):
        UnwritableFile(path, 1).connect()
