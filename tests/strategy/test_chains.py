"""Clients that were away: they get what they missed, as it is in the history, and end where the server is."""

import random

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg

from flserve_app.client.wire import PAYLOAD, RECORD, payload_array
from flserve_app.codec import inspect
from flserve_app.codec.lossy import lossy_of
from flserve_app.registry import Registry
from flserve_app.strategy.publisher import Publisher
from tests.apps import numpy_app
from tests.fleet import FleetGrid
from tests.strategy import sparse
from tests.strategy.runs import fedavg, federate


def away(tmp_path, rounds, grid, on_row=None, inner=None, **options):
    """Run a fleet of which two nodes are away between the first round and the last."""

    def leave(row):
        if on_row is not None:
            on_row(row)
        both = {grid.node_id(0), grid.node_id(1)}
        (grid.hidden.update if row.round < rounds - 1 else grid.hidden.difference_update)(both)

    def observe(row):
        if row.round >= 1:
            leave(row)

    with Registry.open(tmp_path / "s", keyframe_every=1000) as registry:
        return federate(registry, grid=grid, inner=inner or _whoever(), rounds=rounds, on_row=observe, **options)


def _whoever():
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)


def sparse_fleet(size=4, **options):
    return FleetGrid(app=sparse.app(), size=size, **options)


def test_a_client_that_missed_small_updates_gets_the_chain(tmp_path):
    run = away(tmp_path, 8, sparse_fleet(), initial=sparse.initial())
    assert run.rows[-1].plans == {"chain": 2, "delta": 2}
    assert run.total("failures") == 0
    full = run.rows[1].bytes_down / 4
    assert run.rows[-1].bytes_down < full / 8
    info = run.strategy.cache_info()
    assert info.encodes == 0, "nothing was made that the history had"


def test_a_client_that_missed_ten_dense_updates_gets_one_delta(tmp_path):
    draw = np.random.default_rng(0)
    initial = ArrayRecord({"w": Array(draw.normal(size=(64, 64)).astype(np.float32))})
    run = away(tmp_path, 12, FleetGrid(app=numpy_app(), size=4), initial=initial)
    assert run.rows[-1].plans == {"delta": 4}
    assert run.strategy.cache_info().encodes == 1, "the direct one was made and measured"


def old(message):
    """Answer as a release that knew no chains."""
    if message.has_content() and RECORD in message.content:
        message.content[RECORD].pop("takes", None)
    return message


@pytest.mark.slow
def test_a_client_of_an_older_release_is_never_sent_a_chain(tmp_path):
    grid = sparse_fleet(up=[old])
    run = away(tmp_path, 8, grid, initial=sparse.initial())
    assert run.rows[-1].plans == {"delta": 4}
    assert run.strategy.cache_info().encodes == 1
    assert run.total("failures") == 0


def cut(grid, name, change):
    """Return a fault that changes one payload of the first chain that goes by."""
    done = []

    def fault(message):
        carried = message.content.get(PAYLOAD) if message.has_content() else None
        if carried is not None and len(carried) > 1 and not done:
            done.append(name)
            arrays = dict(carried)
            change(arrays, name)
            message.content[PAYLOAD] = ArrayRecord(arrays)
        return message

    grid.down.append(fault)
    return done


def flip(arrays, name):
    data = bytearray(arrays[name].data)
    data[len(data) // 2] ^= 1
    arrays[name] = payload_array(bytes(data))


def drop(arrays, name):
    del arrays[name]


def repeat(arrays, name):
    arrays[name] = arrays["payload"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return away(tmp_path_factory.mktemp("undisturbed"), 8, sparse_fleet(), initial=sparse.initial())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (flip, "payload.2"),
        pytest.param(flip, "payload", marks=pytest.mark.slow),
        pytest.param(flip, "payload.5", marks=pytest.mark.slow),
        pytest.param(drop, "payload.2", marks=pytest.mark.slow),
        pytest.param(drop, "payload.5", marks=pytest.mark.slow),
        pytest.param(repeat, "payload.5", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_link_costs_a_full_in_the_same_round(tmp_path, undisturbed, name, change):
    grid = sparse_fleet()
    done = cut(grid, name, change)
    run = away(tmp_path, 8, grid, initial=sparse.initial())
    assert done
    assert run.rows[-1].plans == {"chain": 2, "delta": 2, "resend": 1}
    assert run.rows[-1].clients == 4
    assert run.total("failures") == 0
    assert run.digest == undisturbed.digest


@pytest.mark.slow
def test_a_version_lost_in_the_middle_is_gone_around(tmp_path, undisturbed):
    grid = sparse_fleet()

    def lose(row):
        if row.round == 6:
            with Registry.open(tmp_path / "s") as registry:
                version = registry.versions("model")[3]
                (blob,) = [edge.blob for edge in registry.edges(version.digest) if edge.target == version.digest]
            (path,) = [path for path in (tmp_path / "s" / "blobs").rglob("*") if path.name == blob]
            path.unlink()

    run = away(tmp_path, 8, grid, on_row=lose, initial=sparse.initial())
    assert run.total("failures") == run.rows[-1].plans.get("resend", 0) == 0
    assert run.rows[-1].clients == 4
    assert run.digest == undisturbed.digest


@pytest.mark.slow
def test_whoever_misses_rounds_at_random_ends_where_the_server_is(tmp_path):
    """200 rounds of 2 clients of 8; some lose what they hold, and every version that is used is the server's."""
    grid, draw = sparse_fleet(size=8), random.Random(3)

    def forget(row):
        if draw.random() < 0.1:
            grid.forget(draw.randrange(8))

    with Registry.open(tmp_path / "s", keyframe_every=1000) as registry:
        options = {"initial": sparse.initial(), "rounds": 200, "on_row": forget}
        run = federate(registry, grid=grid, inner=fedavg(8, 2), **options)
        versions = registry.versions("model")
        assert len(versions) == 201
        assert run.total("failures") == 0
        for client in run.strategy._grid.fleet.clients.values():
            assert client.held[0] == versions[client.version].digest
        plans = run.plans()
        assert plans["chain"] > 250
        assert plans["resend"] < 40
        plain = federate(tmp_path / "f", codec="full", grid=sparse_fleet(size=8), inner=fedavg(8, 2), **options)
        assert plain.digest == run.digest
        assert run.total("bytes_down") * 8 < plain.total("bytes_down")


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["grid", "topk"])
def test_rounded_versions_reach_whoever_misses_rounds_at_random(tmp_path, codec):
    """As above under a lossy codec, over keyframes: what was missed comes as the steps of all its versions added up."""
    run = missing_at_random(tmp_path / "s", codec)
    assert run.plans()["delta"] > 350
    assert "chain" not in run.plans()
    assert run.strategy.cache_info().encodes > 100
    assert run.total("bytes_down") < run.total("bytes_down_full") / 8


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["grid", "topk"])
def test_rounded_versions_come_as_chains_where_nothing_can_be_made_of_the_base(tmp_path, codec, monkeypatch):
    """Chains of the history stand beside its keyframes."""
    monkeypatch.setattr(Publisher, "_readable", lambda self, digest: False)
    run = missing_at_random(tmp_path / "s", codec)
    assert run.plans()["chain"] > 100
    assert run.total("bytes_down") < run.total("bytes_down_full") / 8


def missing_at_random(store, codec):
    """Run 200 rounds of 2 of 8 clients, who now and then forget all; check what everybody holds in the end.

    Steps are what they are: where they are made finer, payloads are larger.
    """
    grid, draw = FleetGrid(app=numpy_app(), size=8), random.Random(4)

    def forget(row):
        if draw.random() < 0.05:
            grid.forget(draw.randrange(8))

    options = {"initial": sparse.initial(), "rounds": 200, "on_row": forget, "codec": lossy_of(codec, {"least": 0})}
    run = federate(store, grid=grid, inner=fedavg(8, 2), **options)
    versions = run.registry.versions("model")
    assert len(versions) == 201
    assert run.total("failures") == 0
    for client in run.strategy._grid.fleet.clients.values():
        assert client.held[0] == versions[client.version].digest
    assert run.plans()["resend"] < 30
    return run


def test_a_client_of_an_older_release_gets_rounded_versions_by_a_codec_it_knows(tmp_path):
    run = federate(tmp_path / "s", grid=FleetGrid(app=numpy_app(), size=2, up=[old]), codec="topk", rounds=3)
    assert run.total("failures") == run.plans().get("resend", 0) == 0
    sent = [item.payload for item in run.grid.log if item.way == "down" and item.payload is not None]
    assert {inspect(payload).codec for payload in sent} == {"lossless-small"}
