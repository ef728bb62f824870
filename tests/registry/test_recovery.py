"""A store whose catalog was lost is damaged, never empty; what payloads say of themselves is made again."""

import json
import os
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.errors import StoreError
from flserve_app.registry import Registry, Retention, collect, verify
from flserve_app.registry.recovery import loss, recover
from flserve_app.store import DirBlobs
from tests.cli.test_history import flserve
from tests.registry.samples import drifting

pytestmark = pytest.mark.slow

ARTIFACTS = drifting(4, size=100)
OTHER = Artifact({"q": np.arange(5)})


@pytest.fixture
def store(place):
    with Registry.open(place / "store", keyframe_every=2) as registry:
        for number, artifact in enumerate(ARTIFACTS):
            parent = number - 1 if number else None
            registry.publish("m", artifact, round=number, codec="lossless", parent=parent, metrics={"a": 0.5})
        registry.publish("other", OTHER, round=0, codec="full")
        registry.move_label("m", "best", 1, why="good")
    return place / "store"


def sql(*lines):
    def do(path):
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA foreign_keys=OFF")
            for line in lines:
                database.execute(line)
            database.commit()

    return do


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def piped(path):
    path.unlink()
    os.mkfifo(path)


ALL = ("versions", "edges", "artifacts", "labels", "label_moves", "models")
LOST = {
    "is missing": lambda path: path.unlink(),
    "is empty": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_bytes(b"x" * 4096),
    "a link": linked,
    "a FIFO": piped,
    "no tables": lambda path: (path.unlink(), sql("VACUUM")(path)),
    "no revision": sql("DROP TABLE alembic_version"),
    "two revisions": sql("INSERT INTO alembic_version VALUES ('0001')"),
    **{f"no {table}": sql(f"DROP TABLE {table}") for table in (*ALL, "runs", "states", "clients")},
    "a column": sql("ALTER TABLE versions DROP COLUMN serving"),
    "a trigger": sql("CREATE TRIGGER t AFTER INSERT ON versions BEGIN DELETE FROM edges; END"),
    "a view": sql("CREATE VIEW v AS SELECT * FROM versions"),
    "no rows": sql(*(f"DELETE FROM {table}" for table in ALL)),
}


@pytest.mark.parametrize("name", LOST)
def test_a_lost_catalog_is_damage_and_is_made_again(store, name):
    LOST[name](store / "catalog.sqlite")
    blobs = set(DirBlobs(store / "blobs"))
    for blob in (store / "blobs").glob("*/*"):
        os.utime(blob, (1, 1))
    for command in (["log"], ["gc"]):
        done = flserve(*command, "--store", store)
        assert (done.exit_code, done.stderr.count("error: ")) == (1, 1), done.output
    assert set(DirBlobs(store / "blobs")) == blobs
    assert json.loads(flserve("verify", "--store", store, "--json").stdout)["clean"] is False
    done = flserve("verify", "--repair", "--store", store)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "recovered: " in done.stdout
    with Registry.open(store) as registry:
        versions = [version for model in registry.models() for version in registry.versions(model)]
        assert {version.digest for version in versions} == {artifact.digest for artifact in (*ARTIFACTS, OTHER)}
        assert len(registry.models()) == 2
        assert all(registry.labels(model)["latest"] >= 0 for model in registry.models())
        assert verify(registry).clean
        collect(registry, Retention())
        assert [registry.load(version) for version in versions]
    assert (name == "is missing") != bool(list(store.glob("catalog.sqlite.damaged-*")))


def test_what_no_payload_tells_is_lost_and_the_order_is_that_of_the_chain(store):
    (store / "catalog.sqlite").unlink()
    done = recover(store)
    assert (done.versions, done.payloads, done.salvaged) == ({"recovered": 4, "recovered-2": 1}, 5, {})
    with Registry.open(store) as registry:
        versions = registry.versions("recovered")
        assert [registry.load(version) for version in versions] == ARTIFACTS
        assert [(version.number, version.parent) for version in versions] == [(0, None), (1, 0), (2, None), (3, 2)]
        assert registry.publish("recovered", OTHER, round=4, codec="full", parent=3).number == 4


def test_tables_that_are_there_are_taken_over(store):
    sql("DROP TABLE labels", "DROP TABLE edges")(store / "catalog.sqlite")
    recover(store)
    with Registry.open(store) as registry:
        assert registry.models() == ("m", "other")
        assert registry.labels("m") == {"best": 1, "latest": 3}
        assert registry.latest("m").metrics == {"a": 0.5}


def test_blobs_that_are_no_payloads_or_damaged_are_told(store):
    blobs = DirBlobs(store / "blobs")
    state = blobs.put(b"state")
    damaged = blobs.put(b"x")
    (store / "blobs" / damaged[:2] / damaged).write_bytes(b"y")
    (store / "catalog.sqlite").unlink()
    done = recover(store)
    assert (done.others, done.damaged) == ((state,), (damaged,))


def test_a_store_that_was_never_used_lost_nothing(place):
    Registry.open(place / "store").close()
    for damage in (lambda path: path.write_bytes(b""), lambda path: path.unlink()):
        damage(place / "store" / "catalog.sqlite")
        assert loss(place / "store") is None
        Registry.open(place / "store").close()


@pytest.mark.parametrize("name", ["FORMAT", "catalog.sqlite-wal", "catalog.sqlite-shm", "catalog.sqlite-journal"])
def test_what_stands_for_a_file_is_one_sentence(store, name):
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)):
        (store / name).unlink(missing_ok=True) if not (store / name).is_dir() else (store / name).rmdir()
        make(store / name)
        with pytest.raises(StoreError, match=r"it is a|is a (FIFO|folder|link), expected a file"):
            Registry.open(store, create=False)


def test_gc_never_follows_a_link_and_readers_may(store, place):
    (store / "blobs").rename(place / "home")
    (store / "blobs").symlink_to(place / "home")
    (place / "home" / "aa").mkdir(exist_ok=True)
    mine = [place / "home" / ".tmp-mine", place / "home" / "aa" / ("aa" * 32)]
    for path in mine:
        path.write_bytes(b"")
        os.utime(path, (1, 1))
    done = flserve("gc", "--store", store, "--keep", "1")
    assert done.exit_code == 1
    assert "is a link to" in done.stderr
    assert all(path.exists() for path in mine)
    with Registry.open(store) as registry:
        assert [registry.load(version) for version in registry.versions("m")] == ARTIFACTS
        assert not [version for version in registry.versions("m") if version.collected]


def test_folders_of_blobs_that_are_links_are_left_alone(store, place):
    (place / "home").mkdir()
    (place / "home" / ("ab" * 32)).write_bytes(b"")
    os.utime(place / "home" / ("ab" * 32), (1, 1))
    if not (store / "blobs" / "ab").exists():
        (store / "blobs" / "ab").symlink_to(place / "home")
    assert flserve("gc", "--store", store).exit_code == 0
    assert (place / "home" / ("ab" * 32)).exists()


def first_publication(path, at):
    """Begin to publish a model's first version, and stop before it is named: `at` is called with the registry."""
    with Registry.open(path) as registry:
        original = registry.catalog.publish

        def stopped(*args, **options):
            at(registry)
            return original(*args, **options)

        registry.catalog.publish = stopped
        with registry.leases.hold("m"):
            return registry.publish("m", ARTIFACTS[0], round=0, codec="lossless")


def test_a_first_publication_in_progress_is_no_damage(tmp_path):
    """Its blob is there before its version is: who looks meanwhile must not take the store for one that lost all."""
    said = []

    def look(_):
        done = flserve("verify", "--store", tmp_path / "s", "--json")
        said.append((done.exit_code, json.loads(done.stdout)["clean"]))
        said.append((flserve("gc", "--store", tmp_path / "s").exit_code, set(DirBlobs(tmp_path / "s/blobs")) != set()))
        said.append((flserve("verify", "--repair", "--store", tmp_path / "s").exit_code, True))

    version = first_publication(tmp_path / "s", look)
    assert said == [(0, True)] * 3
    with Registry.open(tmp_path / "s") as registry:
        assert registry.models() == ("m",)
        assert registry.load(version) == ARTIFACTS[0]


def test_a_first_publisher_that_was_killed_leaves_an_orphan(tmp_path):
    class Killed(BaseException):
        pass

    def kill(_):
        raise Killed

    with pytest.raises(Killed):
        first_publication(tmp_path / "s", kill)
    assert flserve("verify", "--store", tmp_path / "s").exit_code == 0
    for blob in (tmp_path / "s/blobs").glob("*/*"):
        os.utime(blob, (1, 1))
    assert flserve("gc", "--store", tmp_path / "s").exit_code == 0
    assert set(DirBlobs(tmp_path / "s/blobs")) == set()


def test_no_catalog_is_replaced_under_a_run(tmp_path):
    """A catalog that was emptied beside a run: what the run publishes would go with it."""
    with Registry.open(tmp_path / "s") as registry, registry.leases.hold("m"):
        registry.publish("m", ARTIFACTS[0], round=0, codec="lossless")
        sql("DELETE FROM labels", "DELETE FROM label_moves", "DELETE FROM versions")(tmp_path / "s/catalog.sqlite")
        done = flserve("verify", "--repair", "--store", tmp_path / "s")
        assert done.exit_code == 1
        assert "is being trained by" in done.stderr
    assert flserve("verify", "--repair", "--store", tmp_path / "s").exit_code == 0
