import json
import sqlite3
from contextlib import closing

import pytest

from flserve_app.registry import Holder, Registry
from flserve_app.store import DirBlobs
from tests.cli.test_history import flserve, rows_of
from tests.registry.samples import drifting


@pytest.fixture
def store(tmp_path):
    """Six versions; `stable` stood at v1 and stands at v2; a client holds v3."""
    artifacts = drifting(6)
    with Registry.open(tmp_path / "store", keyframe_every=4) as registry:
        for number, artifact in enumerate(artifacts):
            registry.publish("m", artifact, parent=number - 1 if number else None, round=number, codec="lossless")
        for number in (1, 2):
            registry.move_label("m", "stable", number, why="good")
        registry.saw_clients("m", [Holder(identity="a", digest=artifacts[3].digest, number=3, round=3)])
    return tmp_path / "store"


def blob_of(store, number):
    with Registry.open(store) as registry:
        blob = registry.chain(registry.resolve("m", str(number)).digest)[-1].blob
    return store / "blobs" / blob[:2] / blob


def test_a_sound_store_is_said_to_be_sound(store):
    done = flserve("verify", "--store", store)
    assert done.exit_code == 0
    assert done.stdout.startswith("sound: versions 6 good; 6 payloads, ")
    found = json.loads(flserve("verify", "--store", store, "--json").stdout)
    assert found["clean"] is True
    assert [row["condition"] for row in found["versions"]] == ["good"] * 6


def test_damage_is_told_version_by_version_and_exits_with_1(store):
    blob_of(store, 4).unlink()
    path = blob_of(store, 1)
    path.write_bytes(path.read_bytes()[:-1])
    done = flserve("verify", "--store", store, "--model", "m")
    assert done.exit_code == 1
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith("DAMAGED: versions 1 good, 5 lost; 2 blobs damaged or missing; 6")
    lost = [row[1] for row in rows_of(done.stdout) if row[0] == "m"]
    assert lost == ["v1", "v2", "v3", "v4", "v5"]
    found = json.loads(flserve("verify", "--store", store, "--json").stdout)
    assert sorted((one["missing"], one["repaired"]) for one in found["damage"]) == [(False, False), (True, False)]
    assert {row["version"]: row["condition"] for row in found["versions"]}["v0"] == "good"


def test_a_repair_says_what_it_could_do(store):
    blob_of(store, 4).unlink()
    done = flserve("verify", "--store", store, "--repair")
    assert done.exit_code == 1
    *_, result, advice = done.stdout.splitlines()
    assert result == "repair: 0 of 1 put back"
    assert advice.startswith("nothing that is left makes m v4 (")
    assert "import a bundle that holds them" in advice


def test_a_damaged_state_is_told_with_what_it_costs(store):
    with Registry.open(store) as registry:
        registry.publish("s", drifting(1)[0], round=0, codec="full", state=b"moments", state_kind="adam")
        (state,) = registry.catalog.inventory().states.values()
    (store / "blobs" / state.blob[:2] / state.blob).unlink()
    done = flserve("verify", "--store", store)
    assert done.exit_code == 1
    assert "missing: no run can go on from there" in done.stdout
    assert "; 1 blob damaged or missing; " in done.stdout


def test_orphans_are_mentioned(store):
    DirBlobs(store / "blobs").put(b"orphan")
    done = flserve("verify", "--store", store)
    assert (done.exit_code, "; 1 orphan blob (gc removes them)" in done.stdout) == (0, True)


def versions_left(store):
    rows = json.loads(flserve("log", "--store", store, "--json").stdout)
    assert len(rows) == 6
    return [row["version"] for row in rows if row["collected"] is None]


def test_gc_alone_collects_no_version(store):
    done = flserve("gc", "--store", store)
    assert done.exit_code == 0
    assert done.stdout == "collected 0, kept 6 (0 made to stand alone); 0 blobs, 0 bytes, 0 leftover files\n"
    assert len(versions_left(store)) == 6


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--keep", "1"], ["v2", "v3", "v5"]),
        (["--keep", "2", "--keep-labelled"], ["v1", "v2", "v3", "v4", "v5"]),
        (["--keep", "1", "--forget-clients", "0"], ["v2", "v5"]),
        (["--older-than", "0"], ["v2", "v3", "v5"]),
        (["--keep", "0", "--older-than", "1"], ["v0", "v1", "v2", "v3", "v4", "v5"]),
        (["--keep", "0", "--dry-run"], ["v0", "v1", "v2", "v3", "v4", "v5"]),
    ],
)
def test_gc_keeps_what_the_options_say(store, options, left):
    assert flserve("gc", "--store", store, *options).exit_code == 0
    assert versions_left(store) == left
    assert flserve("verify", "--store", store).exit_code == 0


def test_gc_says_what_it_did_and_log_marks_it(store):
    rehearsed = json.loads(flserve("gc", "--store", store, "--keep", "1", "--dry-run", "--json").stdout)
    assert [row["version"] for row in rehearsed["collected"]] == ["v0", "v1", "v4"]
    done = flserve("gc", "--store", store, "--keep", "1")
    assert done.stdout.splitlines()[0] == "m: collected 3 versions: v0 v1 v4"
    assert done.stdout.splitlines()[-2] == (
        "kept beyond the rule: m v2, the label stable stands there; m v3, a client holds it"
    )
    assert done.stdout.splitlines()[-1].startswith("collected 3, kept 3 (2 made to stand alone); 5 blobs, ")
    rows = {row[0]: row for row in rows_of(flserve("log", "--store", store).stdout)}
    assert rows["v1"][5] == "collected"
    assert rows["v2"][5] != "collected"
    shown = flserve("diff", "v0", "v2", "--store", store)
    assert (shown.exit_code, shown.stderr.startswith("error: m v0 was collected on ")) == (1, True)


@pytest.mark.parametrize("options", [["--keep", "-1"], ["--older-than", "-1"], ["--keep", "x"]])
def test_wrong_usage_exits_with_2(store, options):
    assert flserve("gc", "--store", store, *options).exit_code == 2


@pytest.mark.parametrize("days", ["nan", "1e300"])
def test_a_time_that_is_none_is_one_line(store, days):
    done = flserve("gc", "--store", store, "--older-than", days)
    assert done.exit_code == 1
    assert "is no time that can be reckoned with" in done.stderr


@pytest.mark.parametrize("days", ["740000", "1e6", "999999999"])
def test_nothing_is_older_than_all_times(store, days):
    done = flserve("gc", "--store", store, "--older-than", days, "--forget-clients", days)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("collected 0, ")


def test_a_repair_says_what_it_named_again(store):
    with closing(sqlite3.connect(store / "catalog.sqlite")) as database, database:
        database.execute("DELETE FROM edges")
    done = flserve("gc", "--store", store)
    assert (done.exit_code, done.stderr.count("error: ")) == (1, 1)
    assert "`flserve verify --repair` names them again" in done.stderr
    assert "problem: versions are lost that payloads" in flserve("verify", "--store", store).stdout
    done = flserve("verify", "--repair", "--store", store)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("repair: ")
    assert "payloads named again" in done.stdout
    assert json.loads(flserve("verify", "--repair", "--store", store, "--json").stdout)["named"] == 0
