"""Further records that all clients get alike travel as versions of their own, and apps end as on plain Flower."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from flserve_app.client import mod, versioned_mod
from flserve_app.client.beside import BESIDE_PAYLOAD
from flserve_app.client.object_size import record_bytes
from flserve_app.client.records import to_artifact
from flserve_app.codec import inspect
from flserve_app.codec.lossy import lossy_of
from flserve_app.registry import Registry
from flserve_app.strategy import VersionedStrategy, beside
from tests.fleet import FleetGrid
from tests.strategy import test_apps_table as table
from tests.strategy.test_apps_table import APPS, CLIENTS, SAMPLING, App, numpies, record, run, same, scaffold

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_is_small(monkeypatch):
    monkeypatch.setattr(beside, "LEAST_BYTES", 1)
    monkeypatch.setattr("tests.fleet.seen", lambda *_: None)
    monkeypatch.setattr("os.fsync", lambda _: None)


class Steady(table.Scaffold):
    """Has a variate of which a little changes each round, and sends it first."""

    def aggregate_train(self, server_round, replies):
        before = self.variate
        result = super().aggregate_train(server_round, replies)
        changed = numpies(before)
        changed["conv.weight"] = changed["conv.weight"] + np.float32(server_round)
        self.variate = record(changed)
        return result


class PerClient(Steady):
    def configure_train(self, server_round, arrays, config, grid):
        for message in super().configure_train(server_round, arrays, config, grid):
            at = np.float32(message.metadata.dst_node_id)
            own = record({name: value + at for name, value in numpies(self.variate).items()})
            message.content = RecordDict({**message.content, "variate": own})
            yield message


def federated(folder, app, mods=(versioned_mod,), **options):
    rows = []
    wrapped = {"store": folder, "observer": rows.append, **options}
    return run(app, list(mods), lambda inner: VersionedStrategy(inner, **wrapped)), rows


def test_it_travels_relative_to_what_a_client_was_given_before(tmp_path):
    app = App(Steady, scaffold)
    found, rows = federated(tmp_path / "s", app)
    same(found, run(app, []))
    assert [(row.clients, row.failures, row.plans.get("resend", 0)) for row in rows[1:]] == [(CLIENTS, 0, 0)] * 3
    registry = Registry.open(tmp_path / "s")
    versions = registry.versions("model.variate")
    assert [version.round for version in versions] == [1, 2, 3]
    assert [version.parent for version in versions] == [None, 0, 1]
    assert numpies(variate_of(registry, versions[-1]))["conv.weight"][0, 0] == 3  # of the rounds before: 1 + 2
    plain = record_bytes(variate_of(registry, versions[-1]))  # constants that are alike travel once
    plain_rows = federated(tmp_path / "p", APPS["Flower's own"])[1]
    beside_bytes = [row.bytes_down - other.bytes_down for row, other in zip(rows, plain_rows, strict=True)]
    assert beside_bytes[3] < CLIENTS * plain / 3
    assert rows[3].bytes_down_full == plain_rows[3].bytes_down_full + CLIENTS * plain


def variate_of(registry, version):
    return record({name: values for name, values in registry.load(version.digest).items()})


@pytest.mark.parametrize("name", ["SCAFFOLD", "another record first", "evaluate_fn that changes, own aggregation"])
def test_apps_end_as_on_plain_flower(tmp_path, name):
    same(federated(tmp_path, APPS[name])[0], run(APPS[name], []))


def test_one_that_is_another_for_each_client_travels_as_it_is(tmp_path):
    app = App(PerClient, scaffold)
    same(federated(tmp_path, app)[0], run(app, []))
    assert {version.model for version in Registry.open(tmp_path).versions("model")} == {"model"}
    assert Registry.open(tmp_path).latest("model.variate") is None


def test_small_ones_and_all_under_full_travel_as_they_are(tmp_path, monkeypatch):
    app = App(Steady, scaffold)
    same(federated(tmp_path / "full", app, codec="full")[0], run(app, []))
    monkeypatch.undo()
    same(federated(tmp_path / "small", app)[0], run(app, []))
    for name in ("full", "small"):
        assert Registry.open(tmp_path / name).latest("model.variate") is None


def test_clients_that_cannot_take_it_get_it_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(mod, "BESIDE", "other")
    app = App(Steady, scaffold)
    found, rows = federated(tmp_path, app)
    same(found, run(app, []))
    plain = sum(len(array.data) for array in found.arrays.values())
    assert rows[3].bytes_down >= CLIENTS * plain
    assert rows[3].failures == 0


def test_a_client_that_lost_what_it_was_given_is_served_as_without(tmp_path):
    class Forgetful(Steady):
        def configure_evaluate(self, server_round, arrays, config, grid):
            for context in fleets[-1].contexts.values():
                context.state.clear()
            return []

    fleets = []

    class Remembered(FleetGrid):
        def __post_init__(self):
            super().__post_init__()
            fleets.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "FleetGrid", Remembered)
        app = App(Forgetful, scaffold)
        found, rows = federated(tmp_path, app)
        same(found, run(app, []))
    assert [row.clients for row in rows[1:]] == [CLIENTS] * 3
    assert [row.failures for row in rows[1:]] == [0] * 3


def test_a_name_that_is_taken_is_left_alone(tmp_path):
    registry = Registry.open(tmp_path)
    taken = registry.publish("model.variate", to_artifact(table.model()), round=0, codec="lossless")
    app = App(Steady, scaffold)
    same(federated(tmp_path, app)[0], run(app, []))
    assert registry.latest("model.variate") == taken


def test_a_resumed_run_goes_on_with_its_versions(tmp_path):
    class Lasting(Steady):
        def flserve_state(self):
            return numpies(self.variate)

        def load_flserve_state(self, state):
            self.variate = record(state)

    app = App(Lasting, scaffold)

    def once(rounds, **options):
        grid = FleetGrid(app=table.client(app, [versioned_mod]), size=CLIENTS)
        strategy = VersionedStrategy(app.strategy(**SAMPLING), store=tmp_path, model_name="m", **options)
        return strategy.start(grid=grid, initial_arrays=table.model(), num_rounds=rounds)

    once(2)
    once(4, resume=True)
    versions = Registry.open(tmp_path).versions("m.variate")
    assert [version.round for version in versions] == [1, 2, 3, 4]
    assert [version.number for version in versions] == [0, 1, 2, 3]


def test_several_records_that_no_client_was_given_alike_cost_nothing(tmp_path):
    class Empty(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            for message in super().configure_train(server_round, arrays, config, grid):
                message.content = RecordDict({**message.content, "none": ArrayRecord(), "twin": arrays.copy()})
                yield message

    app = App(Empty)
    same(federated(tmp_path, app)[0], run(app, []))
    assert Registry.open(tmp_path).latest("model.none") is None


def test_the_models_update_travels_as_one_where_a_reply_has_further_records(tmp_path):
    """And the records of a reply keep their order, whichever the model's is."""
    seen = []

    class Seeing(Steady):
        def aggregate_train(self, server_round, replies):
            found = list(replies)
            seen.extend(tuple(reply.content) for reply in found)
            return super().aggregate_train(server_round, found)

    app = App(Seeing, scaffold)
    alone = run(app, [])
    orders, seen[:] = list(seen), []
    found, rows = federated(tmp_path / "s", app)
    same(found, alone)
    assert set(orders) == {("variate", "arrays", "metrics")}
    assert seen == orders
    assert all(row.bytes_up < 0.85 * row.bytes_up_full for row in rows[1:])
    small = lossy_of("topk", {"least": 0})
    lossy_rows = federated(tmp_path / "l", app, uplink=small)[1]
    assert all(row.bytes_up < 0.75 * row.bytes_up_full for row in lossy_rows[1:]), "the variate goes as it is"


def test_a_node_that_takes_over_a_name_is_told_nothing_of_what_was_sent_before(tmp_path):
    bases = []

    class Moves(Steady):
        def configure_evaluate(self, server_round, arrays, config, grid):
            if server_round == 2:
                del fleet.contexts[fleet.node_id(1)]
                fleet.contexts[999_999] = replace(fleet._context(1), node_id=999_999)
            return []

    def note(message):
        if message.metadata.dst_node_id == 999_999 and BESIDE_PAYLOAD in message.content:
            bases.extend(inspect(array.data).base for array in message.content[BESIDE_PAYLOAD].values())
        return message

    app = App(Moves, scaffold)
    fleet = FleetGrid(app=table.client(app, [versioned_mod]), size=CLIENTS, down=[note])
    VersionedStrategy(Moves(**SAMPLING), store=tmp_path).start(fleet, table.model(), num_rounds=4)
    assert bases[0] is None, "relative to nothing"
    assert bases[1] is not None, "to what it was sent itself"


def orders(message, context, partition, number):
    """Reads records by their place, and answers in another order each."""
    assert list(message.content) == ["note", "variate", "arrays", "config"]
    found = scaffold(message, context, partition, number)
    order = [["metrics", "arrays", "variate"], ["variate", "metrics", "arrays"], ["arrays", "variate", "metrics"]]
    found.content = RecordDict({key: found.content[key] for key in order[partition % 3]})
    return found


class InOrder(Steady):
    def configure_train(self, *args):
        for message in super().configure_train(*args):
            message.content = RecordDict({"note": ConfigRecord({"x": 1}), **message.content})
            yield message

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        assert [next(iter(reply.content)) for reply in replies] == ["metrics", "variate", "arrays", "metrics"]
        return super().aggregate_train(server_round, replies)


@pytest.mark.parametrize("codec", ["full", "lossless"])
def test_records_keep_their_order_both_ways(tmp_path, codec):
    app = App(InOrder, orders)
    same(federated(tmp_path, app, codec=codec)[0], run(app, []))


def test_an_update_after_metrics_alone_keeps_its_place(tmp_path):
    seen = []

    class Looks(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            seen.extend(list(reply.content) for reply in replies)
            return super().aggregate_train(server_round, replies)

    def metrics_first(message, context, partition, number):
        found = table.trains(message, context, partition, number)
        found.content = RecordDict({key: found.content[key] for key in ("metrics", "arrays")})
        return found

    federated(tmp_path, App(Looks, metrics_first))
    assert seen == [["metrics", "arrays"]] * 3 * CLIENTS
