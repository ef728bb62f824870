"""Rows of payloads that were lost or lie: no collection takes the payloads for garbage, a repair names them again."""

import os
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from flserve_app.errors import StoreError
from flserve_app.registry import Registry, Retention, collect, export_bundle, import_bundle, verify
from flserve_app.store import DirBlobs
from tests.registry.samples import drifting, unrelated

ARTIFACTS = drifting(5, size=200)
EVERY = [*ARTIFACTS, unrelated(1)]
NUMBER = "(SELECT digest FROM versions WHERE number = {} AND model_id = 1)"


@pytest.fixture
def store(place):
    """Five versions in chains of three, each with a state, and another model's only one."""
    with Registry.open(place / "store", keyframe_every=3) as registry:
        for number, artifact in enumerate(ARTIFACTS):
            parent = number - 1 if number else None
            state = bytes([number] * 9)
            registry.publish(
                "m", artifact, parent=parent, round=number, codec="lossless", state=state, state_kind="adam"
            )
        registry.publish("other", EVERY[-1], round=0, codec="full")
    for blob in (place / "store" / "blobs").glob("*/*"):
        os.utime(blob, (1, 1))
    return place / "store"


def execute(store, *statements):
    with closing(sqlite3.connect(store / "catalog.sqlite")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def blobs_of(store):
    return set(DirBlobs(store / "blobs"))


def refused(store, match):
    """Check that no collection touches a blob."""
    before = blobs_of(store)
    with Registry.open(store, create=False) as registry:
        for rule in (Retention(), Retention(keep=0, forget_clients=timedelta(0))):
            for dry_run in (True, False):
                with pytest.raises(StoreError, match=match):
                    collect(registry, rule, grace=timedelta(0), dry_run=dry_run)
    assert blobs_of(store) == before


LOST = {
    "all": ["DELETE FROM edges"],
    "a model's": [f"DELETE FROM edges WHERE target = '{EVERY[-1].digest}'"],
    "keyframes": ["DELETE FROM edges WHERE base IS NULL"],
    "deltas": ["DELETE FROM edges WHERE base IS NOT NULL"],
    **{f"v{number}": [f"DELETE FROM edges WHERE target = {NUMBER.format(number)}"] for number in range(5)},
    "a circle": [f"UPDATE edges SET base = {NUMBER.format(2)} WHERE target = {NUMBER.format(0)}"],
    "a target": [f"UPDATE edges SET target = {NUMBER.format(0)} WHERE target = {NUMBER.format(1)}"],
}
WRONG = {
    "another base": [f"UPDATE edges SET base = {NUMBER.format(0)} WHERE target = {NUMBER.format(4)}"],
    "no base": [f"UPDATE edges SET base = NULL WHERE target = {NUMBER.format(4)}"],
}


@pytest.mark.parametrize("name", LOST)
def test_payloads_without_their_rows_are_no_garbage_and_are_named_again(store, name):
    execute(store, *LOST[name])
    refused(store, r"cannot be made from the payloads that the catalog names, .*`flserve verify --repair`")
    with Registry.open(store, create=False) as registry:
        report = verify(registry)
        assert not report.clean
        assert any("that payloads without a row, or with a wrong one" in problem for problem in report.problems)
        report = verify(registry, repair=True)
        assert (report.clean, report.named > 0) == (True, True)
        assert verify(registry, repair=True).named == 0
    with Registry.open(store, create=False) as registry:
        assert [registry.load(artifact.digest) for artifact in EVERY] == EVERY
        assert collect(registry, Retention(), grace=timedelta(0)).versions == ()
        assert [registry.load(artifact.digest) for artifact in EVERY] == EVERY
        assert [registry.load_state("m", number) for number in (3, 4)] == [("adam", bytes([n] * 9)) for n in (3, 4)]


@pytest.mark.parametrize("name", WRONG)
def test_rows_that_name_another_base_are_made_right(store, name):
    execute(store, *WRONG[name])
    with Registry.open(store, create=False) as registry:
        assert not verify(registry).clean
        report = verify(registry, repair=True)
        assert (report.clean, report.named) == (True, 1)
        assert [registry.load(artifact.digest) for artifact in EVERY] == EVERY


def test_what_is_lost_for_good_stops_no_collection(store):
    with Registry.open(store) as registry:
        edge = registry.chain(EVERY[-1].digest)[-1]
        registry.blobs.delete(edge.blob)
    execute(store, f"DELETE FROM edges WHERE blob = '{edge.blob}'")
    with Registry.open(store) as registry:
        assert verify(registry, repair=True).named == 0
        assert [version.number for version in collect(registry, Retention(keep=1)).versions] == [0, 1, 2, 3]


def test_a_payload_that_can_be_done_without_is_garbage(store):
    with Registry.open(store) as registry:
        edge = registry.chain(ARTIFACTS[1].digest)[-1]
        keyframe = registry.archive.keyframe(ARTIFACTS[1].digest)
    columns = f"'{keyframe.blob}', '{keyframe.target}', NULL, 'lossless', {keyframe.nbytes}"
    execute(
        store,
        f"INSERT INTO edges (blob, target, base, codec, nbytes) VALUES ({columns})",
        f"DELETE FROM edges WHERE blob = '{edge.blob}'",
    )
    with Registry.open(store) as registry:
        collect(registry, Retention(), grace=timedelta(0))
        assert edge.blob not in blobs_of(store)
        assert verify(registry).clean


@pytest.mark.parametrize("nbytes", ["nbytes + 1", "1e10", "nbytes - 1", "0"])
def test_rows_that_lie_about_bytes_are_told_and_mended(store, nbytes):
    execute(store, f"UPDATE edges SET nbytes = {nbytes} WHERE target = {NUMBER.format(1)}")
    with Registry.open(store) as registry:
        report = verify(registry)
        assert not report.clean
        assert report.damage or any("bytes, the catalog says" in problem for problem in report.problems)
        assert verify(registry, repair=True).clean
        assert verify(registry).clean


def test_a_state_that_lies_about_bytes_is_told(store):
    execute(store, "UPDATE states SET nbytes = 10")
    with Registry.open(store) as registry:
        (problem, *_) = verify(registry).problems
    assert problem.endswith("has 9 bytes, the catalog says 10")


def test_a_row_that_is_there_twice_is_told(store):
    execute(
        store,
        "PRAGMA legacy_alter_table=ON",
        "ALTER TABLE edges RENAME TO old",
        "CREATE TABLE edges AS SELECT * FROM old",
        "DROP TABLE old",
        "INSERT INTO edges SELECT * FROM edges",
    )
    with Registry.open(store) as registry:
        report = verify(registry)
    assert not report.clean
    assert all(problem.endswith("has 2 rows") for problem in report.problems)


def test_a_state_is_in_no_payload(store):
    """Its own blob has no name then, and would go."""
    execute(store, "UPDATE states SET blob = (SELECT blob FROM edges LIMIT 1)")
    refused(store, r"the state of m v\d is said to be .*, which is a payload")
    with Registry.open(store) as registry:
        assert not verify(registry).clean


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE artifacts SET digest = 'G' WHERE digest = {NUMBER.format(1)}",
        f"DELETE FROM artifacts WHERE digest = {NUMBER.format(1)}",
        "UPDATE versions SET model_id = 99 WHERE number = 1",
    ],
)
def test_a_version_that_is_not_seen_is_not_forgotten(store, statement):
    """It has no artifact or no model, so it is in no list, and its payload would go."""
    execute(store, "DELETE FROM states", statement)
    refused(store, "a version|1 version of a model or an artifact that is not there: it was damaged from outside")
    with Registry.open(store) as registry:
        assert not verify(registry).clean


def test_an_artifact_that_payloads_need_and_no_row_has_is_one_sentence(store, place):
    execute(store, f"UPDATE artifacts SET digest = 'G' WHERE digest = {NUMBER.format(1)}")
    what = "has payloads and no row: it was damaged from outside"
    with Registry.open(store) as registry, pytest.raises(StoreError, match=what):
        export_bundle(registry, [registry.resolve("m", "v2")], place / "x")
    assert not (place / "x").exists()


def test_artifacts_of_no_version_are_garbage(store, place):
    """A bundle of one version brings its chain: an artifact that no version names is in order, and may go."""
    with Registry.open(store) as registry, Registry.open(place / "away") as away:
        export_bundle(registry, [registry.resolve("m", "v2")], place / "x")
        import_bundle(away, place / "x")
        assert len(away.chain(ARTIFACTS[2].digest)) == 3
        collect(away, Retention(), grace=timedelta(0))
        assert len(away.chain(ARTIFACTS[2].digest)) == 1
        assert away.load(ARTIFACTS[2].digest) == ARTIFACTS[2]
        assert verify(away).clean
