"""Versions that clients keep: within a run, across runs, on shared and on useless disks."""

import pytest

from flserve_app.client.held import STATE_BYTES, Held
from flserve_app.client.records import to_record
from flserve_app.errors import FlserveError
from flserve_app.strategy import VersionedStrategy
from tests.apps import drift, numpy_app, small_arrays
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate


def fleet(tmp_path, run_id=1, size=3, **options):
    config = {"cache-dir": str(tmp_path / "cache")}
    return FleetGrid(app=numpy_app(), size=size, node_config=config, run_id=run_id, first_id=run_id * 7 + 3, **options)


def blobs(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "blobs").iterdir())


def kept(context, model=None):
    return Held(context).digests(model)


def test_virtual_nodes_share_one_blob_and_superseded_ones_go(tmp_path):
    run = federate(tmp_path / "s", grid=fleet(tmp_path), inner=fedavg(3, 3, 3))
    assert blobs(tmp_path) == [run.digest]
    assert sorted(path.name for path in (tmp_path / "cache" / "clients").iterdir()) == [
        "partition-0",
        "partition-1",
        "partition-2",
    ]
    some = federate(tmp_path / "t", grid=fleet(tmp_path, run_id=2), inner=fedavg(3, 1), rounds=4, seed=1)
    assert blobs(tmp_path) == sorted({digest for context in some.grid.contexts.values() for digest in kept(context)})


def test_a_second_run_goes_on_from_what_clients_hold(tmp_path):
    first = federate(tmp_path / "s", grid=fleet(tmp_path), inner=fedavg(3, 3, 3), rounds=2)
    first.registry.close()
    second = federate(tmp_path / "s", grid=fleet(tmp_path, run_id=2), inner=fedavg(3), rounds=3, resume=True)
    assert second.rows[1].plans == {"none": 3}
    second.registry.close()
    third = federate(tmp_path / "s", grid=fleet(tmp_path, run_id=3), inner=fedavg(3), rounds=4, resume=True)
    assert third.rows[1].plans == {"delta": 3}
    whole = federate(tmp_path / "whole", clients=3, rounds=4)
    assert third.digest == whole.digest


def test_a_run_with_a_store_of_its_own_does_not_know_what_clients_hold(tmp_path):
    federate(tmp_path / "s", grid=fleet(tmp_path), rounds=2)
    other = federate(tmp_path / "t", grid=fleet(tmp_path, run_id=2), initial=small_arrays(5), rounds=1)
    assert other.rows[1].plans == {"full": 3}
    same = federate(tmp_path / "u", grid=fleet(tmp_path, run_id=3), initial=small_arrays(5), rounds=1)
    assert same.rows[1].plans == {"full": 3}, "of the same name and content, and of another federation all the same"


def test_clients_tell_of_the_model_that_is_asked_for_and_of_no_other(tmp_path):
    federate(tmp_path / "s", grid=fleet(tmp_path), rounds=2, model_name="a").registry.close()
    other = federate(tmp_path / "s", grid=fleet(tmp_path, run_id=2), initial=small_arrays(5), rounds=1, model_name="b")
    assert other.rows[1].plans == {"full": 3}
    other.registry.close()
    for run_id, name in ((3, "a"), (4, "b")):
        again = federate(tmp_path / "s", grid=fleet(tmp_path, run_id), rounds=4, model_name=name, resume=True)
        digests = {version.digest for version in again.registry.versions(name)}
        held = [
            [each.digest for each in Held(context).references() if each.model == name]
            for context in again.grid.contexts.values()
        ]
        assert all(len(told) == 1 and told[0] in digests for told in held)
        again.registry.close()


def cached(tmp_path, run_id, *numbers):
    """Return a fleet that shares the machine's cache directory, under partition numbers of its own."""
    grid = fleet(tmp_path, run_id=run_id, size=len(numbers))
    for at, number in enumerate(numbers):
        grid.contexts[grid.node_id(at)].node_config["partition-id"] = number
    return grid


def test_a_base_version_is_what_a_client_holds_under_another_name(tmp_path):
    first = federate(tmp_path / "s", grid=cached(tmp_path, 1, 0, 1), inner=fedavg(2, 2, 2), model_name="a", rounds=2)
    base, tuned = first.strategy.version, first.registry.load(first.digest)
    first.registry.close()
    moved = {"initial": drift(to_record(tuned), 1, 1), "rounds": 1}
    near = federate(tmp_path / "s", grid=cached(tmp_path, 2, 0, 1), base_version="a@latest", model_name="b", **moved)
    assert near.rows[1].plans == {"delta": 2}
    near.registry.close()
    options = {"base_version": base.digest, "model_name": "c", **moved}
    fetched_by_others = federate(tmp_path / "s", grid=cached(tmp_path, 3, 7, 8), **options)
    assert fetched_by_others.rows[1].plans == {"full": 2}


def test_a_base_version_that_is_published_as_it_is_is_sent_whole_in_the_same_round(tmp_path):
    first = federate(tmp_path / "s", grid=cached(tmp_path, 1, 0, 1), inner=fedavg(2, 2, 2), model_name="a", rounds=2)
    tuned = first.registry.load(first.digest)
    first.registry.close()
    options = {"initial": to_record(tuned), "model_name": "b", "rounds": 1}
    again = federate(tmp_path / "s", grid=cached(tmp_path, 2, 0, 1), base_version="a@latest", **options)
    assert again.rows[1].plans == {"none": 2, "resend": 2}
    assert again.total("failures") == 0


@pytest.mark.parametrize(
    ("name", "error"),
    [("a@latest", "model 'a' is not in the store"), ("latest", "a digest is 64 lower-case hex digits")],
)
def test_a_base_version_has_to_have_a_name(tmp_path, name, error):
    with pytest.raises(FlserveError, match=error):
        VersionedStrategy(store=tmp_path / "s", base_version=name)


def test_where_no_cache_can_be_written_clients_keep_versions_in_their_state(tmp_path, caplog):
    (tmp_path / "cache").touch()
    run = federate(tmp_path / "s", grid=fleet(tmp_path), rounds=3)
    assert run.plans() == {"full": 3, "delta": 6}
    assert run.total("failures") == 0
    assert "keeps its version in memory" in caplog.text


def test_nodes_without_a_partition_keep_an_id_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    grid = FleetGrid(app=_unpartitioned(), size=3, partitioned=False)
    run = federate(tmp_path / "s", grid=grid, rounds=2, inner=fedavg(3, 3, 3))
    identities = {client.identity for client in run.strategy._grid.fleet.clients.values()}
    assert len(identities) == 3
    assert all(identity.startswith("client-") for identity in identities)
    kept = {path.read_text() for path in (tmp_path / "xdg" / "flserve").glob("*/identity")}
    assert kept == identities
    assert run.rows[2].plans == {"none": 3, "delta": 3}


def _unpartitioned():
    from flwr.app import Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    from flserve_app.client import versioned_mod
    from tests.apps import drift

    app = ClientApp(mods=[versioned_mod])

    @app.train()
    def train(message, context):
        arrays = drift(message.content["arrays"], message.content["config"]["server-round"], context.node_id)
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    return app


def test_small_models_leave_nothing_on_disk(tmp_path):
    assert sum(len(array.data) for array in small_arrays().values()) < STATE_BYTES
    run = federate(tmp_path / "s", clients=2)
    for context in run.grid.contexts.values():
        assert list(context.state["flserve.arrays"]) == [run.registry.versions("model")[-2].digest]
