"""What a strategy with methods of its own hands on to Flower's: one odd reply costs that reply, and no metric any."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from flserve_app.artifact import Artifact
from flserve_app.errors import AggregateError
from flserve_app.strategy.handed_on import LONELY, HandedOn, checking
from flserve_app.strategy.metric_means import averaging
from flserve_app.strategy.own_aggregation import UNUSUAL
from flserve_app.strategy.screening import Form
from tests.apps import numpy_app
from tests.fleet import FleetGrid, set_identity
from tests.strategy.runs import federate

LIKE = Artifact({"w": np.zeros(2, "f4"), "v": np.zeros(3, "f4")})
FORM = Form(numbers=("num-examples",))


def reply(weight=1.0, key="arrays", metrics_key="metrics", further=(), metrics=(), **tensors):
    set_identity()
    named = tensors or {"w": np.zeros(2), "v": np.zeros(3)}
    arrays = ArrayRecord({name: Array(np.asarray(value)) for name, value in named.items()})
    numbers = MetricRecord({**({} if weight is None else {"num-examples": weight}), **dict(metrics)})
    return Message(
        RecordDict({key: arrays, metrics_key: numbers, **dict(further)}), dst_node_id=1, message_type="train"
    )


def aggregated(replies, strategy=None, asked=None):
    strategy = strategy or FedAvg(fraction_evaluate=0.0)
    handed = HandedOn(FORM, replies if asked is None else asked, LIKE)
    with averaging(strategy, handed.saw), checking(strategy, handed):
        arrays, metrics = strategy.aggregate_train(1, replies)
    assert "_check_and_log_replies" not in vars(strategy)
    return arrays, metrics, handed.odd


VARIATE = {"variate": ArrayRecord({"w": Array(np.zeros(9))})}
ODD = {
    "no weight": reply(None),
    "a weight that is a list": reply([1.0]),
    "another key": reply(key="weights"),
    "two records": reply(further=VARIATE),
    "another tensor": reply(x=np.zeros(2)),
    "another shape": reply(w=np.zeros((2, 2)), v=np.zeros(3)),
    "a part": reply(w=np.zeros(2)),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("many", [2, 3])
def test_what_flower_would_fail_on_is_left_out(odd, many):
    """Also of two replies, where none is most: then it is the model that says how they have to look."""
    fine = [reply(w=[1.0, 2.0], v=np.zeros(3)), reply(w=[3.0, 4.0], v=np.zeros(3))][: many - 1]
    arrays, _, left = aggregated([odd, *fine])
    assert arrays["w"].numpy().tolist() == ([1.0, 2.0] if many == 2 else [2.0, 3.0])
    assert [each for each, _ in left] == [odd]


@pytest.mark.parametrize("metrics", [{"A": 1.0}, {}, {"loss": [1.0, 2.0]}, {f"a{at}": 1.0 for at in range(999)}])
@pytest.mark.parametrize("key", ["A", "metrics"])
def test_no_metric_costs_an_update(metrics, key):
    odd = reply(w=[1.0, 2.0], v=np.zeros(3), metrics=metrics, metrics_key=key)
    honest = reply(w=[3.0, 4.0], v=np.zeros(3), metrics={"loss": 0.5})
    arrays, found, left = aggregated([odd, honest])
    assert arrays["w"].numpy().tolist() == [2.0, 3.0]
    assert left == []
    assert found.get("loss") in (0.5, [1.0, 2.0])
    assert len(found) <= 256
    assert dict(odd.content).keys() == {"arrays", "metrics"}


def test_the_strategys_own_records_stay_as_they_are():
    found = [reply(metrics={"A": 1.0}), reply(metrics={"loss": 1.0})]
    records = [each.content["metrics"] for each in found]
    aggregated(found)
    assert [dict(each) for each in records] == [{"num-examples": 1.0, "A": 1.0}, {"num-examples": 1.0, "loss": 1.0}]


def test_a_part_that_two_sent_is_the_form_and_one_alone_is_not():
    parts = [reply(w=[1.0, 2.0]), reply(w=[3.0, 4.0])]
    assert list(aggregated(parts)[0]) == ["w"]
    arrays, _, left = aggregated(parts[:1])
    assert arrays is None
    assert left == [(parts[0], LONELY)]
    assert list(aggregated(parts[:1], asked=parts)[0]) == ["w"]  # the strategy chose one of them


def test_a_record_that_the_strategy_made_is_its_own_matter():
    sent = reply()
    made = reply(gradient=np.ones(4))
    assert list(aggregated([made], asked=[sent])[0]) == ["gradient"]


def test_unlike_replies_are_named():
    odd = reply(x=np.zeros(2))
    assert aggregated([odd, reply(), reply()])[2] == [(odd, UNUSUAL)]


def test_without_validation_and_where_a_strategy_checks_by_itself_nothing_is_looked_at():
    class Checks(FedAvg):
        def _check_and_log_replies(self, replies, is_train, validate=True):
            self.seen = list(replies)
            return super()._check_and_log_replies(self.seen, is_train, validate=False)

    odd, strategy = ODD["two records"], FedAvg()
    with checking(strategy, HandedOn(FORM, [odd], LIKE)):
        assert strategy._check_and_log_replies([odd], is_train=True, validate=False)[0] == [odd]
    strategy = Checks()
    aggregated([reply(), reply()], strategy)
    assert len(strategy.seen) == 2


def test_metrics_that_a_strategy_averages_by_itself_are_averaged_as_it_would():
    found = [reply(metrics={"a": math.nan}), reply(metrics={"b": 3.0})]
    strategy = FedAvg()
    with averaging(strategy, HandedOn(FORM, found, LIKE).saw):
        means = strategy.train_metrics_aggr_fn([each.content for each in found], "num-examples")
    assert math.isnan(means["a"])
    assert means["b"] == 1.5


class Logging(FedAvg):
    """Reads what it gets, and hands it on."""

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.losses = [dict(reply.content["metrics"]) for reply in replies]
        return super().aggregate_train(server_round, replies)


class Demanding(Logging):
    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.loss = sum(reply.content["metrics"]["loss"] for reply in replies)
        return super().aggregate_train(server_round, replies)


def run(folder, kind, change, clients=2, only=(0,)):
    grid = FleetGrid(app=numpy_app(mods=()), size=clients)
    hostile = {grid.node_id(at) for at in only}

    def odd(message):
        if message.has_content() and message.metadata.src_node_id in hostile and "arrays" in message.content:
            change(message.content)
        return message

    grid.up.append(odd)
    inner = kind(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    return inner, federate(folder, grid=grid, inner=inner, clients=clients, rounds=2)


def instead_of_the_loss(content):
    metrics = dict(content["metrics"])
    del metrics["loss"]
    content["metrics"] = MetricRecord({"A": 1.0, **metrics})


def nothing(content):
    """Send what the app sends."""


def test_an_own_method_that_hands_on_loses_no_honest_update_for_the_name_of_a_metric(tmp_path):
    inner, odd = run(tmp_path / "odd", Logging, instead_of_the_loss)
    assert [row.clients for row in odd.rows] == [0, 2, 2]
    assert odd.digest == run(tmp_path / "plain", Logging, nothing)[1].digest
    assert sorted(map(sorted, inner.losses)) == [["A", "num-examples"], ["loss", "num-examples"]]


def test_one_that_needs_a_metric_goes_on_with_who_sent_it(tmp_path):
    _, odd = run(tmp_path / "s", Demanding, instead_of_the_loss)
    assert [row.clients for row in odd.rows] == [0, 1, 1]
    assert list(odd.rows[2].metrics) == ["train_loss"]


@pytest.mark.parametrize("kind", [FedAvg, Logging])
def test_the_one_client_of_a_round_does_not_say_how_the_model_looks(tmp_path, kind):
    def part(content):
        content["arrays"] = ArrayRecord({"fc.bias": content["arrays"]["fc.bias"]})

    with pytest.raises(AggregateError, match=r"rounds 1 and 2.*none of 1 replies can be used"):
        run(tmp_path / "s", kind, part, clients=1)
