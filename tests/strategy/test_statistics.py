"""Statistics of norm layers are measured: where versions are rounded, no optimizer of the server carries them on."""

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi

from flserve_app.codec.lossy import Lossy
from tests.apps import numpy_app
from tests.fleet import FleetGrid
from tests.strategy.runs import federate

SIZE = 3
EXAMPLES = (1, 2, 5)
VARIANCES = (0.1, 0.2, 0.4)
FAR = {"server_learning_rate": 2.2, "server_momentum": 0.8}


def settings():
    return {"fraction_evaluate": 0.0, "min_train_nodes": SIZE, "min_available_nodes": SIZE}


def train(message, context, server_round):
    record, partition = message.content["arrays"], context.node_config["partition-id"]
    trained = {
        "w": Array(record["w"].numpy() + np.float32(0.01)),
        "bn.running_var": Array(np.full(30, VARIANCES[partition], "f4")),
    }
    metrics = MetricRecord({"num-examples": EXAMPLES[partition]})
    return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)


def variance(store, inner, rounds=2, **options):
    weights = np.random.RandomState(0).standard_normal((60, 40)).astype("f4")
    initial = ArrayRecord({"w": Array(weights), "bn.running_var": Array(np.ones(30, "f4"))})
    grid = FleetGrid(app=numpy_app(on_train=train), size=SIZE)
    run = federate(store, grid=grid, inner=inner, initial=initial, rounds=rounds, **options)
    return run.registry.load(run.digest)["bn.running_var"]


@pytest.mark.parametrize("inner", [FedAvgM, FedAdam, FedAdagrad, FedYogi])
@pytest.mark.parametrize("side", ["codec", "uplink"])
def test_they_are_the_mean_of_what_clients_measured(tmp_path, inner, side):
    found = variance(
        tmp_path / "s", inner(**settings(), **(FAR if inner is FedAvgM else {})), **{side: Lossy(name="grid")}
    )
    assert np.allclose(found, np.average(VARIANCES, weights=EXAMPLES))


def test_where_nothing_is_rounded_a_strategy_does_as_under_flower_and_the_log_says_what_comes_of_it(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    assert (variance(tmp_path / "s", FedAvgM(**settings(), **FAR), rounds=1) < 0).all()
    said = [record.getMessage() for record in caplog.records if "below 0" in record.getMessage()]
    assert len(said) == 1
    assert "bn.running_var" in said[0]


def test_an_average_is_left_as_it_is(tmp_path):
    plain = variance(tmp_path / "plain", FedAvg(**settings()))
    assert np.array_equal(plain, variance(tmp_path / "s", FedAvg(**settings()), codec=Lossy(name="topk")))
