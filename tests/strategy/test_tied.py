"""Models with tied weights: on the wire once, as in plain Flower, in the same bits."""

import functools

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from flserve_app.client.carried import PAYLOAD
from flserve_app.client.records import to_artifact
from flserve_app.codec import CODECS, inspect
from flserve_app.codec.ties import ties_of
from tests.apps import numpy_app
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow

SIZE = 4


class Toy(torch.nn.Module):
    """An embedding that is the head as well, as GPT-2's, BERT's and T5's is."""

    def __init__(self, copies=1):
        super().__init__()
        self.wte = torch.nn.Embedding(400, 16)
        self.layer = torch.nn.Linear(16, 16)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(16, 400, bias=False) for _ in range(copies))
        for head in self.heads:
            head.weight = self.wte.weight


@functools.cache
def initial(copies=1):
    torch.manual_seed(0)
    return ArrayRecord(Toy(copies).state_dict())


def carried(record):
    return sum(len(each.deflate()) for each in get_all_nested_objects(record).values())


def train(message, context, server_round):
    """Move tensors as training would: what is tied, by the same."""
    record, partition = message.content["arrays"], context.node_config["partition-id"]
    moved = {}
    for name, array in record.items():
        tied = "wte.weight" if "head" in name else name
        draw = np.random.default_rng([server_round, partition, sum(map(ord, tied))])
        moved[name] = Array((array.numpy() + 1e-3 * draw.normal(size=array.shape)).astype(np.float32))
    content = {"arrays": ArrayRecord(moved), "metrics": MetricRecord({"num-examples": 10 + partition})}
    return Message(RecordDict(content), reply_to=message)


def run(store, codec, copies=1, on_train=train, **options):
    grid = options.pop("grid", None) or FleetGrid(app=numpy_app(on_train=on_train), size=SIZE)
    return federate(store, grid=grid, initial=initial(copies), codec=codec, uplink=codec, rounds=3, **options)


def plain_run(copies=1, on_train=train):
    grid = FleetGrid(app=numpy_app(mods=(), on_train=on_train), size=SIZE)
    grid.reply_order = lambda replies: sorted(replies, key=lambda reply: grid.number(reply.metadata.src_node_id))
    result = fedavg(SIZE).start(grid=grid, initial_arrays=initial(copies), num_rounds=3, timeout=60.0)
    return grid, to_artifact(result.arrays)


def test_the_model_has_its_embedding_under_every_name():
    assert set(ties_of(to_artifact(initial(3)))) == {f"heads.{at}.weight" for at in range(3)}


@pytest.mark.parametrize("copies", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("codec", CODECS)
def test_it_takes_no_more_than_in_plain_flower(tmp_path, codec, copies):
    plain, _ = plain_run(copies)
    ours = run(tmp_path / "s", codec, copies)
    for way in ("down", "up"):
        sent = [each.nbytes for each in ours.grid.log if each.way == way][SIZE:]
        assert all(a <= b for a, b in zip(sent, (each.nbytes for each in plain.log if each.way == way), strict=True))
        assert ours.total(f"bytes_{way}_full") == 3 * SIZE * carried(initial(copies)), "as Flower sends it"
    assert ours.total("failures") == 0
    if codec.startswith("lossless"):
        assert sum(sent) < 0.8 * sum(each.nbytes for each in plain.log if each.way == "up")


@pytest.mark.parametrize("codec", ["full", "lossless", "lossless-small"])
@pytest.mark.parametrize("copies", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_it_ends_as_plain_flower_does_to_the_last_bit(tmp_path, codec, copies):
    assert to_artifact(run(tmp_path / "s", codec, copies).result.arrays).digest == plain_run(copies)[1].digest


@pytest.mark.parametrize("codec", ["grid", "topk"])
def test_rounded_versions_stay_tied(tmp_path, codec):
    ours = run(tmp_path / "s", codec, 2)
    for version in ours.registry.versions("model"):
        assert set(ties_of(ours.registry.load(version.digest))) == {"heads.0.weight", "heads.1.weight"}
    assert ours.total("bytes_up") < 0.3 * ours.total("bytes_up_full")


@pytest.mark.parametrize("codec", CODECS)
def test_one_client_may_untie_them(tmp_path, codec):
    def untie(message, context, server_round):
        reply = train(message, context, server_round)
        if server_round == 2 and context.node_config["partition-id"] == 1:
            values = reply.content["arrays"]["heads.0.weight"].numpy()
            reply.content["arrays"]["heads.0.weight"] = Array(values + np.float32(0.5))
        return reply

    ours = run(tmp_path / "s", codec, on_train=untie)
    assert ours.total("failures") == 0
    assert ties_of(ours.strategy.registry.load(ours.digest)) == {}
    if CODECS[codec].exact:
        assert ours.digest == plain_run(on_train=untie)[1].digest


def of_an_earlier_release(grid, node_ids):
    """Make nodes say and read what those of an earlier release do; return the ops of all that they were sent."""
    ops = []

    def down(message):
        if message.metadata.dst_node_id in node_ids:
            record = message.content.get("flserve", {})
            record.pop("allows", None)
            assert "inline" not in record
            payloads = message.content.get(PAYLOAD, {})
            ops.extend(tensor.op for array in payloads.values() for tensor in inspect(array.data).tensors)
        return message

    def up(message):
        record = message.content.get("flserve", {})
        if message.metadata.src_node_id in node_ids:
            if "takes" in record:
                record["takes"] = [name for name in record["takes"] if name not in ("tied", "inline")]
            sent = message.content.get(PAYLOAD, {})
            assert all(tensor.op != "tied" for array in sent.values() for tensor in inspect(array.data).tensors)
        return message

    grid.down.append(down)
    grid.up.append(up)
    return ops


def coarsely(message, context, server_round):
    """Train in steps so coarse that a payload with two copies takes less than plain Flower with one."""
    reply = train(message, context, server_round)
    record = reply.content["arrays"]
    for name, array in record.items():
        record[name] = Array(np.round(array.numpy() * 1024) / np.float32(1024))
    return reply


def coarse():
    return ArrayRecord({name: Array(np.round(array.numpy() * 4) / np.float32(4)) for name, array in initial().items()})


def of_releases(store, codec, earlier, **options):
    """Run a fleet in which some clients are of an earlier release; return the run and the ops that they got."""
    grid = FleetGrid(app=numpy_app(on_train=coarsely), size=SIZE)
    ops = of_an_earlier_release(grid, {grid.node_id(number) for number in earlier})
    hook = options.pop("hook", lambda grid, row: None)
    ours = federate(
        store, grid=grid, initial=coarse(), codec=codec, uplink=codec, on_row=lambda row: hook(grid, row), **options
    )
    assert ours.total("failures") == 0
    return ours, ops


@pytest.mark.parametrize("codec", CODECS)
def test_clients_of_earlier_releases_are_sent_what_they_can_read(tmp_path, codec):
    ours, ops = of_releases(tmp_path / "s", codec, [0, 1])
    assert "tied" not in ops
    assert "resend" not in ours.plans()
    if codec == "full":
        assert ours.plans() == {"full": 6, "plain": 6}, "two copies are more than plain Flower sends"
        return
    assert set(ops) - {"same", "raw"}
    assert ours.digest == of_releases(tmp_path / "t", codec, [])[0].digest


@pytest.mark.parametrize("codec", ["lossless", "topk"])
def test_one_of_an_earlier_release_that_lost_its_version_is_served_again(tmp_path, codec):
    ours, ops = of_releases(tmp_path / "s", codec, [0], hook=lambda grid, row: grid.forget(0))
    assert ours.plans()["resend"] >= 1, "where a full payload is larger, plain arrays are sent at once"
    assert ops
    assert "tied" not in ops


@pytest.mark.parametrize("codec", ["lossless", "grid"])
def test_one_of_an_earlier_release_that_was_away_catches_up(tmp_path, codec):
    def away(grid, row):
        hide = grid.hidden.add if row.round in (1, 2) else grid.hidden.discard
        hide(grid.node_id(3))

    inner = fedavg(3)
    inner.fraction_train = 1.0
    ours, ops = of_releases(tmp_path / "s", codec, [3], inner=inner, rounds=5, hook=away)
    assert ours.plans().keys() >= {"full", "delta"}
    assert ops
    assert "tied" not in ops
