"""What clients' updates leave out comes with later ones: nothing is lost, nothing is counted twice."""

import shutil
from collections import defaultdict

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from flserve_app.client import versioned_mod
from flserve_app.client.held import Held
from flserve_app.client.leftover import leftover_of
from flserve_app.client.records import to_artifact
from flserve_app.client.wire import PAYLOAD, RECORD, payload_array
from flserve_app.codec.feedback import Feedback
from flserve_app.codec.lossy import Lossy
from flserve_app.codec.ramp import Ramp
from tests.apps import drift, numpy_app, small_arrays
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow

ALL = Feedback(decay=1.0, cap=1e9)
SPARSE = Lossy(name="topk", share=Ramp(0.1, 0.1, 0), feedback=ALL, least=0)
COARSE = Lossy(name="grid", multiple=Ramp(6.0, 6.0, 0), feedback=ALL, least=0)
FLOATS = ("fc.weight", "fc.bias")
MODEL = to_artifact(small_arrays())
SIZE = 4


def flat(record, base):
    """Return the change of the floats, float64."""
    return np.concatenate([(record[n].numpy().astype("f8") - base[n].astype("f8")).ravel() for n in FLOATS])


class Books:
    """What each client learned, and what of it was aggregated, by partition and round."""

    def __init__(self):
        self.learned = {}
        self.aggregated = defaultdict(list)
        self.crashes = set()

    def train(self, message, context, server_round):
        record, partition = message.content["arrays"], context.node_config["partition-id"]
        trained = drift(record, server_round, partition)
        self.learned[partition, server_round] = flat(trained, {n: record[n].numpy() for n in FLOATS})
        if (partition, server_round) in self.crashes:
            self.crashes.remove((partition, server_round))
            raise RuntimeError("boom")
        metrics = MetricRecord({"num-examples": 10, "partition": partition, "trained-in": server_round})
        return Message(RecordDict({"arrays": trained, "metrics": metrics}), reply_to=message)

    def strategy(self, train=SIZE, evaluate=0):
        books = self

        class Noting(FedAvg):
            def configure_train(self, server_round, arrays, config, grid):
                self.base = to_artifact(arrays)
                return super().configure_train(server_round, arrays, config, grid)

            def aggregate_train(self, server_round, replies):
                replies = list(replies)
                for reply in replies:
                    metrics = reply.content["metrics"]
                    change = flat(reply.content["arrays"], self.base)
                    books.aggregated[metrics["partition"]].append((metrics["trained-in"], change))
                return super().aggregate_train(server_round, replies)

        settings = fedavg(SIZE, train, evaluate)
        return Noting(
            fraction_train=settings.fraction_train,
            min_train_nodes=settings.min_train_nodes,
            fraction_evaluate=settings.fraction_evaluate,
            min_evaluate_nodes=settings.min_evaluate_nodes,
            min_available_nodes=SIZE,
        )

    def missing(self, partition):
        """Return what was learned in the rounds that were aggregated, less what was aggregated."""
        numbers = [number for number, _ in self.aggregated[partition]]
        assert len(numbers) == len(set(numbers))
        return sum((self.learned[partition, number] - change for number, change in self.aggregated[partition]), 0.0)


def residual(run, partition):
    """Return what a client would take along with its next update."""
    context = run.grid.contexts[run.grid.node_id(partition)]
    kept = Held(context).beside("model", MODEL.nbytes)
    told = run.strategy._settlements.untold(f"partition-{partition}")
    found = leftover_of(kept, MODEL).settled(told, owed=False).residual
    nothing = {name: np.zeros(MODEL.specs[name].shape) for name in FLOATS}
    left = nothing | ({} if found is None else dict(found))
    return np.concatenate([left[name].astype("f8").ravel() for name in FLOATS])


def fleet(books, mods=(versioned_mod,), **options):
    return FleetGrid(app=numpy_app(mods=mods, on_train=books.train), size=SIZE, **options)


def balanced(run, books, partitions=range(SIZE)):
    for partition in partitions:
        left = residual(run, partition)
        assert np.abs(left).max() > 1e-3, "a test of nothing"
        assert np.allclose(books.missing(partition), left, atol=2e-6, rtol=0)


def is_train_reply(grid, message, partition):
    mine = message.metadata.src_node_id == grid.node_id(partition)
    return mine and message.has_content() and "metrics" in message.content and PAYLOAD in message.content


def trained_in(message):
    return message.content["metrics"]["trained-in"]


SLOW = pytest.mark.slow


@pytest.fixture(params=["state", pytest.param("directory", marks=SLOW)])
def config(request, tmp_path):
    return {} if request.param == "state" else {"cache-dir": str(tmp_path / "cache")}


@pytest.mark.parametrize("codec", [SPARSE, COARSE], ids=["topk", "grid"])
@pytest.mark.parametrize("evaluate", [0, pytest.param(SIZE, marks=SLOW)])
def test_updates_and_residuals_are_all_that_was_learned(tmp_path, config, codec, evaluate):
    books = Books()
    grid = fleet(books, node_config=config)
    run = federate(tmp_path / "s", grid=grid, inner=books.strategy(3, evaluate), uplink=codec, rounds=6)
    assert run.total("failures") == 0
    assert sum(map(len, books.aggregated.values())) == 18
    balanced(run, books)
    published = flat(run.result.arrays, MODEL)
    means = sum(change for changes in books.aggregated.values() for _, change in changes) / 3
    assert np.allclose(published, means, atol=1e-5)


def test_a_reply_that_is_lost_loses_nothing_of_the_residual(tmp_path, config):
    books = Books()
    grid = fleet(books, node_config=config)

    def lost(message):
        return None if is_train_reply(grid, message, 1) and trained_in(message) in (2, 3) else message

    grid.up.append(lost)
    run = federate(tmp_path / "s", grid=grid, inner=books.strategy(), uplink=SPARSE, rounds=5)
    assert [number for number, _ in books.aggregated[1]] == [1, 4, 5]
    balanced(run, books)


def test_the_last_reply_that_is_lost_is_not_taken_for_aggregated(tmp_path, config):
    books = Books()
    grid = fleet(books, node_config=config)
    grid.up.append(lambda message: None if is_train_reply(grid, message, 1) and trained_in(message) == 3 else message)
    run = federate(tmp_path / "s", grid=grid, inner=books.strategy(), uplink=SPARSE, rounds=3)
    balanced(run, books)


def test_a_crash_in_training_changes_nothing(tmp_path, config):
    books = Books()
    books.crashes = {(2, 2), (2, 4)}
    run = federate(
        tmp_path / "s", grid=fleet(books, node_config=config), inner=books.strategy(), uplink=SPARSE, rounds=5
    )
    assert [number for number, _ in books.aggregated[2]] == [1, 3, 5]
    balanced(run, books)


def test_a_crash_after_the_update_was_made_changes_nothing(tmp_path, config):
    """The context is lost, what was written to the directory is not."""

    def crasher(message, context, call_next):
        train = message.metadata.message_type == "train" and "config" in message.content
        at = (context.node_config["partition-id"], message.content["config"]["server-round"]) if train else None
        reply = call_next(message, context)
        if at == (0, 3):
            raise RuntimeError("boom")
        return reply

    books = Books()
    grid = fleet(books, mods=(crasher, versioned_mod), node_config=config)
    run = federate(tmp_path / "s", grid=grid, inner=books.strategy(), uplink=SPARSE, rounds=5)
    assert [number for number, _ in books.aggregated[0]] == [1, 2, 4, 5]
    balanced(run, books)


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_client_that_is_served_again_in_the_round_counts_once(tmp_path, config, way):
    books = Books()
    grid = fleet(books, node_config=config)
    spoilt = []

    def spoil(message):
        here = message.metadata.dst_node_id if way == "down" else message.metadata.src_node_id
        payload = message.content.get(PAYLOAD) if message.has_content() else None
        if here == grid.node_id(1) and payload is not None and run_round() == 3 and not spoilt:
            spoilt.append(message)
            damaged = bytearray(payload["payload"].data)
            damaged[len(damaged) // 2] ^= 1
            message.content[PAYLOAD] = type(payload)({"payload": payload_array(bytes(damaged))})
        return message

    rows = []

    def run_round():
        return len(rows)

    getattr(grid, way).append(spoil)
    run = federate(
        tmp_path / "s", grid=grid, inner=books.strategy(), uplink=SPARSE, rounds=5, on_row=lambda row: rows.append(row)
    )
    assert run.plans()["resend"] == 1
    assert [number for number, _ in books.aggregated[1]] == [1, 2, 3, 4, 5]
    balanced(run, books)


@SLOW
@pytest.mark.parametrize("rule", ["drop", "rebase"])
@pytest.mark.parametrize("evaluate", [0, SIZE])
@pytest.mark.parametrize("exchanges", [1, 2, 4])
def test_a_late_reply_counts_if_it_is_used(tmp_path, config, rule, evaluate, exchanges):
    """The client takes part in other rounds while it is not known whether the late update will be used."""
    books = Books()
    grid = fleet(books, node_config=config)

    def held_back(message):
        mine = message.metadata.dst_node_id == grid.node_id(2) and message.metadata.message_type == "train"
        number = message.content["config"]["server-round"] if "config" in message.content else 0
        return exchanges if mine and number == 2 else 0

    grid.delay = held_back
    inner = books.strategy(SIZE, evaluate)
    run = federate(tmp_path / "s", grid=grid, inner=inner, uplink=SPARSE, rounds=7, late=rule)
    assert run.total("late") == (rule == "rebase")
    assert (2 in [number for number, _ in books.aggregated[2]]) == (rule == "rebase")
    balanced(run, books)


def test_a_client_that_lost_its_state_loses_its_residual_and_no_more(tmp_path):
    books = Books()
    grid = fleet(books)
    gone = []

    def forget(row):
        if row.round == 3:
            gone.append(books.missing(1))
            grid.forget(1)
            shutil.rmtree(tmp_path / "s.clients" / "clients" / "partition-1")

    run = federate(tmp_path / "s", grid=grid, inner=books.strategy(), uplink=SPARSE, rounds=5, on_row=forget)
    balanced(run, books, (0, 2, 3))
    assert np.allclose(books.missing(1) - gone[0], residual(run, 1), atol=2e-6)


def test_an_update_that_is_left_out_was_not_aggregated(tmp_path, config):
    books = Books()
    grid = fleet(books, node_config=config)

    def odd(message):
        if is_train_reply(grid, message, 3) and trained_in(message) == 2:
            message.content["metrics"]["num-examples"] = -1.0
        return message

    grid.up.append(odd)
    run = federate(tmp_path / "s", grid=grid, inner=books.strategy(), uplink=SPARSE, rounds=4)
    assert run.total("failures") == 1
    assert [number for number, _ in books.aggregated[3]] == [1, 3, 4]
    balanced(run, books)


def test_a_round_without_a_version_settles_nothing(tmp_path, config):
    books = Books()
    inner = books.strategy()
    given = inner.aggregate_train

    def nothing(server_round, replies):
        return (None, None) if server_round == 2 else given(server_round, replies)

    inner.aggregate_train = nothing
    run = federate(tmp_path / "s", grid=fleet(books, node_config=config), inner=inner, uplink=SPARSE, rounds=4)
    assert run.strategy.version.number == 3
    balanced(run, books)


def cached(path):
    return {"cache-dir": str(path)}


def digest(store, cache, rounds=4, train=3, **options):
    books = Books()
    grid = fleet(books, node_config=cached(cache))
    return federate(store, grid=grid, inner=fedavg(SIZE, train), uplink=SPARSE, rounds=rounds, **options).digest


@SLOW
def test_two_runs_are_alike_and_a_resumed_one_too(tmp_path):
    one, other = (digest(tmp_path / name, tmp_path / f"cache-{name}") for name in "ab")
    digest(tmp_path / "c", tmp_path / "cache-c", rounds=2)
    assert one == other == digest(tmp_path / "c", tmp_path / "cache-c", resume=True)


@SLOW
def test_a_run_of_another_history_begins_without_what_is_left_of_it(tmp_path):
    clean = digest(tmp_path / "a", tmp_path / "cache-a")
    digest(tmp_path / "b", tmp_path / "cache", rounds=3, seed=5)
    assert digest(tmp_path / "c", tmp_path / "cache") == clean


@SLOW
def test_a_run_that_is_resumed_at_an_older_version_does_so_too(tmp_path):
    """All clients went on from the older version: what is left of that belongs to versions that are no more."""
    digest(tmp_path / "s", tmp_path / "cache", rounds=2, train=SIZE)
    for copy in ("older", "again"):
        shutil.copytree(tmp_path / "s", tmp_path / copy)
    settings = {"rounds": 5, "train": SIZE, "resume": True}
    newer = digest(tmp_path / "s", tmp_path / "cache", **settings)
    resumed = digest(tmp_path / "older", tmp_path / "cache", **settings)
    assert resumed == digest(tmp_path / "again", tmp_path / "clean", **settings)
    assert resumed != newer


def test_without_feedback_clients_are_told_nothing_and_keep_nothing(tmp_path):
    told = []

    def note(message):
        told.append(set(message.content.config_records[RECORD]))
        return message

    books = Books()
    grid = fleet(books, node_config=cached(tmp_path / "cache"), down=[note])
    plain = Lossy(name="topk", share=Ramp(0.1, 0.1, 0), feedback=Feedback(decay=0), least=0)
    federate(tmp_path / "s", grid=grid, inner=books.strategy(SIZE, SIZE), uplink=plain, rounds=3)
    assert not set().union(*told) & {"feedback", "settled", "owed", "afresh"}
    assert not list((tmp_path / "cache").rglob("*.leftover"))


@SLOW
def test_a_dithered_run_repeats_and_depends_on_the_seed(tmp_path):
    dithered = Lossy(name="grid", feedback=Feedback(decay=0), dither=True)
    one, other, third = (
        federate(tmp_path / name, uplink=dithered, rounds=2, seed=seed).digest
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == other != third
    plain = Lossy(name="grid", feedback=Feedback(decay=0), least=0)
    assert federate(tmp_path / "d", uplink=plain, rounds=2, seed=1).digest != one
