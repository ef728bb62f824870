"""What a whole run gives: digests, the chain in the store, mixed fleets, resumption."""

import random

import pytest
from flwr.app import ConfigRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from flserve_app.client import versioned_mod
from flserve_app.client.records import to_artifact
from flserve_app.codec import CODECS
from flserve_app.errors import CodecError, Conflict, DeliveryError
from flserve_app.registry import Registry
from flserve_app.strategy import VersionedStrategy
from tests.apps import numpy_app, small_arrays
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run under `codec=full`: what all others have to end in."""
    return federate(tmp_path_factory.mktemp("plain") / "s", codec="full", uplink="full", inner=fedavg(4, 3, 2))


@pytest.mark.parametrize("codec", [name for name, codec in CODECS.items() if codec.exact])
def test_every_codec_ends_in_the_same_digests(tmp_path, plain, codec):
    run = federate(tmp_path / codec, codec=codec, uplink=codec, inner=fedavg(4, 3, 2))
    assert [row.digest for row in run.rows] == [row.digest for row in plain.rows]
    assert len({row.digest for row in run.rows}) == 4


def test_it_computes_what_flower_computes_alone(tmp_path, plain):
    grid = FleetGrid(app=numpy_app(mods=()), size=4)
    drawn = [[reply.node_id for reply in plain.grid.log if (reply.way, reply.kind) == ("up", "train")][4:]]

    class SameSample(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            config["server-round"] = server_round
            nodes = drawn[0][3 * (server_round - 1) : 3 * server_round]
            return self._construct_messages(_content(arrays, config), nodes, "train")

    alone = SameSample(fraction_evaluate=0.0).start(grid=grid, initial_arrays=small_arrays(), num_rounds=3)
    ours, theirs = plain.result.arrays, alone.arrays
    assert list(ours) == list(theirs)
    for name in ("fc.weight", "fc.bias"):
        assert ours[name].numpy() == pytest.approx(theirs[name].numpy(), abs=1e-6)
    assert theirs["bn.num_batches_tracked"].numpy().dtype == "float64"
    assert ours["bn.num_batches_tracked"].numpy().dtype == "int64"


def _content(arrays, config):
    from flwr.app import RecordDict

    return RecordDict({"arrays": arrays, "config": config})


def test_versions_are_a_chain_and_match_their_digests(tmp_path):
    run = federate(tmp_path / "store", rounds=3, model_name="chain", evaluate_fn=_accuracy)
    versions = run.registry.versions("chain")
    assert [version.number for version in versions] == [0, 1, 2, 3]
    assert [version.parent for version in versions] == [None, 0, 1, 2]
    assert [version.round for version in versions] == [0, 1, 2, 3]
    assert [version.metrics["accuracy"] for version in versions] == [0.0, 0.25, 0.5, 0.75]
    run.registry.close()
    with Registry.open(tmp_path / "store", create=False) as registry:
        artifacts = [registry.load(version) for version in registry.versions("chain")]
    assert [artifact.digest for artifact in artifacts] == [version.digest for version in versions]
    assert artifacts[0] == to_artifact(small_arrays())
    assert to_artifact(run.result.arrays) == artifacts[-1]
    assert [row.accuracy for row in run.rows] == [0.0, 0.25, 0.5, 0.75]


def _accuracy(server_round, arrays):
    return MetricRecord({"accuracy": server_round / 4, "loss": float("nan")})


def test_order_of_replies_and_node_ids_change_nothing(tmp_path, plain):
    def shuffled(replies):
        return random.Random(len(replies)).sample(replies, len(replies))

    grid = FleetGrid(app=numpy_app(), size=4, first_id=998_877, reply_order=shuffled)
    before = FleetGrid(app=numpy_app(), size=4)
    by_partition = [sorted(range(4), key=grid.node_id), sorted(range(4), key=before.node_id)]
    assert by_partition[0] != by_partition[1]
    run = federate(tmp_path / "other", grid=grid, inner=fedavg(4, 3, 2))
    assert run.digest == plain.digest


def test_clients_without_the_mod_get_plain_arrays(tmp_path, plain):
    # Nodes that have not said who they are come first, by node id: here that is the order of the partitions.
    apps = [numpy_app(mods=()), numpy_app(mods=()), numpy_app(), numpy_app()]
    run = federate(tmp_path / "mixed", grid=FleetGrid(app=lambda number: apps[number], size=4), inner=fedavg(4, 3, 2))
    assert run.digest == plain.digest
    plans = run.plans()
    assert plans["plain"] > 0
    assert plans["delta"] > 0
    assert run.total("failures") == 0
    plain_model = sum(len(each.deflate()) for each in get_all_nested_objects(small_arrays()).values())
    assert run.total("bytes_down_full") == 15 * plain_model


def test_rows_have_the_clients_by_version(tmp_path):
    run = federate(tmp_path / "store", rounds=2, inner=fedavg(4, 4, 4))
    assert [row.client_versions for row in run.rows] == [{}, {"1": 4}, {"2": 4}]
    assert [row.clients for row in run.rows] == [0, 4, 4]
    assert run.rows[1].metrics["train_loss"] == 1.0
    assert run.rows[2].metrics["client_total"] > 0
    assert run.registry.latest("model").metrics["client_total"] == run.rows[2].metrics["client_total"]


def test_a_round_without_usable_replies_publishes_nothing(tmp_path):
    def crash(message, context, server_round):
        if server_round == 2:
            raise RuntimeError("out of memory")

    run = federate(tmp_path / "store", grid=FleetGrid(app=numpy_app(on_train=crash), size=3), rounds=3)
    assert [row.version for row in run.rows] == [0, 1, 1, 2]
    assert run.rows[2].failures == 3
    assert [version.round for version in run.registry.versions("model")] == [0, 1, 3]


def test_resuming_continues_as_if_never_stopped(tmp_path):
    whole = federate(tmp_path / "whole", rounds=6, inner=fedavg(4, 2))
    federate(tmp_path / "parts", rounds=3, inner=fedavg(4, 2)).registry.close()
    rest = federate(tmp_path / "parts", rounds=6, inner=fedavg(4, 2), resume=True, initial=small_arrays(seed=9))
    assert rest.digest == whole.digest
    assert [row.round for row in rest.rows] == [3, 4, 5, 6]
    assert [version.number for version in rest.registry.versions("model")] == list(range(7))
    assert [version.parent for version in rest.registry.versions("model")] == [None, *range(6)]


def test_resuming_a_finished_run_does_nothing(tmp_path):
    first = federate(tmp_path / "store", rounds=2)
    first.registry.close()
    again = federate(tmp_path / "store", rounds=2, resume=True)
    assert again.digest == first.digest
    # What an app saves at the end is the model, not nothing.
    assert to_artifact(again.result.arrays) == again.registry.load(first.digest)
    assert [row.round for row in again.rows] == [2]
    assert len(again.registry.versions("model")) == 3


def test_resuming_what_is_not_there_begins(tmp_path):
    assert federate(tmp_path / "store", rounds=1, resume=True).strategy.version.number == 1


def test_a_model_name_that_exists_is_refused_with_both_ways_out(tmp_path):
    federate(tmp_path / "store", rounds=1, model_name="digits").registry.close()
    with pytest.raises(Conflict, match=r"'digits' is in the store already, at v1: .*resume=True, .*another model_name"):
        federate(tmp_path / "store", rounds=1, model_name="digits")
    with Registry.open(tmp_path / "store") as registry:
        assert [version.number for version in registry.versions("digits")] == [0, 1]
    other = federate(tmp_path / "store", rounds=1, model_name="digits-2")
    assert other.registry.models() == ("digits", "digits-2")


def test_the_global_random_state_is_left_as_it_was(tmp_path):
    random.seed(5)
    before = random.getstate()
    federate(tmp_path / "store", rounds=1)
    assert random.getstate() == before


def test_without_a_seed_the_sample_follows_the_global_random(tmp_path):
    def sampled(store, seed):
        random.seed(seed)
        run = federate(tmp_path / store, inner=fedavg(6, 2), clients=6, rounds=3, seed=None)
        return [item.node_id for item in run.grid.log if (item.way, item.kind) == ("down", "train")][6:]

    assert sampled("a", 1) == sampled("b", 1)
    assert sampled("c", 1) != sampled("d", 2)


def test_unknown_codecs_are_refused(tmp_path):
    with pytest.raises(CodecError, match="unknown codec 'zip'; known: full, lossless"):
        VersionedStrategy(store=tmp_path, codec="zip")
    with pytest.raises(CodecError, match="unknown codec 'zap'"):
        VersionedStrategy(store=tmp_path, uplink="zap")


def test_fedavg_is_the_default_and_the_summary_names_all(tmp_path, caplog):
    strategy = VersionedStrategy(store=tmp_path)
    assert isinstance(strategy.inner, FedAvg)
    with caplog.at_level("INFO", logger="flwr"):
        strategy.summary()
    assert "Inner strategy: FedAvg" in caplog.text
    assert "lossless down, lossless up" in caplog.text


def test_too_few_clients_end_the_run_with_one_sentence(tmp_path):
    with pytest.raises(DeliveryError, match=r"5 clients are expected, the federation has 4: .*num_clients=4"):
        federate(tmp_path / "store", clients=4, num_clients=5, wait_seconds=0.1)


def test_the_train_config_reaches_the_clients_and_queries_pass(tmp_path):
    seen = []

    def note(message, context, server_round):
        seen.append(dict(message.content["config"]))

    rows = []
    strategy = VersionedStrategy(fedavg(3), store=tmp_path / "s", num_clients=3, observer=rows.append)
    grid = FleetGrid(app=numpy_app(on_train=note), size=3)
    strategy.start(grid, small_arrays(), num_rounds=1, train_config=ConfigRecord({"lr": 0.5}))
    assert seen == [{"lr": 0.5, "server-round": 1}] * 3


def test_the_mod_is_what_the_package_exports():
    from flserve_app.client.mod import versioned_mod as inner

    assert versioned_mod is inner
