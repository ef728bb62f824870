"""Plain and versions on the in-process engine, and what is made of their times."""

import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flserve_app.compose.apps import make_client_app
from flserve_app.errors import ConfigError, DeliveryError
from flserve_app.experiments.byte_curve import Curve
from flserve_app.experiments.inprocess import InProcessGrid
from flserve_app.experiments.race import DELIVERY, Race, Side, compose, run_plain, run_versions

TINY = ("task=synthetic", "model=mlp", "train.epochs=1")
EXACT = ("codec=lossless", "uplink=lossless")


def composed_of(*overrides, rounds=3):
    return compose(overrides, nodes=2, rounds=rounds, timeout=60.0)


def side(accuracy, step, before=1.0):
    count = len(accuracy)
    counts = tuple(range(1, count + 1))
    return Side(
        curve=Curve(accuracy=tuple(accuracy), payload=counts, message=counts),
        seconds=(before, before + 5, *(before + 5 + step * number for number in range(1, count))),
        carried=(0, *counts),
    )


def test_both_sides_are_timed_to_the_same_accuracy_by_the_same_rule():
    race = Race(
        plain=side([0.5, 0.895, 0.9, 0.9, 0.9], 50.0),
        versions=side([0.4, 0.9, 0.89, 0.9, 0.9, 0.9], 10.0, before=8.0),
    )
    assert race.target == pytest.approx(0.895)
    assert race.plain.reached(race.target) == 4
    assert race.plain_seconds == 1 + 5 + 3 * 50
    assert race.versions.reached(race.target) == 4
    assert race.versions_seconds == 8 + 5 + 3 * 10
    assert (race.plain.first, race.plain.usual) == (5, 50)
    assert (race.versions.first, race.versions.usual) == (5, 10)


def test_plain_is_charged_all_its_rounds_if_it_does_not_reach_its_own_target():
    race = Race(plain=side([0.5, 0.6, 0.9], 50.0), versions=side([0.5] * 6, 10.0))
    assert race.plain.reached(race.target) is None
    assert race.plain_seconds == race.plain.seconds[-1]
    assert race.versions_seconds is None


def test_overrides_change_the_job_or_the_delivery_and_leave_the_other():
    app = composed_of("codec=grid", "codec.arguments.multiple=2").app
    assert (app.task.name, app.codec.name, app.uplink.name) == ("digits", "grid", "lossless")
    app = composed_of(*TINY).app
    assert (app.task.name, app.codec.name, app.uplink.name) == ("synthetic", "topk", "topk")
    app = composed_of("model.arguments.hidden=7", "codec.arguments.share=0.5").app
    assert (app.task.name, app.model.arguments["hidden"], app.codec.arguments["share"]) == ("digits", 7, 0.5)
    assert (app.num_clients, app.num_rounds, app.timeout) == (2, 3, 60.0)
    assert f"codec={app.codec.name}" in DELIVERY


@pytest.mark.parametrize(
    "override",
    ["num_rounds=3", "+num_clients=9", "hydra.run.dir=x", "strategy.clients_per_round=1", "experiment=mnist"],
)
def test_what_the_bench_decides_cannot_be_overridden(override):
    with pytest.raises(ConfigError, match="the bench decides this itself"):
        composed_of(override)


def test_with_exact_delivery_both_sides_train_alike_and_count_all_they_send(tmp_path):
    composed = composed_of(*TINY, *EXACT)
    links = iter(range(0, 10_000, 100))
    with InProcessGrid(make_client_app(), 2) as grid:
        plain = run_plain(grid, composed, 3, lambda: next(links))
        versions = run_versions(grid, composed, tmp_path / "run", lambda: next(links))
    assert versions.curve.accuracy == plain.curve.accuracy
    assert len(plain.curve.accuracy) == 3
    assert plain.carried == versions.carried == (100, 200, 300, 400)
    for each in (plain, versions):
        assert [0, *each.seconds] == sorted({0, *each.seconds})
    # 32 inputs, 64 hidden, 10 classes: four float32 arrays, there and back for both clients, with numpy's heads.
    values = 4 * (32 * 64 + 64 + 64 * 10 + 10)
    assert plain.curve.payload[0] == 4 * (values + 4 * 128)
    assert plain.curve.payload[2] == 3 * plain.curve.payload[0]
    assert plain.curve.payload[0] < plain.curve.message[0] < plain.curve.payload[0] + 4 * 5000
    assert versions.curve.payload[2] < plain.curve.payload[2]


def test_a_client_that_does_not_answer_makes_no_figure():
    app = ClientApp()

    @app.train()
    def train(message: Message, context):
        if context.node_config["partition-id"] == 1:
            raise RuntimeError("broken")
        content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    with InProcessGrid(app, 2) as grid, pytest.raises(DeliveryError, match="had 1 answers of 2 clients"):
        run_plain(grid, composed_of(*TINY, *EXACT), 3, int)
