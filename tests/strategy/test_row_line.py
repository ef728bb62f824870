import pytest
from flwr.app import MetricRecord

from flserve_app.strategy import RoundRow, VersionedStrategy, log_row, round_line
from tests.apps import numpy_app, small_arrays
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg

ROW = {"round": 3, "version": 3, "digest": "d" * 64}


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"accuracy": 0.5}, "accuracy 0.5000  "),
        ({"metrics": {"client_accuracy": 0.25}}, "accuracy 0.2500 (clients)  "),
        ({"metrics": {"client_eval_acc": 0.25, "train_x": 1.0}}, "client_eval_acc 0.25  "),
        ({"metrics": {"f1": 0.5, "auc": 0.75}}, "f1 0.5  auc 0.75  "),
        ({"metrics": {"train_loss": 1.0}}, "accuracy -  "),
        ({}, "accuracy -  "),
    ],
)
def test_what_was_measured_is_shown_whatever_it_is_called(fields, shown):
    assert f"round   3  v3 dddddddddddd  {shown}down 0 B" in round_line(RoundRow(**ROW, **fields))


def test_a_row_is_one_line_of_the_log(caplog):
    with caplog.at_level("INFO", logger="flwr"):
        log_row(RoundRow(**ROW))
    (record,) = caplog.records
    assert record.getMessage() == f"flserve: {round_line(RoundRow(**ROW))}"


@pytest.mark.parametrize("evaluates", [True, False])
def test_a_strategy_without_an_observer_logs_each_round_under_its_header(tmp_path, caplog, evaluates):
    strategy = VersionedStrategy(fedavg(2, evaluate=2), store=tmp_path / "s", num_clients=2)
    evaluate = (lambda number, arrays: MetricRecord({"f1": 0.5})) if evaluates else None
    with caplog.at_level("INFO", logger="flwr"):
        strategy.start(
            FleetGrid(app=numpy_app(), size=2), initial_arrays=small_arrays(), num_rounds=2, evaluate_fn=evaluate
        )
    said = [record.getMessage() for record in caplog.records]
    marks = [line.split("  v")[0] for line in said if "ROUND" in line or line.startswith("flserve: round ")]
    assert marks == [
        "flserve: round   0",
        "[ROUND 1/2]",
        "flserve: round   1",
        "[ROUND 2/2]",
        "flserve: round   2",
    ]
    last = next(line for line in said if line.startswith("flserve: round   2"))
    assert ("f1 0.5" in last) == evaluates
