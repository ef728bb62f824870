"""Replies that come after their round: dropped or rebased, counted, and said in one line each."""

import threading

import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp.strategy import FedMedian

from flserve_app.client.records import to_record
from flserve_app.client.wire import RECORD
from flserve_app.errors import ConfigError
from flserve_app.experiments.inprocess import InProcessGrid
from flserve_app.strategy.late import ROUNDS
from flserve_app.strategy.restore import restore
from flserve_app.strategy.staleness import rebase, staleness_weight
from tests.apps import drift, numpy_app
from tests.fleet import FleetGrid
from tests.strategy.runs import federate

pytestmark = pytest.mark.slow

LATE = 2  # the client, and the round it is late in


def round_of(message):
    return message.content["config"]["server-round"] if "config" in message.content else 0


def fleet(exchanges=1, rounds=(LATE,), mods=None, number=LATE, **options):
    grid = FleetGrid(app=numpy_app() if mods is None else numpy_app(mods=mods), size=4, **options)

    def held_back(message):
        mine = message.metadata.dst_node_id == grid.node_id(number) and message.metadata.message_type == "train"
        return exchanges if mine and round_of(message) in rounds else 0

    grid.delay = held_back
    return grid


def lines(caplog, text):
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def test_a_late_reply_is_dropped_as_if_it_had_been_lost(tmp_path, caplog):
    late = federate(tmp_path / "late", grid=fleet(), rounds=5)

    def lost(message):
        return None if round_of(message) == LATE and message.metadata.dst_node_id == gone.node_id(LATE) else message

    gone = FleetGrid(app=numpy_app(), size=4, down=[lost])
    assert [row.digest for row in late.rows] == [
        row.digest for row in federate(tmp_path / "lost", grid=gone, rounds=5).rows
    ]
    assert [row.clients for row in late.rows] == [0, 4, 3, 4, 4, 4]
    assert [row.failures for row in late.rows] == [0, 0, 1, 0, 0, 0]
    assert [(row.late, row.dropped_late) for row in late.rows] == [(0, 0)] * 3 + [(0, 1)] + [(0, 0)] * 2
    dropped = "flserve: a late reply of partition-2 to round 2 is dropped: late=drop"
    assert lines(caplog, "a late reply") == [dropped]


@pytest.mark.parametrize(("exchanges", "at", "mods"), [(1, 3, None), (3, 4, None), (1, 3, ())])
def test_a_late_reply_is_rebased_and_weighs_less(tmp_path, caplog, exchanges, at, mods):
    """The server sends to the late client again in full, once: that is an exchange too."""
    run = federate(tmp_path / "s", grid=fleet(exchanges, mods=mods), rounds=6, late="rebase", staleness=0.5)
    assert [row.late for row in run.rows] == [int(row.round == at) for row in run.rows]
    assert run.rows[at].clients == 5
    models = [run.registry.load(version) for version in run.registry.versions("model")]
    current, base = models[at - 1], models[LATE - 1]
    now = [drift(to_record(current), at, partition) for partition in range(4)]
    moved = rebase(drift(to_record(base), LATE, LATE), base, current)
    weights = [10, 11, 12, 13, (10 + LATE) * staleness_weight(at - LATE, 0.5)]
    for name in ("fc.weight", "fc.bias"):
        values = [each[name].numpy().astype(np.float64) for each in [*now, moved]]
        mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
        assert models[at][name] == pytest.approx(mean, abs=1e-6)
    identity = "partition-2" if mods is None else f"node-{run.grid.node_id(2)}"
    assert lines(caplog, "a late reply") == [f"flserve: a late reply of {identity} to round 2 is rebased"]


def test_a_round_is_saved_by_late_replies_alone(tmp_path):
    """All answer round 1 too late, and round 2 not at all."""
    grid = FleetGrid(app=numpy_app(), size=4, delay=lambda message: {1: 1, 2: 99}.get(round_of(message), 0))
    run = federate(tmp_path / "s", grid=grid, rounds=2, late="rebase")
    assert [row.clients for row in run.rows] == [0, 0, 4]
    assert run.rows[2].late == 4
    artifact = run.registry.load(run.registry.versions("model")[0])
    assert run.strategy.version.number == 1
    assert restore(run.result.arrays, artifact).digest == run.digest


def test_what_comes_much_too_late_is_not_waited_for(tmp_path, caplog):
    run = federate(tmp_path / "s", grid=fleet(ROUNDS + 2), rounds=ROUNDS + 4, late="rebase")
    assert run.total("late") == run.total("dropped_late") == 0
    assert not lines(caplog, "a late reply")
    just = federate(tmp_path / "t", grid=fleet(ROUNDS + 1), rounds=ROUNDS + 4, late="rebase")
    assert just.total("late") == 1


def test_a_late_refusal_or_error_or_odd_reply_is_dropped(tmp_path, caplog):
    def crash(message, context, server_round):
        if server_round == 1 and context.node_config["partition-id"] == 0:
            raise ValueError("boom")

    def spoil(message):
        if message.has_content() and message.metadata.src_node_id == grid.node_id(1) and "metrics" in message.content:
            message.content["metrics"]["num-examples"] = [1, 2]
        if message.has_content() and message.metadata.src_node_id == grid.node_id(3) and "metrics" in message.content:
            message.content.config_records[RECORD]["status"] = "nack"
        return message

    grid = FleetGrid(app=numpy_app(on_train=crash), size=4, up=[spoil])
    grid.delay = lambda message: int(round_of(message) == 1 and message.metadata.dst_node_id != grid.node_id(2))
    run = federate(tmp_path / "s", grid=grid, rounds=1, late="rebase")
    grid.up.clear()
    assert run.rows[1].clients == 1
    again = federate(tmp_path / "s", grid=grid, rounds=2, resume=True, late="rebase")
    assert again.total("dropped_late") == 0, "another run does not know what the first is owed"

    other = FleetGrid(app=numpy_app(on_train=crash), size=4, up=[lambda message: spoil(message)])
    grid.node_id, other.delay = other.node_id, grid.delay
    run = federate(tmp_path / "t", grid=other, rounds=2, late="rebase")
    assert run.rows[2].dropped_late == 3
    said = sorted(lines(caplog, "a late reply"))
    assert "partition-0 to round 1 is dropped: it is an error" in said[0]
    assert "partition-1 to round 1 is dropped: it has no weight 'num-examples'" in said[1]
    assert "partition-3 to round 1 is dropped" in said[2]


def test_the_rule_is_checked_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match=r"late replies cannot be rebased under FedMedian: .*; use late=drop"):
        federate(tmp_path / "s", inner=FedMedian(), late="rebase")
    with pytest.raises(ConfigError, match="staleness is -1, expected a number of 0 or more"):
        federate(tmp_path / "s", staleness=-1)
    assert not (tmp_path / "s").exists()


def test_nothing_is_asked_for_where_nothing_is_owed(tmp_path):
    class Asked(FleetGrid):
        asked = 0

        def pull_messages(self, message_ids: list[str]) -> list[Message]:
            self.asked += 1
            return super().pull_messages(message_ids)

    grid = Asked(app=numpy_app(), size=4)
    run = federate(tmp_path / "s", grid=grid, rounds=3)
    assert grid.asked == 1 + len(grid.timeouts)  # for the answers to the greeting, and in each exchange
    assert run.total("failures") == 0


def test_late_replies_of_the_in_process_engine_are_rebased(tmp_path):
    """A real timeout: one client works on until the next round has begun."""
    goes_on = threading.Event()

    def busy(message, context, server_round):
        if (server_round, context.node_config["partition-id"]) == (1, 0):
            goes_on.wait(20)

    with InProcessGrid(numpy_app(on_train=busy), 3) as grid:
        grid.size = 3
        run = federate(
            tmp_path / "s",
            grid=grid,
            rounds=3,
            timeout=1.0,
            late="rebase",
            on_row=lambda row: row.round == 1 and goes_on.set(),
        )
    assert run.rows[1].clients < 3
    assert run.total("late") == 3 - run.rows[1].clients
    assert run.total("clients") == 9
    assert run.total("dropped_late") == 0
