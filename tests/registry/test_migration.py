"""A store of an older revision is moved to the newest with nothing lost."""

import sqlite3
from contextlib import closing

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from flserve_app.registry import Registry
from flserve_app.store import Holder, database
from flserve_app.store.schema import HEAD
from tests.registry.samples import drifting
from tests.store.test_database import tables_of

TO_0001 = """
DROP TABLE leases;
DROP TABLE states;
DROP TABLE clients;
ALTER TABLE artifacts DROP COLUMN collected;
UPDATE alembic_version SET version_num = '0001';
"""


def make_tables_of_0001(path):
    config = Config()
    config.set_main_option("script_location", str(database._MIGRATIONS))
    config.set_main_option("path_separator", "os")
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()


@pytest.fixture
def old_store(place):
    """A store with runs, labels, metrics and a rollback, as the first revision had it."""
    artifacts = drifting(3)
    with Registry.open(place / "store") as registry:
        registry.start_run("run-1", "m", config={"lr": 0.1})
        for number, artifact in enumerate([*artifacts, artifacts[0]]):
            parent = number - 1 if number else None
            registry.publish("m", artifact, parent=parent, round=number, run="run-1", codec="lossless")
        registry.add_metrics("m", 2, {"loss": float("nan")})
        registry.move_label("m", "stable", 1, why="best")
    with closing(sqlite3.connect(place / "store" / "catalog.sqlite")) as connection:
        connection.executescript(TO_0001)
    return place / "store"


def content_of(path):
    with closing(sqlite3.connect(path)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


def test_the_sample_is_what_the_first_revision_made(place, old_store):
    make_tables_of_0001(place / "first.sqlite")
    assert tables_of(old_store / "catalog.sqlite") == tables_of(place / "first.sqlite")


def test_an_older_store_is_moved_with_nothing_lost(old_store):
    artifacts = drifting(3)
    before = content_of(old_store / "catalog.sqlite")
    with Registry.open(old_store, create=False) as registry:
        versions = registry.versions("m")
        assert [registry.load(version) for version in versions] == [*artifacts, artifacts[0]]
        assert registry.labels("m") == {"latest": 3, "stable": 1}
        assert [run.run for run in registry.runs("m")] == ["run-1"]
        assert all(version.collected is None for version in versions)
        assert registry.load_state("m", 3) is None
    after = content_of(old_store / "catalog.sqlite")
    assert after.pop("alembic_version") == [(HEAD,)]
    before.pop("alembic_version")
    assert (after.pop("states"), after.pop("clients"), after.pop("leases")) == ([], [], [])
    assert after == {**before, "artifacts": [(*row, None) for row in before["artifacts"]]}


def test_a_moved_store_does_what_a_new_one_does(old_store):
    with Registry.open(old_store, create=False) as registry:
        registry.publish("m", drifting(4)[3], parent=3, round=4, codec="full", state=b"x", state_kind="adam")
        registry.saw_clients("m", [Holder(identity="partition-0", digest="0" * 64, number=4, round=4)])
    with Registry.open(old_store, create=False) as registry:
        assert registry.load_state("m", 4) == ("adam", b"x")
        assert [client.identity for client in registry.clients("m")] == ["partition-0"]


def test_a_store_without_leases_gets_them(old_store):
    with Registry.open(old_store, create=False):
        pass
    with closing(sqlite3.connect(old_store / "catalog.sqlite")) as connection:
        connection.executescript("DROP TABLE leases; UPDATE alembic_version SET version_num = '0002';")
    before = content_of(old_store / "catalog.sqlite")
    with Registry.open(old_store, create=False) as registry, registry.leases.hold("m"):
        registry.publish("m", drifting(4)[3], parent=3, round=4, codec="full")
    after = content_of(old_store / "catalog.sqlite")
    assert (after.pop("leases"), after.pop("alembic_version")) == ([], [(HEAD,)])
    assert after["runs"] == before["runs"]
    assert after["versions"][:-1] == before["versions"]
