"""Private tensors end to end: they never travel, they last, and all else is as without them."""

import logging
import shutil

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAdam, FedAvg

from flserve_app.client import Recipe, building, versioned_mod
from flserve_app.client.held import Held
from flserve_app.client.private import kept_key
from flserve_app.client.recipe import parse_recipe
from flserve_app.client.records import to_artifact
from flserve_app.codec.lossy import lossy_of
from flserve_app.errors import AggregateError, ConfigError
from flserve_app.store import Serving
from tests.fleet import FleetGrid
from tests.strategy.personal import NAMES, PRIVATE, ROLES, SHARED, SIZE, Books, Wire, arrays, kept, personal
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow

CODECS = {
    "full": "full",
    "lossless": "lossless",
    "grid": lossy_of("grid", {"multiple": 4.0, "least": 0}),
    "topk": lossy_of("topk", {"share": 0.1, "least": 0}),
}


def lasting(root, books):
    return FleetGrid(app=books.app(), size=SIZE, node_config={"cache-dir": str(root)})


@pytest.mark.parametrize(
    ("codec", "rooted"), [("full", False), ("lossless", False), ("lossless", True), ("grid", True), ("topk", False)]
)
def test_the_app_sees_all_tensors_and_private_ones_are_its_own(tmp_path, codec, rooted):
    books = Books()
    grid = lasting(tmp_path / "cache", books) if rooted else FleetGrid(app=books.app(), size=SIZE)
    run = personal(tmp_path / "store", grid=grid, codec=CODECS[codec], uplink=CODECS[codec])
    first = {name: array.numpy() for name, array in arrays().items()}
    for partition in range(SIZE):
        for number in (1, 2, 3):
            given = books.given[partition, number]
            before = first if number == 1 else books.returned[partition, number - 1]
            assert list(given) == NAMES
            for name in PRIVATE:
                np.testing.assert_array_equal(given[name], before[name])
        assert list(books.evaluated[partition]) == NAMES
        for name in PRIVATE:
            np.testing.assert_array_equal(kept(grid, partition)[name], books.returned[partition, 3][name])
            np.testing.assert_array_equal(books.evaluated[partition][name], books.returned[partition, 3][name])
    assert not np.array_equal(kept(grid, 0)["head.weight"], kept(grid, 1)["head.weight"])
    assert [list(run.registry.load(version.digest)) for version in run.registry.versions("model")] == [SHARED] * 4
    assert list(run.result.arrays) == SHARED
    assert sum(row.failures for row in run.rows) == 0


def test_what_is_shared_trains_as_if_it_were_the_whole_model(tmp_path):
    """The private tensors do not reach into the aggregate: it is that of an app that never had them."""

    class Without(Books):
        def drifted(self, record, number, partition):
            whole = ArrayRecord({name: record.get(name, array) for name, array in arrays().items()})
            return {name: value for name, value in super().drifted(whole, number, partition).items() if name in record}

    shared = ArrayRecord({name: array for name, array in arrays().items() if name in SHARED})
    alone = personal(tmp_path / "alone", books=Without(), roles={}, initial=shared, rounds=2)
    assert personal(tmp_path / "with", rounds=2).digest == alone.digest


def test_no_bytes_of_private_tensors_are_in_messages_or_the_store(tmp_path):
    books = Books()
    grid = FleetGrid(app=books.app(), size=SIZE)
    wire = Wire(grid)
    personal(tmp_path / "store", grid=grid, codec="full", uplink="full")
    files = [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert wire.has(arrays()["head.weight"].numpy())  # the initial values are the server's own, and travel once
    assert any(arrays()["head.weight"].numpy().tobytes() in file for file in files)
    for trained in books.returned.values():
        assert wire.has(trained["fc.weight"])
        for name in ("head.weight", "head.bias"):
            # Any stretch of it, as well: a codec might have cut it up.
            for value in (trained[name], trained[name].ravel()[2:6]):
                assert not wire.has(value)
                assert not any(value.tobytes() in file for file in files)
    assert not wire.names & set(PRIVATE)


def test_initial_values_are_sent_once_and_then_the_key_alone(tmp_path):
    grid = FleetGrid(app=Books().app(), size=SIZE)
    starts = []

    def note(message):
        carried = message.content.array_records.get("flserve.payload", {})
        starts.append((message.metadata.dst_node_id, "start" in carried, "private" in message.content["flserve"]))
        return message

    grid.down.append(note)
    run = personal(tmp_path / "store", grid=grid)
    hellos, first, later = starts[:SIZE], starts[SIZE : 2 * SIZE], starts[2 * SIZE :]
    assert [told[1:] for told in hellos] == [(False, True)] * SIZE, "a greeting asks whether they are kept"
    assert [told[1:] for told in first] == [(True, True)] * SIZE
    assert [told[1:] for told in later] == [(False, True)] * (5 * SIZE)
    head = sum(array.numpy().nbytes for name, array in arrays().items() if name in PRIVATE)
    assert run.rows[1].bytes_down > run.rows[2].bytes_down + SIZE * head


@pytest.mark.parametrize("codec", ["lossless", pytest.param("topk", marks=pytest.mark.slow)])
def test_runs_repeat(tmp_path, codec):
    settings = {"codec": CODECS[codec], "uplink": CODECS[codec], "train": 2}
    assert len({personal(tmp_path / str(at), **settings).digest for at in range(2)}) == 1


@pytest.mark.parametrize("codec", ["grid", pytest.param("lossless", marks=pytest.mark.slow)])
def test_a_run_that_was_resumed_on_new_nodes_ends_as_one_that_was_not(tmp_path, codec, caplog):
    settings = {"codec": CODECS[codec], "uplink": CODECS[codec]}
    whole = personal(tmp_path / "whole", grid=lasting(tmp_path / "a", Books()), **settings)
    personal(tmp_path / "parts", rounds=2, grid=lasting(tmp_path / "b", Books()), **settings).registry.close()
    caplog.set_level(logging.INFO, logger="flwr")
    caplog.clear()
    books = Books()
    grid = lasting(tmp_path / "b", books)
    rest = personal(tmp_path / "parts", grid=grid, resume=True, initial=arrays(seed=9), **settings)
    assert rest.digest == whole.digest
    assert "private tensors" not in caplog.text
    assert list(books.given[0, 3]) == NAMES
    assert not np.array_equal(books.given[0, 3]["head.bias"], arrays()["head.bias"].numpy())


def test_a_new_history_begins_with_its_initial_values_whatever_was_kept(tmp_path):
    first = personal(tmp_path / "one", rounds=2, grid=lasting(tmp_path / "cache", Books()))
    books = Books()
    again = personal(tmp_path / "two", rounds=2, grid=lasting(tmp_path / "cache", books))
    assert again.digest == first.digest
    np.testing.assert_array_equal(books.given[0, 1]["head.bias"], arrays()["head.bias"].numpy())


def test_a_client_that_lost_them_begins_again_in_the_same_round_and_says_so(tmp_path, caplog):
    books = Books()
    grid = lasting(tmp_path / "cache", books)

    def lose(row):
        if row.round == 1:
            (lost,) = (tmp_path / "cache" / "clients" / "partition-1").glob("*.private")
            lost.unlink()

    run = personal(tmp_path / "store", grid=grid, on_row=lose)
    np.testing.assert_array_equal(books.given[1, 2]["head.bias"], arrays()["head.bias"].numpy())
    np.testing.assert_array_equal(books.given[0, 2]["head.bias"], books.returned[0, 1]["head.bias"])
    said = [record.message for record in caplog.records if "lost its" in record.message]
    assert said == ["flserve: partition-1 lost its 3 private tensors of model: they begin with the initial values"]
    assert run.plans()["resend"] == 1
    assert [row.clients for row in run.rows] == [0, SIZE, SIZE, SIZE]


def test_damaged_ones_are_lost_ones(tmp_path, caplog):
    books = Books()

    def damage(row):
        if row.round == 1:
            (path,) = (tmp_path / "cache" / "clients" / "partition-0").glob("*.private")
            path.write_bytes(path.read_bytes()[:-3] + b"xyz")

    personal(tmp_path / "store", grid=lasting(tmp_path / "cache", books), on_row=damage)
    np.testing.assert_array_equal(books.given[0, 2]["head.bias"], arrays()["head.bias"].numpy())
    assert "partition-0 lost its 3 private tensors" in caplog.text


def test_a_client_that_lost_all_of_its_state_begins_again(tmp_path):
    books = Books()
    grid = FleetGrid(app=books.app(), size=SIZE)

    def lose(row):
        if row.round == 1:
            grid.forget(2)
            shutil.rmtree(tmp_path / "store.clients" / "clients" / "partition-2")

    run = personal(tmp_path / "store", grid=grid, on_row=lose)
    np.testing.assert_array_equal(books.given[2, 2]["head.bias"], arrays()["head.bias"].numpy())
    assert sum(row.failures for row in run.rows) == 0
    assert [row.clients for row in run.rows] == [0, SIZE, SIZE, SIZE]


def test_a_cache_that_was_deleted_between_runs_is_a_beginning(tmp_path):
    personal(tmp_path / "store", rounds=1, grid=lasting(tmp_path / "cache", Books())).registry.close()
    shutil.rmtree(tmp_path / "cache")
    books = Books()
    personal(tmp_path / "store", rounds=2, grid=lasting(tmp_path / "cache", books), resume=True)
    np.testing.assert_array_equal(books.given[0, 2]["head.bias"], arrays()["head.bias"].numpy())


def test_a_recipe_brings_the_initial_values_too(tmp_path):
    model = to_artifact(arrays())
    serving = Serving(
        model_id="x",
        arguments={},
        inputs=[{"shape": [None, 2], "dtype": "float32"}],
        classes=["a"],
        seed=3,
    )
    built = []

    def build(recipe):
        built.append(recipe)
        return model

    books = Books()
    grid = FleetGrid(app=books.app(mods=[building(build)]), size=SIZE)
    wire = Wire(grid)
    run = personal(tmp_path / "store", grid=grid, serving=serving)
    assert run.digest == personal(tmp_path / "plain").digest
    assert run.plans()["recipe"] == SIZE
    assert not wire.has(arrays()["head.weight"].numpy())
    np.testing.assert_array_equal(books.given[0, 1]["head.bias"], arrays()["head.bias"].numpy())
    assert built
    assert isinstance(built[0], Recipe)
    assert parse_recipe(built[0].to_json()) == built[0]


def test_a_recipe_that_builds_another_private_part_is_not_followed(tmp_path):
    """The shared part is right, so the model is: but the private one would begin elsewhere than the others'."""
    other = {**arrays(), "head.bias": Array(np.ones(8, np.float32))}
    model = to_artifact(ArrayRecord(other))
    serving = Serving(
        model_id="x", arguments={}, inputs=[{"shape": [None, 2], "dtype": "float32"}], classes=["a"], seed=3
    )
    books = Books()
    grid = FleetGrid(app=books.app(mods=[building(lambda recipe: model)]), size=SIZE)
    run = personal(tmp_path / "store", grid=grid, serving=serving, rounds=1)
    assert run.plans()["resend"] == SIZE
    np.testing.assert_array_equal(books.given[0, 1]["head.bias"], arrays()["head.bias"].numpy())


def test_a_client_without_the_mod_is_left_out(tmp_path, caplog):
    books = Books()
    apps = [books.app(), books.app(mods=()), books.app()]
    run = personal(tmp_path / "store", grid=FleetGrid(app=lambda number: apps[number], size=SIZE), rounds=2)
    assert {partition for partition, _ in books.given} == {0, 2}
    assert [row.clients for row in run.rows] == [0, 2, 2]
    assert "is left out: it cannot keep private tensors to itself" in caplog.text


def older(message):
    """A release that knows nothing of roles: it does not say that it does."""
    if message.has_content() and "takes" in (record := message.content["flserve"]):
        record["takes"] = [name for name in record["takes"] if name != "private"]
    return message


def test_a_client_of_an_older_release_is_left_out_too(tmp_path, caplog):
    books = Books()
    grid = FleetGrid(app=books.app(), size=SIZE)
    grid.up.append(lambda message: older(message) if grid.number(message.metadata.src_node_id) == 1 else message)
    run = personal(tmp_path / "store", grid=grid, rounds=1)
    assert {partition for partition, _ in books.given} == {0, 2}
    assert [row.clients for row in run.rows] == [0, 2]
    assert "partition-1 is left out" in caplog.text


def test_a_client_of_an_older_release_sends_exact_updates_where_the_user_says_what_stays_exact(tmp_path):
    grid = FleetGrid(app=Books().app(), size=SIZE)
    told = {}

    def note(message):
        record = message.content["flserve"]
        if message.metadata.message_type == "train" and record["action"] == "deliver":
            told[grid.number(message.metadata.dst_node_id)] = "rounding" in record
        return message

    grid.down.append(note)
    grid.up.append(lambda message: older(message) if grid.number(message.metadata.src_node_id) == 1 else message)
    personal(tmp_path / "store", grid=grid, rounds=1, roles={"fc.*": "statistic"}, uplink=CODECS["grid"])
    assert told == {0: True, 1: False, 2: True}


def test_the_server_evaluates_with_the_initial_values(tmp_path):
    seen = []

    def evaluate(_, record):
        seen.append(record)
        return MetricRecord({"accuracy": 0.5})

    run = personal(tmp_path / "store", evaluate_fn=evaluate)
    assert [list(record) for record in seen] == [NAMES] * 4
    for name in PRIVATE:
        np.testing.assert_array_equal(seen[-1][name].numpy(), arrays()[name].numpy())
    shared = run.registry.load(run.digest)
    np.testing.assert_array_equal(seen[-1]["fc.weight"].numpy(), shared["fc.weight"])


def test_a_crash_behind_the_training_keeps_what_was_there(tmp_path):
    books = Books()
    crashed = []

    def crash(content, partition, number):
        if (partition, number) == (1, 2) and not crashed:
            crashed.append(True)
            raise RuntimeError("boom")

    grid = FleetGrid(app=books.app(on_train=crash), size=SIZE, node_config={"cache-dir": str(tmp_path / "cache")})
    personal(tmp_path / "store", grid=grid)
    np.testing.assert_array_equal(books.given[1, 3]["head.bias"], books.returned[1, 1]["head.bias"])


def test_a_reply_with_a_private_tensor_of_another_shape_is_an_error_and_nothing_of_it_travels(tmp_path, caplog):
    secret = np.full(9, 1.2345, np.float32)

    def bend(content, partition, number):
        if partition == 1:
            content["arrays"]["head.bias"] = Array(secret)

    grid = FleetGrid(app=Books().app(on_train=bend), size=SIZE)
    wire = Wire(grid)
    run = personal(tmp_path / "store", grid=grid, rounds=1)
    assert run.rows[-1].clients == 2
    assert "private tensor 'head.bias' came back with shape (9,), expected (8,)" in caplog.text
    assert not wire.has(secret)


def test_a_reply_with_two_records_is_left_without_private_tensors_in_both(tmp_path):
    secret = np.full((64, 8), 1.2345, np.float32)

    def double(content, partition, number):
        content["control"] = ArrayRecord({"head.weight": Array(secret), "fc.bias": Array(np.zeros(24, np.float32))})

    grid = FleetGrid(app=Books().app(on_train=double), size=SIZE)
    wire = Wire(grid)
    with pytest.raises(AggregateError, match="none of 3 replies can be used: it has 2 ArrayRecords, expected 1"):
        personal(tmp_path / "store", grid=grid, rounds=1)
    assert not wire.has(secret)
    assert wire.has(np.zeros(24, np.float32))


def test_the_inner_strategy_never_sees_them(tmp_path):
    seen = set()

    class Noting(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            for reply in replies:
                seen.update(*(record for record in reply.content.array_records.values()))
            return super().aggregate_train(server_round, replies)

        def configure_train(self, server_round, arrays, config, grid):
            seen.update(arrays)
            return super().configure_train(server_round, arrays, config, grid)

    settings = fedavg(SIZE)
    inner = Noting(min_train_nodes=SIZE, min_available_nodes=SIZE, fraction_evaluate=settings.fraction_evaluate)
    personal(tmp_path / "store", inner=inner)
    assert seen == set(SHARED)


@pytest.mark.slow
def test_a_strategy_that_remembers_tensors_is_resumed_beside_them(tmp_path):
    def inner():
        return FedAdam(min_train_nodes=SIZE, min_available_nodes=SIZE, fraction_evaluate=0.0)

    whole = personal(tmp_path / "whole", inner=inner(), rounds=4, grid=lasting(tmp_path / "a", Books()))
    personal(tmp_path / "parts", inner=inner(), rounds=2, grid=lasting(tmp_path / "b", Books())).registry.close()
    grid = lasting(tmp_path / "b", Books())
    rest = personal(tmp_path / "parts", inner=inner(), rounds=4, grid=grid, resume=True)
    assert rest.digest == whole.digest


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({}, "tensor 'bn.num_batches_tracked' of model v1 was private, and now is not: resume with the roles"),
        ({"head.*": "private"}, "tensor 'bn.num_batches_tracked' of model v1 was private, and now is not"),
        ({**ROLES, "fc.bias": "private"}, "tensor 'fc.bias' of model v1 was published, and cannot become private"),
        ({"haed": "private"}, "'haed' \\(private\\) decides nothing"),
    ],
)
def test_roles_cannot_change_who_has_a_tensor_within_a_history(tmp_path, roles, said):
    personal(tmp_path / "store", rounds=1).registry.close()
    with pytest.raises(ConfigError, match=said):
        personal(tmp_path / "store", rounds=2, roles=roles, resume=True)


def test_what_was_published_cannot_become_private(tmp_path):
    personal(tmp_path / "store", rounds=1, roles={}).registry.close()
    with pytest.raises(ConfigError, match=r"'bn.num_batches_tracked' of model v1 was published, and cannot become"):
        personal(tmp_path / "store", rounds=2, resume=True)


def test_roles_that_do_not_fit_are_refused_before_anybody_is_greeted(tmp_path):
    grid = FleetGrid(app=Books().app(), size=SIZE)
    with pytest.raises(ConfigError, match=r"roles: 'tail.\*' \(private\) decides nothing: no tensor fits it"):
        personal(tmp_path / "store", grid=grid, roles={"tail.*": "private"})
    assert grid.log == []
    with pytest.raises(ConfigError, match=r"'head.\*' is 'secret', expected one of"):
        personal(tmp_path / "other", grid=grid, roles={"head.*": "secret"})


def test_clipping_at_the_client_is_refused(tmp_path):
    inner = DifferentialPrivacyClientSideFixedClipping(fedavg(SIZE), 0.0, 1.0, SIZE)
    with pytest.raises(ConfigError, match=r"cannot be private under .*ClientSideFixedClipping.*: its clipping"):
        personal(tmp_path / "store", inner=inner)
    personal(tmp_path / "fine", roles={"fc.bias": "statistic"}, inner=fedavg(SIZE), rounds=1)


@pytest.mark.parametrize("way", ["codec", "uplink"])
def test_statistics_of_the_user_stay_exact(tmp_path, way):
    """All clients return the same: what is published is that, but where it was rounded."""

    class Same(Books):
        def drifted(self, record, number, partition):
            return super().drifted(record, number, 0)

    def off(roles, store):
        books = Same()
        run = personal(tmp_path / store, books=books, roles=roles, rounds=1, **{way: CODECS["grid"]})
        published = run.registry.load(run.digest)
        returned = books.returned[0, 1]
        return {name for name in published if not np.allclose(published[name], returned[name], rtol=1e-5, atol=1e-6)}

    rounded = {"fc.weight", "fc.bias", "head.weight"}
    assert off({}, "built-in") >= rounded
    assert off({"fc.*": "statistic", "head.weight": "buffer"}, "exact") == off({}, "again") - rounded
    assert "bn.running_mean" not in off({}, "statistic")
    assert "bn.running_mean" in off({"bn.running_mean": "weight"}, "weight")


def test_where_the_cache_cannot_be_written_the_state_keeps_them(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    books = Books()
    grid = lasting(tmp_path / "cache", books)
    personal(tmp_path / "store", grid=grid)
    np.testing.assert_array_equal(books.given[0, 3]["head.bias"], books.returned[0, 2]["head.bias"])
    assert "keeps its private tensors in memory, until the run ends" in caplog.text


def test_without_private_tensors_nothing_is_kept_or_told(tmp_path):
    grid = FleetGrid(app=Books().app(), size=SIZE)
    run = federate(tmp_path / "store", grid=grid, initial=arrays(), roles={"fc.*": "statistic"})
    assert list(run.registry.load(run.digest)) == NAMES
    held = Held(grid.contexts[grid.node_id(0)])
    assert kept_key(held.private("model")) == ""
    assert [each.private for each in held.references()] == [""]


def test_a_server_that_allows_plain_replies_gets_no_private_tensors_by_that(tmp_path):
    """No server of ours says so of a model with private tensors, but clients are not to rely on that."""
    secret = np.arange(7, dtype=np.float32) + 1000
    app = ClientApp(mods=[versioned_mod])

    @app.train()
    def train(message, context):
        content = {"arrays": ArrayRecord({"head": Array(secret)}), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    def allow(message):
        if message.content["flserve"]["action"] == "deliver":
            message.content["flserve"]["allows"] = ["plain"]
        return message

    # An identity so long that an answer takes more than the arrays.
    grid = FleetGrid(app=app, size=1, partitioned=False, node_config={"partition-id": "p" * 110})
    wire = Wire(grid)
    grid.down.append(allow)
    initial = ArrayRecord({"w": Array(np.zeros(2, np.float32)), "head": Array(np.zeros(7, np.float32))})
    with pytest.raises(AggregateError, match="lacks tensor 'w'"):
        personal(tmp_path / "s", grid=grid, inner=fedavg(1), initial=initial, roles={"head": "private"})
    assert not wire.has(secret)
    assert "head" not in wire.names
