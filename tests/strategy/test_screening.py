"""One odd reply costs that reply: the round, and the others, are as if it had not come."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedMedian, QFedAvg

from flserve_app.errors import AggregateError
from tests.apps import numpy_app, small_arrays
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow


def arrays(change):
    """Return a fault that changes the arrays of a plain reply."""

    def fault(message):
        tensors = {name: array.numpy() for name, array in message.content["arrays"].items()}
        message.content["arrays"] = ArrayRecord({name: Array(value) for name, value in change(tensors).items()})

    return fault


def metrics(**changed):
    def fault(message):
        found = {**message.content["metrics"], **changed}
        message.content["metrics"] = MetricRecord({key: value for key, value in found.items() if value is not None})

    return fault


def malformed(message):
    array = message.content["arrays"]["fc.bias"]
    array.__dict__["data"] = b"\x93NUMPY nonsense"


ODD = {
    "other keys": (arrays(lambda found: {f"x.{name}": value for name, value in found.items()}), "lacks tensor"),
    "a key less": (arrays(lambda found: {name: found[name] for name in list(found)[1:]}), "lacks tensor 'fc.weight'"),
    "another shape": (arrays(lambda found: {**found, "fc.bias": np.zeros(3, np.float32)}), r"has shape (3,)"),
    "a NaN counter": (
        arrays(lambda found: {**found, "bn.num_batches_tracked": np.asarray(np.nan)}),
        "not finite or out of the range of int64",
    ),
    "a huge counter": (
        arrays(lambda found: {**found, "bn.num_batches_tracked": np.asarray(1e300)}),
        "not finite or out of the range of int64",
    ),
    "text": (arrays(lambda found: {**found, "fc.bias": np.asarray(["a"] * 24)}), "is <U1, expected float32"),
    "no stream": (malformed, "not a well-formed .npy stream"),
    "two records": (lambda message: message.content.update({"second": small_arrays()}), "2 ArrayRecords"),
    "no metrics": (lambda message: message.content.pop("metrics"), "0 MetricRecords"),
    "no weight": (metrics(**{"num-examples": None}), "'num-examples' is None"),
    "a NaN weight": (metrics(**{"num-examples": float("nan")}), "'num-examples' is nan"),
    "a negative weight": (metrics(**{"num-examples": -1}), "'num-examples' is -1"),
    "a list for a weight": (metrics(**{"num-examples": [1, 2]}), "'num-examples' is [1, 2]"),
}


def fleet(fault, size=4):
    def odd(message):
        ours = message.has_content() and message.metadata.src_node_id == grid.node_id(1)
        if ours and "arrays" in message.content:
            fault(message)
        return message

    grid = FleetGrid(app=numpy_app(mods=()), size=size, up=[odd])
    return grid


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """A run in which the odd client's replies are lost."""
    grid = FleetGrid(app=numpy_app(mods=()), size=4)
    grid.up.append(lambda message: None if message.metadata.src_node_id == grid.node_id(1) else message)
    with pytest.MonkeyPatch.context() as patch:  # a fixture of the module comes before the one that does so for tests
        for name in ("GRACE_SECONDS", "START_SECONDS"):
            patch.setattr(f"flserve_app.strategy.roster.{name}", 0.05)
        return federate(tmp_path_factory.mktemp("without") / "s", grid=grid, rounds=2)


@pytest.mark.parametrize(("fault", "reason"), ODD.values(), ids=ODD)
def test_an_odd_reply_costs_that_reply(tmp_path, caplog, without, fault, reason):
    run = federate(tmp_path / "s", grid=fleet(fault), rounds=2)
    assert [row.digest for row in run.rows] == [row.digest for row in without.rows]
    assert [row.failures for row in run.rows] == [0, 1, 1]
    said = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert len(said) == 2
    assert reason in said[0]
    assert "\n" not in said[0]


FORMS = {
    "a key more": arrays(lambda found: {**found, "more": np.zeros(2)}),
    "another metric": metrics(extra=1.0),
    "a list for a number": metrics(loss=[1.0, 2.0]),
    "a metric less": metrics(loss=None),
    "float64": arrays(lambda found: {name: value.astype("f8") for name, value in found.items()}),
}


@pytest.mark.parametrize("fault", FORMS.values(), ids=FORMS)
def test_what_the_model_does_not_ask_for_costs_nothing(tmp_path, fault):
    """No reply says how the others have to look: what one has beside the model's form is left behind."""
    run = federate(tmp_path / "a", grid=fleet(fault), rounds=2)
    assert run.digest == federate(tmp_path / "b", grid=fleet(lambda _: None), rounds=2).digest
    assert [row.clients for row in run.rows] == [0, 4, 4]
    assert list(run.registry.load(run.digest)) == list(small_arrays())


def test_metrics_are_averaged_over_those_who_sent_them(tmp_path):
    run = federate(tmp_path / "s", grid=fleet(metrics(extra=3.0, loss=None)), rounds=1)
    assert run.rows[1].metrics == {"train_loss": 1.0, "train_extra": 3.0}


class Own(FedAvg):
    """A strategy of somebody else, which is handed what clients sent."""

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.seen = [reply.content for reply in replies]
        return super().aggregate_train(server_round, replies)


def own():
    return Own(fraction_evaluate=0.0, min_train_nodes=4, min_available_nodes=4)


def test_a_strategy_that_aggregates_itself_gets_replies_as_they_were_sent(tmp_path):
    def more(message):
        if message.has_content() and "arrays" in message.content:
            arrays(lambda found: {"variate": np.zeros(2), **found})(message)
            metrics(losses=[1.0, 2.0])(message)
            message.content["config"] = ConfigRecord({"note": "x"})
        return message

    grid = FleetGrid(app=numpy_app(mods=()), size=4, up=[more])
    inner = own()
    federate(tmp_path / "s", grid=grid, inner=inner, rounds=1)
    assert [list(content) for content in inner.seen] == [["arrays", "metrics", "config"]] * 4
    assert [list(content["arrays"]) for content in inner.seen] == [["variate", *small_arrays()]] * 4
    assert all(type(array) is Array for content in inner.seen for array in content["arrays"].values())
    assert inner.seen[0]["metrics"]["losses"] == [1.0, 2.0]


def test_there_the_tensors_of_most_are_kept_whoever_comes_first(tmp_path, caplog):
    grid = FleetGrid(app=numpy_app(mods=()), size=4)

    def odd(message):
        if message.has_content() and message.metadata.src_node_id == grid.node_id(0) and "arrays" in message.content:
            arrays(lambda found: {**found, "more": np.zeros(2)})(message)
        return message

    grid.up.append(odd)
    assert federate(tmp_path / "s", grid=grid, inner=own(), rounds=1).rows[1].clients == 3
    assert "other names than most replies" in caplog.text


@pytest.mark.parametrize("clients", [2, 4])
@pytest.mark.parametrize("change", [{"a": 1.0}, {"a": [1.0, 2.0]}, {f"a{n}": 1.0 for n in range(1000)}])
def test_there_no_metric_costs_an_update(tmp_path, clients, change):
    """A subclass that hands on to Flower's aggregation, which wants the same names in all replies."""

    class HandsOn(FedAvg):
        def aggregate_train(self, server_round, replies):
            return super().aggregate_train(server_round, replies)

    digests = set()
    for name, changed in (("plain", {}), ("odd", change)):
        grid = FleetGrid(app=numpy_app(mods=()), size=clients)

        def odd(message, grid=grid, changed=changed):
            if (
                message.has_content()
                and message.metadata.src_node_id == grid.node_id(0)
                and "arrays" in message.content
            ):
                metrics(**changed)(message)
            return message

        grid.up.append(odd)
        inner = HandsOn(min_train_nodes=clients, min_available_nodes=clients, fraction_evaluate=0.0)
        run = federate(tmp_path / name, grid=grid, inner=inner, clients=clients, rounds=2)
        assert [row.clients for row in run.rows] == [0, clients, clients]
        assert len(run.rows[1].metrics) <= 256
        digests.add(run.digest)
    assert len(digests) == 1


def test_an_array_that_lies_about_itself_is_not_handed_on(tmp_path, caplog):
    def lies(message):
        message.content["arrays"]["fc.bias"].__dict__["dtype"] = "int64"

    assert federate(tmp_path / "s", grid=fleet(lies), inner=own(), rounds=1).rows[1].clients == 3
    assert "says it is another tensor than its stream" in caplog.text


@pytest.mark.parametrize("kind", [None, FedMedian])
def test_tensors_in_another_order_are_put_right(tmp_path, kind):
    def inner():
        return fedavg(4) if kind is None else kind(fraction_evaluate=0.0, min_train_nodes=4)

    turned = arrays(lambda found: dict(reversed(found.items())))
    run = federate(tmp_path / "a", grid=fleet(turned), inner=inner(), rounds=2)
    assert run.digest == federate(tmp_path / "b", grid=fleet(lambda _: None), inner=inner(), rounds=2).digest
    assert run.total("failures") == 0


def test_no_examples_at_all_is_no_aggregate(tmp_path):
    grid = fleet(lambda _: None)
    grid.up = [lambda message: empty(message)]

    def empty(message):
        if message.has_content() and "metrics" in message.content:
            message.content["metrics"]["num-examples"] = 0
        return message

    rows = []
    with pytest.raises(AggregateError, match="none of 4 replies can be used: no reply has a 'num-examples' above 0"):
        federate(tmp_path / "s", grid=grid, rounds=1, on_row=rows.append)
    assert (rows[1].clients, rows[1].version) == (0, 0)


def test_a_loss_that_the_strategy_needs_is_looked_at(tmp_path):
    inner = QFedAvg(0.1, train_loss_key="loss", fraction_evaluate=0.0, min_train_nodes=4)
    run = federate(tmp_path / "s", grid=fleet(metrics(loss=float("nan"))), inner=inner, rounds=1)
    assert run.rows[1].clients == 3


def test_an_odd_evaluation_is_left_out_too(tmp_path):
    grid = FleetGrid(app=numpy_app(mods=()), size=4)

    def odd(message):
        ours = message.has_content() and message.metadata.src_node_id == grid.node_id(2)
        if ours and "total" in message.content.get("metrics", {}):
            metrics(**{"num-examples": None})(message)
        return message

    grid.up.append(odd)
    run = federate(tmp_path / "s", grid=grid, inner=fedavg(4, 4, 4), rounds=1)
    assert "client_total" in run.rows[1].metrics
    assert run.rows[1].failures == 1


def test_it_is_the_weight_alone_that_an_evaluation_needs(tmp_path):
    grid = FleetGrid(app=numpy_app(mods=()), size=4)

    def odd(message):
        ours = message.has_content() and message.metadata.src_node_id == grid.node_id(2)
        if ours and "total" in message.content.get("metrics", {}):
            metrics(total=None)(message)
        return message

    grid.up.append(odd)
    run = federate(tmp_path / "s", grid=grid, inner=fedavg(4, 4, 4), rounds=1)
    assert run.rows[1].metrics["client_total"] > 0
    assert run.rows[1].failures == 0
