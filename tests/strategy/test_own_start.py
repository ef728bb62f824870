"""A strategy with a round loop of its own ends as it does in plain Flower, bit for bit."""

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, Result

from flserve_app.client.records import to_artifact
from flserve_app.errors import ConfigError
from flserve_app.strategy import VersionedStrategy
from tests.apps import numpy_app, small_arrays
from tests.fleet import FleetGrid
from tests.strategy.test_models import by_partition

CLIENTS = 3
ALL = {"min_train_nodes": CLIENTS, "min_evaluate_nodes": CLIENTS, "min_available_nodes": CLIENTS}


def floats():
    return ArrayRecord({name: array for name, array in small_arrays().items() if not name.startswith("bn")})


class Noting(FedAvg):
    """Something before, something after, and Flower's loop in between."""

    def start(self, *args, **kwargs):
        self.began = True
        result = super().start(*args, **kwargs)
        self.rounds = sorted(result.train_metrics_clientapp)
        return result


class Tracking(FedAvg):
    """Flower's loop copied, with a checkpoint of the best, a parameter and defaults of its own, and early stopping."""

    def set_folder(self, folder):
        self.folder, self.kept = folder, {}

    def start(self, grid, initial_arrays, num_rounds=4, timeout=60.0, train_config=None, evaluate_fn=None, stop_at=9):
        self.summary()
        result, arrays = Result(), initial_arrays
        config = ConfigRecord() if train_config is None else train_config
        result.evaluate_metrics_serverapp[0] = evaluate_fn(0, arrays)
        for number in range(1, num_rounds + 1):
            if number > stop_at:
                break
            sent = self.configure_train(number, arrays, config, grid)
            replies = grid.send_and_receive(messages=sent, timeout=timeout)
            arrays, result.train_metrics_clientapp[number] = self.aggregate_train(server_round=number, replies=replies)
            result.arrays = arrays
            sent = self.configure_evaluate(number, arrays, ConfigRecord(), grid)
            replies = grid.send_and_receive(messages=sent, timeout=timeout)
            result.evaluate_metrics_clientapp[number] = self.aggregate_evaluate(number, replies)
            self.kept[number] = {name: array.numpy() for name, array in arrays.items()}
            result.evaluate_metrics_serverapp[number] = evaluate_fn(number, arrays)
        return result


class FromZero(FedAvg):
    """Counts from 0, says something more to a method that it extends, and hands a mean of all rounds back."""

    def configure_train(self, server_round, arrays, config, grid, note=""):
        self.notes = [*getattr(self, "notes", []), note]
        return super().configure_train(server_round, arrays, config, grid)

    def start(self, grid, initial_arrays, rounds=3):
        arrays, seen = initial_arrays, []
        for number in range(rounds):
            sent = self.configure_train(number + 1, arrays, ConfigRecord(), grid, note=f"round {number}")
            arrays, _ = self.aggregate_train(number + 1, grid.send_and_receive(sent, timeout=60.0))
            seen.append(arrays)
        return Result(
            arrays=ArrayRecord({k: Array(np.mean([each[k].numpy() for each in seen], axis=0)) for k in arrays})
        )


class Kept(Tracking):
    def flserve_state(self):
        return {"folder": self.folder}

    def load_flserve_state(self, state):
        self.folder = state["folder"]


def measure(number, arrays):
    return MetricRecord({"accuracy": float(np.abs(arrays["fc.bias"].numpy()).mean()), "round": number})


def grid():
    return by_partition(FleetGrid(app=numpy_app(), size=CLIENTS))


CASES = {
    "calls super": (Noting, {"num_rounds": 3, "evaluate_fn": measure}),
    "its own defaults": (Tracking, {"evaluate_fn": measure}),
    "a parameter of its own": (Tracking, {"num_rounds": 5, "stop_at": 2, "evaluate_fn": measure}),
    "counts and returns as it likes": (FromZero, {"rounds": 2}),
}


def ran(strategy, how, by_name=True):
    inner = getattr(strategy, "inner", strategy)
    if isinstance(inner, Tracking):
        strategy.set_folder("somewhere")
    if by_name:
        return strategy.start(grid=grid(), initial_arrays=floats(), **how)
    return strategy.start(grid(), floats(), *how.values())


@pytest.mark.parametrize("case", CASES)
def test_it_ends_as_in_plain_flower(tmp_path, case):
    kind, how = CASES[case]
    plain, inner = kind(**ALL), kind(**ALL)
    want = ran(plain, how)
    strategy = VersionedStrategy(inner, store=tmp_path / "s", num_clients=CLIENTS)
    got = ran(strategy, how)
    assert to_artifact(got.arrays) == to_artifact(want.arrays)
    assert got.train_metrics_clientapp == want.train_metrics_clientapp
    assert got.evaluate_metrics_clientapp == want.evaluate_metrics_clientapp
    assert got.evaluate_metrics_serverapp == want.evaluate_metrics_serverapp
    assert set(vars(inner)) == set(vars(plain)), "the methods are its own again"
    for name in ("rounds", "notes"):
        assert getattr(strategy, name, None) == getattr(plain, name, None)
    assert strategy.registry.load(strategy.version.digest) == to_artifact(
        got.arrays, like=strategy.registry.load(strategy.version.digest)
    ), "what is handed back is the newest version"


@pytest.mark.parametrize("kind", [Noting, FedAvg])
def test_arguments_may_come_by_position(tmp_path, kind):
    strategy = VersionedStrategy(kind(**ALL), store=tmp_path / "s", num_clients=CLIENTS)
    result = ran(strategy, {"num_rounds": 2, "timeout": 60.0}, by_name=False)
    assert sorted(result.train_metrics_clientapp) == [1, 2]
    with pytest.raises(TypeError, match=r"what"):
        strategy.start(grid(), floats(), what=1)


def test_a_version_a_round_is_published_and_resumed(tmp_path):
    def strategy(folder, **more):
        made = VersionedStrategy(Kept(**ALL), store=tmp_path / folder, num_clients=CLIENTS, **more)
        made.set_folder("x")
        return made

    whole = strategy("whole")
    whole.start(grid(), floats(), num_rounds=4, evaluate_fn=measure)
    assert [each.round for each in whole.registry.versions("model")] == [0, 1, 2, 3, 4]
    strategy("cut").start(grid(), floats(), num_rounds=2, evaluate_fn=measure)
    again = strategy("cut", resume=True)
    again.start(grid(), floats(), num_rounds=4, evaluate_fn=measure)
    assert [each.round for each in again.registry.versions("model")] == [0, 1, 2, 3, 4]
    assert again.version.digest == whole.version.digest
    done = strategy("cut", resume=True)
    assert list(done.start(grid(), floats(), num_rounds=4, evaluate_fn=measure).arrays) == list(floats())


def test_a_loop_past_the_methods_is_told_what_to_move(tmp_path, caplog):
    class Past(FedAvg):
        def start(self, grid, initial_arrays, num_rounds=1):
            sent = FedAvg.configure_train(self, 1, initial_arrays, ConfigRecord(), grid)
            arrays, _ = FedAvg.aggregate_train(self, 1, grid.send_and_receive(sent, timeout=60.0))
            return Result(arrays=arrays)

    strategy = VersionedStrategy(Past(**ALL), store=tmp_path / "s", num_clients=CLIENTS)
    with caplog.at_level(logging.INFO, logger="flwr"):
        got = strategy.start(grid(), floats())
    assert to_artifact(got.arrays) == to_artifact(Past(**ALL).start(grid(), floats()).arrays)
    assert "call self.aggregate_train in its loop" in caplog.text
    assert "is published as v1" in caplog.text


def test_a_start_without_what_versions_need_is_refused(tmp_path):
    class Closed(FedAvg):
        def start(self, grid, rounds):
            return Result()

    with pytest.raises(ConfigError, match=r"takes no initial_arrays.* let start take grid and initial_arrays"):
        VersionedStrategy(Closed(), store=tmp_path / "s")


def test_its_methods_are_its_own_again_where_it_fails(tmp_path):
    class Failing(FedAvg):
        def start(self, *args, **kwargs):
            super().start(*args, **kwargs)
            raise RuntimeError("no tracker")

    inner = Failing(**ALL)
    with pytest.raises(RuntimeError, match="no tracker"):
        VersionedStrategy(inner, store=tmp_path / "s").start(grid(), floats(), num_rounds=1)
    assert "configure_train" not in vars(inner)


def test_what_is_no_strategy_of_this_api_is_told_where_to_look(tmp_path):
    with pytest.raises(ConfigError, match=r"FedAvg is a strategy of Flower.s older API.*serverapp.*upgrade"):
        VersionedStrategy(LegacyFedAvg(), store=tmp_path / "s")


def test_versions_are_outermost(tmp_path):
    inside = VersionedStrategy(FedAvg(**ALL), store=tmp_path / "s")
    with pytest.raises(ConfigError, match=r"outermost strategy, as in VersionedStrategy\(Wrapper\(FedAvg"):
        DifferentialPrivacyServerSideFixedClipping(inside, 0.0, 1.0, 2).start(grid(), floats(), num_rounds=1)
    with pytest.raises(ConfigError, match="cannot be put inside"):
        VersionedStrategy(inside, store=tmp_path / "t")


def test_initial_arrays_of_another_kind_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"initial_arrays is a dict, expected an ArrayRecord"):
        VersionedStrategy(FedAvg(**ALL), store=tmp_path / "s").start(grid(), {"w": np.ones(3)})


def test_the_strategy_inside_is_read_and_not_set(tmp_path):
    strategy = VersionedStrategy(Tracking(**ALL), store=tmp_path / "s")
    strategy.set_folder("here")
    assert strategy.folder == strategy.inner.folder == "here"
    assert strategy.min_train_nodes == CLIENTS
    for name in ("folder", "fraction_train", "new"):
        with pytest.raises(ConfigError, match=rf"strategy.inner.{name} = \.\.\."):
            setattr(strategy, name, 1)
    with pytest.raises(AttributeError, match=r"nor its inner Tracking has an attribute .best."):
        strategy.best  # noqa: B018
    strategy.inner.fraction_train = 0.5
    assert strategy.fraction_train == 0.5


def second(strategy, arrays=None):
    first = strategy.start(grid=grid(), initial_arrays=floats(), num_rounds=2, evaluate_fn=measure)
    given = first.arrays if arrays is None else arrays
    return strategy.start(grid=grid(), initial_arrays=given, num_rounds=1, evaluate_fn=measure)


@pytest.mark.parametrize("given", [None, floats()], ids=["the first's result", "the initial arrays again"])
@pytest.mark.parametrize("kind", [FedAvg, Noting])
def test_a_second_start_trains_on_as_plain_flowers_does(tmp_path, kind, given):
    want = second(kind(**ALL), given)
    rows = []
    strategy = VersionedStrategy(kind(**ALL), store=tmp_path / "s", num_clients=CLIENTS, observer=rows.append)
    got = second(strategy, given)
    assert to_artifact(got.arrays) == to_artifact(want.arrays)
    assert got.train_metrics_clientapp == want.train_metrics_clientapp
    assert got.evaluate_metrics_serverapp == want.evaluate_metrics_serverapp
    rounds = [each.round for each in strategy.registry.versions("model")]
    assert rounds == ([0, 1, 2, 3] if given is None else [0, 1, 2, 2, 3])
    assert [row.round for row in rows] == [0, 1, 2, 2, 3]


def test_a_resumed_run_of_two_starts_does_what_is_left_of_both(tmp_path):
    whole = VersionedStrategy(FedAvg(**ALL), store=tmp_path / "whole", num_clients=CLIENTS)
    want = second(whole)
    VersionedStrategy(FedAvg(**ALL), store=tmp_path / "cut").start(grid(), floats(), num_rounds=1)
    got = second(VersionedStrategy(FedAvg(**ALL), store=tmp_path / "cut", num_clients=CLIENTS, resume=True))
    assert to_artifact(got.arrays) == to_artifact(want.arrays)


def test_a_second_start_of_another_model_is_refused(tmp_path):
    strategy = VersionedStrategy(FedAvg(**ALL), store=tmp_path / "s", num_clients=CLIENTS)
    with pytest.raises(
        ConfigError, match=r"second start are another model than v2 .*'fc.weight' is float32 \(3,\), the version has"
    ):
        second(strategy, ArrayRecord({"fc.weight": Array(np.ones(3, np.float32)), "fc.bias": floats()["fc.bias"]}))
    with pytest.raises(ConfigError, match=r"another model .* VersionedStrategy of its own"):
        strategy.start(grid(), small_arrays(), num_rounds=1)


def test_the_last_line_says_what_was_saved_and_where(tmp_path, caplog):
    strategy = VersionedStrategy(FedAvg(**ALL), store=tmp_path / "s p", num_clients=CLIENTS)
    with caplog.at_level(logging.INFO, logger="flwr"):
        strategy.start(grid(), floats(), num_rounds=2)
    last = caplog.messages[-1]
    assert last.startswith("flserve: models: ")
    assert "kB down instead of" in last
    assert "% saved), model" not in last
    assert last.endswith(f"model 'model' is at version 2: flserve log --store '{tmp_path}/s p' shows all of them")


def test_the_last_line_names_the_model_where_the_store_has_others(tmp_path, caplog):
    for _ in range(2):
        strategy = VersionedStrategy(FedAvg(**ALL), store=tmp_path, num_clients=CLIENTS)
        with caplog.at_level(logging.INFO, logger="flwr"):
            strategy.start(grid(), floats(), num_rounds=1)
    command = caplog.messages[-1].partition("flserve log ")[2].removesuffix(" shows all of them")
    assert command == f"--store {tmp_path} --model model-2"
