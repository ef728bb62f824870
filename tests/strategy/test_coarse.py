"""A run whose rounding was too coarse says so in its rows and once in its log, and is followed all the same."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from flserve_app.client.wire import RECORD, Answer, put_answer, take_answer
from flserve_app.codec.finer import Loss
from flserve_app.codec.lossy import Lossy, lossy_of
from flserve_app.strategy.coarse import Coarse
from flserve_app.strategy.row_line import round_line
from tests.apps import numpy_app
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow

SIZE = 4
STEP = 2.0**-7
CODECS = ("grid", "topk")


def initial():
    return ArrayRecord({"w": Array(np.random.RandomState(0).standard_normal((60, 40)).astype("f4"))})


def alike(message, context, server_round):
    """Train as Adam does in a step: all values move about equally far, the same way in every round."""
    w = message.content["arrays"]["w"].numpy()
    random = np.random.RandomState(context.node_config["partition-id"] // SIZE)
    moves = STEP * random.choice([-1, 1], w.shape) * random.uniform(0.9, 1.1, w.shape)
    arrays = ArrayRecord({"w": Array((w + moves).astype("f4"))})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


def run(store, rounds=5, **options):
    grid = FleetGrid(app=numpy_app(on_train=alike), size=SIZE)
    return federate(store, grid=grid, inner=fedavg(SIZE), rounds=rounds, initial=initial(), **options)


def moved(outcome):
    return float(np.linalg.norm(outcome.registry.load(outcome.digest)["w"] - initial()["w"].numpy()))


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.WARNING, "flwr")
    return lambda: [record.getMessage() for record in caplog.records if "too coarse" in record.getMessage()]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("side", "what", "lost"),
    [
        ("codec", "codec is too coarse for the change of 1 of 1 tensors", "lost_down"),
        ("uplink", f"uplink is too coarse for {SIZE} of {SIZE} updates", "lost_up"),
    ],
)
def test_a_model_whose_values_move_alike_moves_and_the_run_says_why(tmp_path, codec, side, what, lost, said):
    plain, found = run(tmp_path / "plain"), run(tmp_path / "s", **{side: codec})
    assert moved(found) > 0.5 * moved(plain)
    assert len(said()) == 1
    assert what in said()[0]
    first = next(row for row in found.rows if row.round == 1)
    assert what in first.coarse
    assert 0 < getattr(first, lost) <= 0.9
    assert round_line(first).endswith("finer steps")
    assert all(not row.coarse and not row.lost_down and not row.lost_up for row in plain.rows)


@pytest.mark.parametrize("codec", CODECS)
def test_both_ways_it_is_followed_as_well(tmp_path, codec):
    plain, found = run(tmp_path / "plain"), run(tmp_path / "s", codec=codec, uplink=codec)
    assert moved(found) > 0.5 * moved(plain)


def test_without_a_guard_it_stays_where_it_is_and_the_row_says_how_much_is_lost(tmp_path, said):
    bare = lossy_of("grid", {"least": 0})
    found = run(tmp_path / "s", codec=bare, uplink="lossless")
    assert moved(found) == 0
    assert not said()
    assert [row.lost_down for row in found.rows if row.round] == [1.0] * 5


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_finer_repeats_and_a_resumed_run_does_the_same(tmp_path, codec):
    def digest(name, **options):
        return run(tmp_path / name, codec=codec, **options).digest

    whole = digest("whole", rounds=4)
    digest("parts", rounds=2)
    assert digest("again", rounds=4) == digest("parts", rounds=4, resume=True) == whole


def test_one_direction_alone_is_told_of(tmp_path, said):
    found = run(tmp_path / "s", codec="lossless", uplink=Lossy(name="grid"))
    assert len(said()) == 1
    assert said()[0].startswith("flserve: uplink")
    assert all(row.lost_down == 0 for row in found.rows)


def test_each_is_said_once_a_run(said):
    coarse = Coarse()
    for _ in range(3):
        coarse.note("down", Loss(lost=0.5, tensors=3, coarse=2, halvings=3))
        assert "2 of 3 tensors" in coarse.take()["coarse"]
    assert len(said()) == 1
    assert "8 times" in said()[0]
    assert coarse.take() == {"coarse": ""}


def test_what_a_client_says_of_its_loss_is_bounded():
    for lost, halvings, read in ((0.25, 3, (0.25, 3)), (7.0, 1 << 40, (1.0, 64)), (float("nan"), -1, (0.0, 0))):
        content = RecordDict()
        put_answer(content, replace(Answer(status="ok", identity="a"), lost=lost, halvings=halvings))
        answer = take_answer(content)
        assert (answer.lost, answer.halvings) == read
    content = RecordDict()
    put_answer(content, Answer(status="ok", identity="a"))
    assert not {"lost", "halvings"} & set(content[RECORD]), "an answer to an exact delivery is what it always was"
