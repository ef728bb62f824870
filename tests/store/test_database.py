import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from flserve_app.errors import Conflict, StoreError
from flserve_app.store import Database, database
from flserve_app.store.schema import HEAD


def tables_of(path):
    with sqlite3.connect(path) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            if name != "alembic_version"
        ]
        found = {}
        for name in names:
            indexes = connection.execute(f"SELECT name, \"unique\" FROM pragma_index_list('{name}')").fetchall()
            found[name] = {
                "columns": connection.execute(f"PRAGMA table_info('{name}')").fetchall(),
                "references": sorted(connection.execute(f"PRAGMA foreign_key_list('{name}')").fetchall()),
                "indexes": sorted(
                    (unique, [row[2] for row in connection.execute(f"PRAGMA index_info('{index}')")])
                    for index, unique in indexes
                ),
            }
    connection.close()
    return found


def set_revision(path, revision):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def insert_models(opened, names, first="SELECT 1"):
    with opened.write() as connection:
        connection.execute(text(first))
        for name in names:
            connection.execute(text("INSERT INTO models (name, next_number) VALUES (:name, 0)"), {"name": name})


def empty_catalog_before_the_first_revision(path):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.close()


def test_migrations_make_what_a_fresh_catalog_has(place):
    Database.at(place / "fresh.sqlite").close()
    empty_catalog_before_the_first_revision(place / "moved.sqlite")
    Database.at(place / "moved.sqlite").close()
    assert len(tables_of(place / "fresh.sqlite")) == 11  # the tables, and SQLite's own of serials
    assert tables_of(place / "moved.sqlite") == tables_of(place / "fresh.sqlite")


def test_head_is_the_newest_revision():
    config = Config()
    config.set_main_option("script_location", str(database._MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_a_catalog_of_a_newer_revision_is_refused_and_untouched(place):
    path = place / "catalog.sqlite"
    Database.at(path).close()
    set_revision(path, "9999")
    before = path.read_bytes()
    with pytest.raises(
        StoreError, match=rf"revision '9999', this flserve knows up to '{HEAD}': a newer flserve wrote it"
    ):
        Database.at(path)
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused_and_untouched(place):
    path = place / "catalog.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="file is not a database"):
        Database.at(path)
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_one_clear_error(place):
    with pytest.raises(StoreError, match="unable to open database file"):
        Database.at(place / "no" / "catalog.sqlite")


@pytest.mark.parametrize("url", ["nothing", "oracle9://host/x"])
def test_a_url_that_means_nothing_is_refused(url):
    with pytest.raises(StoreError, match="cannot open a catalog"):
        Database(url)


def test_a_strange_path_is_a_path(place):
    folder = place / "a?b%20c #d"
    folder.mkdir()
    Database.at(folder / "catalog.sqlite").close()
    assert (folder / "catalog.sqlite").exists()


def test_commits_are_durable_and_others_are_waited_for(place):
    opened = Database.at(place / "catalog.sqlite")
    with opened.read() as connection:
        settings = [
            connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    opened.close()
    assert settings == ["wal", 2, 1, 60_000]


def test_a_failed_transaction_leaves_nothing(place):
    opened = Database.at(place / "catalog.sqlite")
    with pytest.raises(Conflict, match="UNIQUE"):
        insert_models(opened, ["a", "a"])
    with opened.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM models")).scalar() == 0
    opened.close()


def test_a_full_disk_is_an_error_of_ours_and_the_catalog_lives_on(place):
    opened = Database.at(place / "catalog.sqlite")
    with pytest.raises(StoreError, match="full"):
        insert_models(opened, [f"{number:0128}" for number in range(1000)], "PRAGMA max_page_count = 1")
    opened.close()
    reopened = Database.at(place / "catalog.sqlite")
    insert_models(reopened, ["later"])
    with reopened.read() as connection:
        assert connection.execute(text("SELECT name FROM models")).scalars().all() == ["later"]
    reopened.close()


def test_many_may_make_the_same_catalog_at_once(place):
    for turn in range(5):
        path = place / f"{turn}.sqlite"
        with ThreadPoolExecutor(6) as pool:
            opened = list(pool.map(lambda _, path=path: Database.at(path), range(6)))
        for one in opened:
            one.close()
        assert "versions" in tables_of(path)


def test_alembic_is_not_imported_for_a_catalog_at_head(place):
    script = (
        "import sys, pathlib; from flserve_app.store import Database;"
        "[Database.at(pathlib.Path(sys.argv[1])).close() for _ in range(2)];"
        "sys.exit(any(name.split('.')[0] in ('alembic', 'torch', 'flwr') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(place / "catalog.sqlite")], check=False)
    assert done.returncode == 0


def test_nothing_gives_up_before_the_lock_does(place, monkeypatch):
    """More threads than a pool has connections, and somebody who holds the lock longer than a pool waits."""
    opened, failed = Database.at(place / "catalog.sqlite"), []
    pool = opened._engine.pool
    monkeypatch.setattr(pool, "_timeout", 0.05)
    holder = sqlite3.connect(place / "catalog.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    def write(number):
        try:
            insert_models(opened, [f"m{number}"])
        except StoreError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    with ExitStack() as readers:  # nor do those who read keep each other out
        for _ in range(24):
            readers.enter_context(opened.read())
        time.sleep(0.3)
        holder.execute("COMMIT")
        for thread in threads:
            thread.join()
    holder.close()
    with opened.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM models")).scalar() == 24
    opened.close()
    assert failed == []


def test_who_waits_for_a_lock_in_vain_is_told(place, monkeypatch):
    monkeypatch.setitem(database._SQLITE_OPTIONS, "connect_args", {"timeout": 0.05, "isolation_level": None})
    opened = Database.at(place / "catalog.sqlite")
    holder = sqlite3.connect(place / "catalog.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="database is locked"):
        insert_models(opened, ["m"])
    holder.close()
    insert_models(opened, ["m"])
    opened.close()


def test_who_waits_for_the_lock_asks_often_and_more_often_the_longer_it_takes(place, monkeypatch):
    """SQLite asks ten times a second, in vain while others take the lock back within a millisecond."""
    opened, pauses = Database.at(place / "catalog.sqlite"), []
    holder = sqlite3.connect(place / "catalog.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 1000:
            holder.execute("COMMIT")

    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=sleep)
    monkeypatch.setattr(database, "time", clock)
    monkeypatch.setattr(database, "random", SimpleNamespace(uniform=lambda least, most: most))
    insert_models(opened, ["m"])
    with opened.read() as connection:
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 60_000
    holder.close()
    opened.close()
    assert len(pauses) == 1000
    assert pauses[0] == 0.01
    assert sorted(pauses, reverse=True) == pauses
    assert pauses[-1] == 0.001
