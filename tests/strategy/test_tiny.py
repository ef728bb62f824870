"""Tiny models: no message with its reply takes more than without flserve."""

import itertools

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flserve_app.client.carried import PAYLOAD
from flserve_app.client.records import to_artifact
from flserve_app.codec import CODECS
from tests.apps import numpy_app
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow

SIZE = 3
GREETING = 512  # bytes, each way


def model(*shapes, dtype="f4"):
    draw = np.random.default_rng(0)
    return ArrayRecord({f"w{at}": Array(draw.normal(size=shape).astype(dtype)) for at, shape in enumerate(shapes)})


MODELS = {
    "one number": ArrayRecord({"w": Array(np.ones((), "f4"))}),
    "three numbers": model(3),
    "logistic": model((3, 4), 3, dtype="f8"),
    "two layers": model(10, 10),
    "a line": model(100),
    "halves": model(700, dtype="f2"),
    "lenet": model((6, 1, 5, 5), 6, (16, 6, 5, 5), 16, (120, 256), 120, (84, 120), 84, (10, 84), 10),
}

FAST = ("three numbers", "logistic", "a line")


def plain_run(initial, rounds, evaluate):
    grid = FleetGrid(app=numpy_app(mods=()), size=SIZE)
    grid._ids = itertools.count(1 + 2 * SIZE)  # those of the greetings: ids of more digits take more bytes
    grid.reply_order = lambda replies: sorted(replies, key=lambda reply: grid.number(reply.metadata.src_node_id))
    result = fedavg(SIZE, SIZE, evaluate).start(grid=grid, initial_arrays=initial, num_rounds=rounds, timeout=60.0)
    return grid, to_artifact(result.arrays)


def of_way(grid, way):
    return [each.nbytes for each in grid.log if each.way == way]


def exchanges(grid):
    """Return the bytes of each message with its reply: an answer to an evaluation takes some of what was saved."""
    return [down + up for down, up in zip(of_way(grid, "down"), of_way(grid, "up"), strict=True)]


@pytest.mark.parametrize("evaluate", [0, SIZE])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_no_exchange_takes_more_than_in_plain_flower(tmp_path, name, codec, evaluate):
    grid, result = plain_run(MODELS[name], 4, evaluate)
    inner = fedavg(SIZE, SIZE, evaluate)
    ours = federate(
        tmp_path / "s", clients=SIZE, initial=MODELS[name], rounds=4, codec=codec, uplink=codec, inner=inner
    )
    for way in ("down", "up"):
        greetings, sent = of_way(ours.grid, way)[:SIZE], of_way(ours.grid, way)[SIZE:]
        assert max(greetings) < GREETING
        assert ours.total(f"bytes_{way}_message") == sum(greetings) + sum(sent)
        assert 0 < ours.total(f"bytes_{way}") <= ours.total(f"bytes_{way}_full")
    more = [GREETING if evaluate and SIZE <= at < 2 * SIZE else 0 for at in range(len(exchanges(grid)))]
    # A handler's first answer is not left out: it tells that there is a mod before it, as its greeting would.
    assert all(a <= b + c for a, b, c in zip(exchanges(ours.grid)[SIZE:], exchanges(grid), more, strict=True))
    assert ours.total("failures") == 0
    if CODECS[codec].exact:
        assert to_artifact(ours.result.arrays).digest == result.digest
    assert ours.rows[-1].client_versions == {"4" if evaluate else "3": SIZE}


def test_it_is_counted_as_it_was_sent(tmp_path):
    """With a rounding to tell, a single number is sent as without flserve; the row says so, and saves nothing."""
    ours = federate(tmp_path / "s", clients=SIZE, initial=MODELS["one number"], codec="topk", uplink="topk")
    assert ours.plans() == {"plain": 3 * SIZE}
    for way in ("down", "up"):
        assert ours.total(f"bytes_{way}") == ours.total(f"bytes_{way}_full")
    assert all(each.payload is None for each in ours.grid.log)


def test_what_is_small_travels_inline_and_is_held(tmp_path):
    ours = federate(tmp_path / "s", clients=SIZE, initial=MODELS["three numbers"], inner=fedavg(SIZE, SIZE, SIZE))
    assert ours.plans()["none"] == 2 * SIZE, "what was evaluated is held"
    assert all(each.payload is None for each in ours.grid.log), "none has a record of its own"
    assert 0 < ours.total("bytes_down") < ours.total("bytes_down_full")


def test_clients_that_read_nothing_inline_get_plain_arrays(tmp_path):
    grid = FleetGrid(app=numpy_app(), size=SIZE)

    def earlier(reply):
        if "flserve" in reply.content and reply.content["flserve"]["status"] == "hello":
            reply.content["flserve"]["takes"] = ["chain", "private", *CODECS]
        return reply

    grid.up.append(earlier)
    ours = federate(tmp_path / "s", grid=grid, initial=MODELS["three numbers"])
    assert ours.plans() == {"plain": 3 * SIZE}
    assert ours.digest == federate(tmp_path / "t", clients=SIZE, initial=MODELS["three numbers"]).digest


def test_one_that_lost_its_version_is_served_again(tmp_path):
    grid = FleetGrid(app=numpy_app(), size=SIZE)
    ours = federate(
        tmp_path / "s",
        grid=grid,
        initial=MODELS["three numbers"],
        inner=fedavg(SIZE, SIZE, SIZE),
        on_row=lambda row: grid.forget(0),
    )
    assert ours.plans()["resend"] == 2
    assert ours.total("failures") == 0


def test_a_larger_model_has_its_payloads_in_a_record_of_their_own(tmp_path):
    ours = federate(tmp_path / "s", clients=SIZE, initial=MODELS["lenet"])
    sent = [each for each in ours.grid.log if each.kind == "train"][2 * SIZE :]
    assert all(each.payload is not None for each in sent)
    assert PAYLOAD == "flserve.payload"
