"""Aggregates that cannot be made: one costs its round, two in a row end the run."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from flserve_app.errors import AggregateError, FlserveError
from flserve_app.registry import Registry
from tests.strategy.runs import federate

SAMPLING = {"min_train_nodes": 4, "min_available_nodes": 4, "fraction_evaluate": 0.0}


def failing(kind, rounds, how="raises", phase="train"):
    """Return a class whose aggregation fails in some rounds, after it did its work."""

    class Failing(kind):
        def aggregate_train(self, server_round, replies):
            found = super().aggregate_train(server_round, replies)
            return self.fail(found) if phase == "train" and server_round in rounds else found

        def aggregate_evaluate(self, server_round, replies):
            found = super().aggregate_evaluate(server_round, replies)
            return self.fail(found) if phase == "evaluate" and server_round in rounds else found

        def fail(self, found):
            if how == "raises":
                raise RecursionError("too \x1b[31mdeep\nfor us")
            if how == "nothing":
                return ArrayRecord(), MetricRecord()
            counters = Array(np.asarray(np.nan))
            return ArrayRecord({**found[0], "bn.num_batches_tracked": counters}), found[1]

    return Failing


HOW = {"raises": "RecursionError: too deep for us", "nothing": "the aggregate has no tensors", "nan": "is not finite"}


@pytest.mark.parametrize(("how", "reason"), HOW.items())
def test_one_costs_its_round_and_says_why(tmp_path, caplog, how, reason):
    run = federate(tmp_path / "s", inner=failing(FedAvg, {2}, how)(**SAMPLING), rounds=4)
    assert [row.version for row in run.rows] == [0, 1, 1, 2, 3]
    assert [bool(row.skipped) for row in run.rows] == [False, False, True, False, False]
    assert run.rows[2].skipped.startswith("training cannot be aggregated: ")
    assert reason in run.rows[2].skipped
    (said,) = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert said == f"flserve: round 2 is skipped: {run.rows[2].skipped}"


@pytest.mark.parametrize(("how", "reason"), HOW.items())
def test_two_in_a_row_end_the_run_with_that_reason(tmp_path, how, reason):
    with pytest.raises(AggregateError, match=r"^rounds 3 and 4: training cannot be aggregated: ") as caught:
        federate(tmp_path / "s", inner=failing(FedAvg, {1, 3, 4}, how)(**SAMPLING), rounds=6)
    assert isinstance(caught.value, FlserveError)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    with Registry.open(tmp_path / "s", create=False) as registry:
        assert [version.round for version in registry.versions("model")] == [0, 2]


@pytest.mark.parametrize(
    ("kind", "arguments"), [(FedAvgM, {"server_learning_rate": 0.9, "server_momentum": 0.5}), (FedAdam, {"eta": 0.1})]
)
def test_a_round_that_failed_leaves_nothing_behind_in_the_strategy(tmp_path, kind, arguments):
    """Its moments are those of a strategy that never tried."""

    class Skips(kind):
        def aggregate_train(self, server_round, replies):
            return (None, None) if server_round == 2 else super().aggregate_train(server_round, replies)

    run = federate(tmp_path / "a", inner=failing(kind, {2})(**SAMPLING, **arguments), rounds=4)
    assert run.digest == federate(tmp_path / "b", inner=Skips(**SAMPLING, **arguments), rounds=4).digest


def test_an_evaluation_that_fails_costs_its_metrics(tmp_path):
    sampling = {**SAMPLING, "fraction_evaluate": 1.0, "min_evaluate_nodes": 4}
    run = federate(tmp_path / "s", inner=failing(FedAvg, {2}, phase="evaluate")(**sampling), rounds=3)
    assert [row.version for row in run.rows] == [0, 1, 2, 3]
    assert ["client_total" in row.metrics for row in run.rows[1:]] == [True, False, True]
    assert run.rows[2].skipped == "evaluation cannot be aggregated: RecursionError: too deep for us"
    with pytest.raises(AggregateError, match="rounds 1 and 2: evaluation cannot be aggregated"):
        federate(tmp_path / "t", inner=failing(FedAvg, {1, 2}, phase="evaluate")(**sampling), rounds=3)


def test_momentum_that_leads_out_of_a_counters_range_stops_at_its_end(tmp_path):
    """One client's counter near the end would else end the run two rounds later, for all."""
    from tests.apps import numpy_app
    from tests.fleet import FleetGrid

    def high(message):
        if message.has_content() and message.metadata.src_node_id == grid.node_id(0) and "arrays" in message.content:
            message.content["arrays"]["bn.num_batches_tracked"] = Array(np.asarray(2**63 - 1))
            message.content["metrics"]["num-examples"] = 2**40
        return message

    grid = FleetGrid(app=numpy_app(mods=()), size=4, up=[high])
    run = federate(tmp_path / "s", grid=grid, inner=FedAvgM(**SAMPLING, server_momentum=0.9), rounds=4)
    assert [row.version for row in run.rows] == [0, 1, 2, 3, 4]
    assert run.registry.load(run.digest)["bn.num_batches_tracked"] > 2**62


def test_a_fault_of_the_users_own_method_is_logged_with_its_traceback(tmp_path, caplog):
    federate(tmp_path / "s", inner=failing(FedAvg, {1})(**SAMPLING), rounds=2)
    assert "could not aggregate" in caplog.text
    assert "in aggregate_train" in caplog.text
