"""Loops that apps write in a `start` of their own: each ends as in plain Flower, and its rounds go on being counted."""

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from flserve_app.client.records import to_artifact
from flserve_app.errors import ConfigError
from flserve_app.strategy import VersionedStrategy
from flserve_app.strategy.exchange import PUSHED
from tests.strategy.test_own_start import ALL, CLIENTS, floats, grid, measure


class TwoPhases(FedAvg):
    """Flower's loop twice, each counting from 1."""

    def start(self, grid, initial_arrays, first=2, second=1, **more):
        before = super().start(grid, initial_arrays, first, **more)
        return super().start(grid, before.arrays, second, **more)


class TwiceARound(FedAvg):
    """Two trainings a round, both under its number."""

    def start(self, grid, initial_arrays, num_rounds=2):
        arrays = initial_arrays
        for number in [1, 1, 2, 2][: 2 * num_rounds]:
            arrays, _ = self.aggregate_train(
                number, grid.send_and_receive(self.configure_train(number, arrays, ConfigRecord(), grid))
            )
        return Result(arrays=arrays)


class Pushing(FedAvg):
    """Messages pushed, replies pulled."""

    def start(self, grid, initial_arrays, num_rounds=2):
        arrays = initial_arrays
        for number in range(1, num_rounds + 1):
            names = list(grid.push_messages(self.configure_train(number, arrays, ConfigRecord(), grid)))
            replies = sorted(grid.pull_messages(names), key=lambda reply: reply.metadata.src_node_id)
            arrays, _ = self.aggregate_train(number, replies)
        return Result(arrays=arrays)


class ByHand(FedAvg):
    """Messages of its own making, and an evaluation that it sums up itself."""

    def start(self, grid, initial_arrays, num_rounds=3):
        result, arrays = Result(), initial_arrays
        for number in range(1, num_rounds + 1):
            arrays, _ = self.aggregate_train(number, self.sent(grid, "train", number, arrays))
            found = [reply.content["metrics"]["total"] for reply in self.sent(grid, "evaluate", number, arrays)]
            result.evaluate_metrics_clientapp[number] = MetricRecord({"total": sum(found), "clients": len(found)})
        result.arrays = arrays
        return result

    def sent(self, grid, kind, number, arrays):
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": number})})
        return list(grid.send_and_receive([Message(content, to, kind) for to in grid.get_node_ids()], timeout=60.0))


class Ema(FedAvg):
    """Clients train a mean of all rounds, which no aggregation made."""

    def start(self, grid, initial_arrays, num_rounds=3):
        mean = initial_arrays
        for number in range(1, num_rounds + 1):
            sent = self.configure_train(number, mean, ConfigRecord(), grid)
            arrays, _ = self.aggregate_train(number, grid.send_and_receive(sent))
            mean = ArrayRecord({k: Array((mean[k].numpy() + arrays[k].numpy()) / np.float32(2)) for k in arrays})
        return Result(arrays=mean)


class FromScratch(Strategy):
    """No FedAvg in it."""

    def configure_train(self, server_round, arrays, config, grid):
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": server_round})})
        return [Message(content, to, "train") for to in grid.get_node_ids()]

    def aggregate_train(self, server_round, replies):
        all_arrays = [reply.content["arrays"] for reply in replies if reply.has_content()]
        means = {k: np.mean([each[k].numpy() for each in all_arrays], axis=0) for k in all_arrays[0]}
        return ArrayRecord({k: Array(mean) for k, mean in means.items()}), MetricRecord({"replies": len(all_arrays)})

    def configure_evaluate(self, server_round, arrays, config, grid):
        return []

    def aggregate_evaluate(self, server_round, replies):
        return None

    def summary(self):
        pass

    def start(self, grid, initial_arrays, epochs=2):
        arrays, self.replies = initial_arrays, []
        for epoch in range(1, epochs + 1):
            sent = self.configure_train(epoch, arrays, ConfigRecord(), grid)
            arrays, metrics = self.aggregate_train(epoch, list(grid.send_and_receive(sent)))
            self.replies.append(metrics["replies"])
        return Result(arrays=arrays)


class InItsOwnOrder(FedAvg):
    def start(self, initial_arrays, grid, /, evaluate_fn, *, rounds):
        return super().start(grid, initial_arrays, rounds, evaluate_fn=evaluate_fn)


class ReturnsTheModel(FedAvg):
    def start(self, grid, initial_arrays):
        return super().start(grid, initial_arrays, 2).arrays


# The strategy, what it is started with, and the rounds of its versions.
LOOPS = {
    "two phases": (TwoPhases, (), {"evaluate_fn": measure}, [0, 1, 2, 3]),
    "two phases of one round": (TwoPhases, (1, 1), {}, [0, 1, 2]),
    "two trainings a round": (TwiceARound, (), {}, [0, 1, 1, 2, 2]),
    "push and pull": (Pushing, (), {}, [0, 1, 2]),
    "messages by hand": (ByHand, (3,), {}, [0, 1, 2, 3]),
    "a mean that nobody aggregated": (Ema, (), {}, [0, 1, 2, 3, 3]),
    "from scratch": (FromScratch, (), {"epochs": 3}, [0, 1, 2, 3]),
    "the model alone is returned": (ReturnsTheModel, (), {}, [0, 1, 2]),
}


def as_one(result):
    if isinstance(result, ArrayRecord):
        return to_artifact(result)
    found = (result.train_metrics_clientapp, result.evaluate_metrics_clientapp, result.evaluate_metrics_serverapp)
    return to_artifact(result.arrays), *found


def strategy_of(kind):
    return kind() if kind is FromScratch else kind(**ALL)


@pytest.mark.parametrize("case", LOOPS)
def test_a_loop_ends_as_in_plain_flower(tmp_path, case):
    kind, args, kwargs, rounds = LOOPS[case]
    rows = []
    strategy = VersionedStrategy(strategy_of(kind), store=tmp_path / "s", num_clients=CLIENTS, observer=rows.append)
    got = strategy.start(grid(), floats(), *args, **kwargs)
    plain = strategy_of(kind)
    assert as_one(got) == as_one(plain.start(grid(), floats(), *args, **kwargs))
    assert getattr(strategy, "replies", None) == getattr(plain, "replies", None)
    assert [each.round for each in strategy.registry.versions("model")] == rounds
    assert [row.round for row in rows] == sorted(set(rounds)), "a row a round, however it trains"


def test_arguments_may_come_in_an_order_of_their_own(tmp_path):
    strategy = VersionedStrategy(InItsOwnOrder(**ALL), store=tmp_path / "s", num_clients=CLIENTS)
    got = strategy.start(floats(), grid(), measure, rounds=2)
    assert as_one(got) == as_one(InItsOwnOrder(**ALL).start(floats(), grid(), measure, rounds=2))


@pytest.mark.parametrize("seconds", [None, 60])
@pytest.mark.parametrize("kind", [FedAvg, TwoPhases])
def test_a_timeout_may_be_none(tmp_path, kind, seconds):
    strategy = VersionedStrategy(kind(**ALL), store=tmp_path / "s", num_clients=CLIENTS)
    got = strategy.start(grid(), floats(), 1, timeout=seconds)
    assert as_one(got) == as_one(kind(**ALL).start(grid(), floats(), 1, timeout=seconds))


def test_that_pushed_models_go_whole_is_said_once(tmp_path, caplog):
    strategy = VersionedStrategy(Pushing(**ALL), store=tmp_path / "s", num_clients=CLIENTS)
    with caplog.at_level(logging.WARNING, logger="flwr"):
        strategy.start(grid(), floats())
    assert caplog.messages.count(f"flserve: {PUSHED}") == 1


def test_the_wrappers_own_parts_cannot_be_replaced(tmp_path):
    strategy = VersionedStrategy(FedAvg(**ALL), store=tmp_path / "s", num_clients=CLIENTS)
    for name in ("inner", "registry"):
        with pytest.raises(ConfigError, match=rf"'{name}' cannot be replaced: make another VersionedStrategy"):
            setattr(strategy, name, FedAvg())
    for name in ("aggregate_train", "configure_evaluate", "summary", "_private_of_the_app"):
        with pytest.raises(ConfigError, match=rf"set it there, strategy\.inner\.{name} = "):
            setattr(strategy, name, lambda *args: None)
    seen = []
    original = strategy.inner.aggregate_train
    strategy.inner.aggregate_train = lambda number, replies: seen.append(number) or original(number, replies)
    strategy.start(grid(), floats(), num_rounds=2)
    assert seen == [1, 2]
