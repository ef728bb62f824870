import json
from contextlib import contextmanager

from flserve_app.registry import Registry, Retention, collect
from flserve_app.store import Database
from tests.cli.test_history import flserve, outputs
from tests.registry.samples import drifting

__all__ = ["outputs"]


def test_a_version_is_shown_with_all_that_is_known(outputs):
    shown = flserve("show", "stable").stdout
    assert shown.startswith("digits v1\n")
    for part in (drifting(2)[1].digest, "accuracy 0.875", "loss 0.3125", "stable", "lossless-small"):
        assert part in shown
    assert "weight" in shown
    assert "2000" in shown
    assert "collected" not in shown


def test_without_a_name_it_is_the_latest(outputs):
    assert flserve("show").stdout.startswith("digits v3\n")
    found = json.loads(flserve("show", "--json").stdout)
    assert (found["version"], found["labels"], found["parent"]) == ("v3", ["latest"], "v2")
    assert {tensor["name"]: tensor["shape"] for tensor in found["tensors"]} == {"weight": [2000], "steps": []}


def test_one_that_was_collected_is_shown_without_tensors(outputs):
    with Registry.open(outputs / "run" / "store") as registry:
        collect(registry, Retention(keep=1))
    found = json.loads(flserve("show", "v0", "--json").stdout)
    assert found["collected"] is not None
    assert found["tensors"] is None
    assert "collected" in flserve("show", "v0").stdout


def test_what_is_not_there_is_one_line(outputs):
    done = flserve("show", "v9")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "has no version 'v9'" in done.stderr


def test_latest_is_shown_as_latest_while_a_run_publishes(tmp_path, monkeypatch):
    """Version, labels and content are read one after the other: each transaction finds a newer version."""
    first, second = drifting(2)
    with Registry.open(tmp_path / "store") as publisher:
        publisher.publish("m", first, round=0, codec="full")
        read = Database.read

        @contextmanager
        def moving(database):
            with read(database) as connection:
                yield connection
            if database is not publisher.database:
                publisher.publish("m", second, round=1, codec="full")

        monkeypatch.setattr(Database, "read", moving)
        for _ in range(3):
            found = json.loads(flserve("show", "latest", "--store", tmp_path / "store", "--json").stdout)
            assert found["labels"] == ["latest"]
