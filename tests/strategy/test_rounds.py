import pytest
from flwr.app import MetricRecord

from flserve_app.client.records import to_artifact
from flserve_app.registry import Registry
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.rounds import Rounds
from tests.apps import small_arrays


@pytest.fixture
def publisher(tmp_path):
    with Registry.open(tmp_path / "s") as registry:
        made = Publisher(registry, "m", "lossless")
        made.publish(to_artifact(small_arrays()), 0)
        yield made


@pytest.fixture
def rows():
    return []


@pytest.fixture
def clock():
    return iter(range(0, 10_000, 10)).__next__


@pytest.fixture
def ledger(clock):
    return Ledger(clock)


@pytest.fixture
def rounds(publisher, ledger, rows):
    return Rounds(publisher, ledger, rows.append)


def test_a_row_is_handed_over_when_the_next_begins_and_once(rounds, rows):
    rounds.finish()
    assert rows == []
    assert rounds.enter(1) == 1
    rounds.aggregated(3, MetricRecord({"loss": 0.5, "bad": float("nan"), "many": [1, 2]}))
    assert rows == []
    rounds.enter(2)
    rounds.finish()
    rounds.finish()
    assert [row.round for row in rows] == [1, 2]
    assert rows[0].clients == 3
    assert rows[0].metrics == {"train_loss": 0.5}
    assert rows[1].metrics == {}


def test_counts_belong_to_the_round_they_were_made_in(rounds, rows, ledger):
    rounds.enter(1)
    ledger.sent("down", payload=10, message=30, full=40)
    ledger.sent("down", payload=1, message=3, full=4)
    ledger.sent("up", payload=2, message=5, full=6)
    ledger.planned("delta")
    ledger.planned("delta")
    ledger.planned("none")
    ledger.failed()
    ledger.spent("encode", 0.25)
    ledger.spent("encode", 0.25)
    ledger.answered(fetch=0.5, train=2.0, update=0.25)
    ledger.answered(fetch=0.1, train=1.0, update=0.5)
    ledger.answered(fetch=0.0, train=0.0, update=1e9)
    rounds.enter(2)
    rounds.finish()
    first, second = rows
    assert (first.bytes_down, first.bytes_down_message, first.bytes_down_full) == (11, 33, 44)
    assert (first.bytes_up, first.bytes_up_message, first.bytes_up_full) == (2, 5, 6)
    assert first.plans == {"delta": 2, "none": 1}
    assert (first.failures, first.encode_seconds, first.train_seconds) == (1, 0.5, 2.0)
    assert (first.fetch_seconds, first.update_seconds) == (0.5, 30.0), "nothing took longer than the round"
    assert (second.bytes_down, second.plans, second.failures, second.encode_seconds) == (0, {}, 0, 0.0)


def test_central_evaluation_is_kept_with_the_version(rounds, rows, publisher):
    seen = []

    def measure(number, arrays):
        seen.append(number)
        return MetricRecord({"accuracy": 0.75, "loss": float("inf")}) if number == 4 else None

    rounds.enter(4)
    evaluate = rounds.evaluating(measure, 3)
    assert evaluate(1, publisher.record)["accuracy"] == 0.75
    rounds.enter(5)
    assert evaluate(2, publisher.record) is None
    rounds.finish()
    assert seen == [4, 5]
    assert [(row.accuracy, row.loss) for row in rows] == [(0.75, None), (None, None)]
    assert publisher.registry.latest("m").metrics == {"accuracy": 0.75}
    assert rounds.evaluating(None) is None


def test_clients_metrics_are_kept_with_the_version(rounds, rows, publisher):
    rounds.enter(1)
    rounds.evaluated(MetricRecord({"accuracy": 0.5}))
    assert rows[0].metrics == {"client_accuracy": 0.5}
    assert publisher.registry.latest("m").metrics == {"client_accuracy": 0.5}


def test_a_row_is_handed_over_when_clients_and_server_have_evaluated_in_either_order(rounds, rows, publisher):
    evaluate = rounds.evaluating(lambda number, arrays: MetricRecord({"accuracy": 0.75}))
    for number, server_first in ((1, True), (2, False)):
        rounds.enter(number)
        steps = [lambda: evaluate(0, publisher.record), lambda: rounds.evaluated(MetricRecord({"loss": 2.0}))]
        for step in steps if server_first else reversed(steps):
            assert len(rows) == number - 1
            step()
        assert rows[-1].metrics == {"accuracy": 0.75, "client_loss": 2.0}
    rounds.finish()
    assert [row.round for row in rows] == [1, 2]


def test_rows_need_nobody_to_look_at_them(publisher, ledger):
    rounds = Rounds(publisher, ledger, None)
    rounds.enter(1)
    rounds.finish()
