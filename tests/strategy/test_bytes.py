"""Every byte that is reported was sent, and nothing is sent twice."""

import pytest

from tests.apps import numpy_app
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate


def of_way(run, way):
    return [item for item in run.grid.log if item.way == way]


@pytest.mark.parametrize("codec", ["full", "lossless", "lossless-small"])
def test_counts_are_the_sums_of_what_went_by(tmp_path, codec):
    run = federate(tmp_path / "s", codec=codec, uplink=codec, inner=fedavg(4, 3, 2))
    for way in ("down", "up"):
        items = of_way(run, way)
        assert run.total(f"bytes_{way}_message") == sum(item.nbytes for item in items)
        assert run.total(f"bytes_{way}") == sum(len(item.payload) for item in items if item.payload is not None)
        assert run.total(f"bytes_{way}") > 0


def test_counts_hold_with_plain_clients_crashes_and_resends(tmp_path):
    def crash(message, context, server_round):
        if server_round == 2 and context.node_config["partition-id"] == 1:
            raise RuntimeError("boom")

    apps = [numpy_app(), numpy_app(on_train=crash), numpy_app(mods=())]
    grid = FleetGrid(app=lambda number: apps[number], size=3)

    run = federate(tmp_path / "s", grid=grid, inner=fedavg(3, 3, 3), on_row=lambda row: grid.forget(0))
    for way in ("down", "up"):
        assert run.total(f"bytes_{way}_message") == sum(item.nbytes for item in of_way(run, way))
    assert run.total("failures") == 1
    assert run.plans()["resend"] == 2


def test_lossless_sends_less_than_full(tmp_path):
    full = federate(tmp_path / "f", codec="full", uplink="full", rounds=4)
    less = federate(tmp_path / "l", rounds=4)
    small = federate(tmp_path / "m", rounds=4, codec="lossless-small", uplink="lossless-small")
    for way in ("bytes_down", "bytes_up", "bytes_down_message", "bytes_up_message"):
        assert less.total(way) < full.total(way)
        assert small.total(way) < full.total(way)
    for way in ("bytes_down_full", "bytes_up_full"):
        assert less.total(way) == full.total(way) == small.total(way)
    assert full.total("bytes_down") < full.total("bytes_down_full") * 1.1


def test_one_more_client_on_a_base_costs_no_encode_and_no_second_copy(tmp_path):
    few = federate(tmp_path / "few", clients=2, rounds=3)
    many = federate(tmp_path / "many", clients=6, rounds=3)
    assert few.strategy.cache_info().encodes == many.strategy.cache_info().encodes == 0
    assert few.strategy.cache_info().reads == many.strategy.cache_info().reads == 3, "the store made them"
    assert many.strategy.cache_info().hits == 15
    sent = [item.object_id for item in of_way(many, "down") if item.payload is not None]
    assert len(sent) == 18
    assert len(set(sent)) == 3


def test_a_client_that_holds_the_target_is_sent_nothing(tmp_path):
    run = federate(tmp_path / "s", inner=fedavg(4, 4, 4), rounds=3)
    assert [row.plans for row in run.rows] == [
        {},
        {"delta": 4, "full": 4},
        {"delta": 4, "none": 4},
        {"delta": 4, "none": 4},
    ]
    carried = [item.payload for item in of_way(run, "down") if item.kind == "train"][4:]
    assert [payload is None for payload in carried] == [False] * 4 + [True] * 8


def test_greetings_count_in_message_bytes_alone(tmp_path):
    row = federate(tmp_path / "s", rounds=0).rows[0]
    assert (row.bytes_down, row.bytes_up, row.plans) == (0, 0, {})
    assert row.bytes_down_message > 0
    assert row.bytes_up_message > 0


def test_phases_are_timed(tmp_path):
    run = federate(tmp_path / "s", rounds=2)
    for phase in ("encode", "decode", "publish", "train", "wait"):
        assert run.total(f"{phase}_seconds") > 0
    assert all(row.seconds >= row.wait_seconds for row in run.rows)
