"""Odd answers that no row of the table can be: payloads, several answers, late ones, numbers that a strategy is for."""

import copy
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from flserve_app.artifact import Artifact
from flserve_app.client import versioned_mod
from flserve_app.client.wire import PAYLOAD, payload_array
from flserve_app.codec import encode
from flserve_app.errors import ConfigError
from flserve_app.strategy import VersionedStrategy
from tests.apps import numpy_app, small_arrays
from tests.fleet import FleetGrid
from tests.strategy import hostile
from tests.strategy import test_hostile as table
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow

ODD = 1


def fleet(change, size=4, odd=ODD, mods=(versioned_mod,), kind="train", **options):
    """Return a fleet of which one node's replies go through `change`, on their way up."""

    def fault(message):
        ours = message.has_content() and message.metadata.src_node_id == grid.node_id(odd)
        plain_reply = ours and message.metadata.message_type == kind and "metrics" in message.content
        return (change(message) or message) if plain_reply else message

    grid = FleetGrid(app=numpy_app(mods=mods), size=size, up=[fault], **options)
    return grid


def silent(message):
    message.__dict__.update(_content=None, _error=Error(code=2, reason="silent"))


def digests(run):
    return [row.digest for row in run.rows]


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    return digests(federate(tmp_path_factory.mktemp("w") / "s", grid=fleet(silent), rounds=2))


def payload(data, **answer):
    """Put another payload into an answer, and other fields beside it."""

    def change(message):
        made = data(message.content[PAYLOAD]["payload"].data) if callable(data) else data
        message.content[PAYLOAD] = ArrayRecord({"payload": payload_array(made)})
        message.content["flserve"] = ConfigRecord({**message.content["flserve"], **answer})

    return change


def tensors(count, shape=()):
    return encode(Artifact({f"t{at}": np.zeros(shape, np.float32) for at in range(count)}), None, "full")


def nested(message):
    record = message.content[PAYLOAD]
    message.content[PAYLOAD] = ArrayRecord({**record, "payload.1": record["payload"], "payload.2": record["payload"]})


PAYLOADS = {
    "noise": payload(b"\x00" * 99),
    "nothing": payload(b""),
    "the magic": payload(b"FLSV"),
    "cut off": payload(lambda data: data[:-9]),
    "a bit off": payload(lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:]),
    "of a hundred tensors": payload(tensors(100)),
    "of other tensors": payload(tensors(3, (2,))),
    "of 80 MB of zeros": payload(lambda _: encode(Artifact({"z": np.zeros(20 << 20, np.float32)}), None, "lossless")),
    "under no name": payload(lambda data: data, arrays=""),
    "under the protocol's own name": payload(lambda data: data, arrays="flserve"),
    "under the payload's own name": payload(lambda data: data, arrays=PAYLOAD),
    "in answer to a greeting": payload(lambda data: data, status="hello"),
    "for another base": payload(lambda data: data, base=b"\x01" * 32),
    "three payloads": nested,
    "a status that is none": payload(lambda data: data, status="\x1b[2J"),
    "seconds that are none": payload(lambda data: data, train_s="\x1b[2J"),
    "an old protocol": payload(lambda data: data, protocol=-1),
    "a refusal with escapes": payload(lambda data: data, status="nack", reason=hostile.ESC),
    "complex numbers": payload(
        encode(Artifact({name: each.numpy().astype("c16") for name, each in small_arrays().items()}), None, "full")
    ),
}


@pytest.mark.parametrize("change", PAYLOADS.values(), ids=PAYLOADS)
def test_a_payload_that_is_none_costs_its_client(tmp_path, caplog, without, change):
    run = federate(tmp_path / "s", grid=fleet(change), rounds=2)
    assert digests(run) == without
    assert [row.failures for row in run.rows] == [0, 1, 1]
    said = [record.getMessage() for record in caplog.records if "flserve:" in record.getMessage()]
    assert all(map(str.isprintable, said))


def test_a_payload_under_an_odd_name_is_an_ordinary_update(tmp_path):
    run = federate(tmp_path / "a", grid=fleet(payload(lambda data: data, arrays=hostile.ESC)), rounds=2)
    assert digests(run) == digests(federate(tmp_path / "b", rounds=2))


@pytest.mark.parametrize("count", [1 << 13, pytest.param(1 << 16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mods", [(), (versioned_mod,)])
def test_thousands_of_tensors_cost_the_server_little(tmp_path, monkeypatch, mods, count):
    """It is the server's time that counts here: to make such a reply takes its client long."""
    monkeypatch.setattr("tests.fleet.seen", lambda *_: None)
    many = tensors(count) if mods else b""

    def crowd(message):
        if mods:
            payload(many)(message)
        else:
            nothing = Array(np.zeros(0, np.float32))
            message.content["arrays"] = hostile.record({f"t{at}": nothing for at in range(count)})

    reading = []

    class Timed(FleetGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            reading.append(time.process_time())
            yield from replies
            reading[-1] = time.process_time() - reading[-1]

    plain = fleet(crowd, mods=mods)
    grid = Timed(app=plain.app, size=4, up=plain.up)
    assert federate(tmp_path / "s", grid=grid, rounds=1).rows[1].clients == 3
    assert max(reading) < 1.5


def test_a_second_answer_is_not_counted(tmp_path, caplog):
    """Of two replies to one message the first counts, as the Grid hands them out."""

    def twice(replies):
        return [each for reply in replies for each in (reply, changed(reply))]

    def changed(reply):
        other = copy.deepcopy(reply)
        if other.has_content() and "metrics" in other.content:
            other.content["metrics"] = MetricRecord({"num-examples": 10**6, "loss": 9.0})
        return other

    run = federate(tmp_path / "a", grid=FleetGrid(app=numpy_app(), size=4, reply_order=twice), rounds=2)
    assert digests(run) == digests(federate(tmp_path / "b", rounds=2))
    assert "answers what is not its own to answer" in caplog.text


def test_an_answer_to_what_another_was_sent_is_not_counted(tmp_path, caplog, without):
    def order(replies):
        real = [reply for reply in replies if reply.has_content() and "metrics" in reply.content]
        ours = [reply for reply in real if reply.metadata.src_node_id == grid.node_id(ODD)]
        for reply in ours:
            other = next(each for each in real if each is not reply)
            reply.metadata.__dict__["_reply_to_message_id"] = other.metadata.reply_to_message_id
        return [*ours, *(reply for reply in replies if not any(reply is each for each in ours))]

    grid = FleetGrid(app=numpy_app(), size=4, reply_order=order)
    run = federate(tmp_path / "s", grid=grid, rounds=2)
    assert digests(run) == without
    assert "answers what is not its own to answer" in caplog.text
    assert [row.failures for row in run.rows] == [0, 1, 1]


LATE = [row for row in hostile.TABLE if row.meant is None and row.name != "17 MB more"]


@pytest.mark.parametrize(
    ("late", "every"), [("rebase", 5), *(pytest.param(rule, 1, marks=pytest.mark.slow) for rule in ("rebase", "drop"))]
)
def test_late_replies_of_all_kinds_are_as_if_they_had_never_come(tmp_path, monkeypatch, late, every):
    rows = LATE[::every]
    monkeypatch.setattr("tests.fleet.seen", lambda *_: None)
    monkeypatch.setattr("os.fsync", lambda _: None)

    def answer(phase, partition, number, reply):
        return (rows[number - 1].change(reply) or reply) if partition == 0 else reply

    def held_back(message):
        return int(message.metadata.dst_node_id == grid.node_id(0) and "arrays" in message.content)

    def run(place):
        inner = flower.FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
        initial = ArrayRecord({name: Array(value) for name, value in table.MODEL.items()})
        options = {"inner": inner, "late": late, "rounds": len(rows), "initial": initial, "nonfinite": "leave_out"}
        return federate(tmp_path / place, grid=grid, **options)

    grid = FleetGrid(app=table.app_of(answer, ()), size=3, delay=held_back)
    found = run("found")
    grid = FleetGrid(
        app=table.app_of(answer, ()), size=3, down=[lambda message: None if held_back(message) else message]
    )
    expected = run("expected")
    assert [(row.digest, row.skipped) for row in found.rows] == [(row.digest, "") for row in expected.rows]
    # The last cannot come late any more; what is no reply at all is not looked at.
    assert found.total("dropped_late") + found.total("failures") >= len(rows) - 2


def not_finite(message):
    message.content["arrays"]["fc.bias"] = Array(np.full(24, np.inf, np.float32))


SAMPLING = {"fraction_evaluate": 0.0, "min_train_nodes": 4, "min_available_nodes": 4}
KINDS = {
    "FedAvg": (lambda: fedavg(4), True),
    "FedAdam": (lambda: flower.FedAdam(**SAMPLING), True),
    "FedMedian": (lambda: flower.FedMedian(**SAMPLING), False),
    "FedTrimmedAvg": (lambda: flower.FedTrimmedAvg(**SAMPLING), False),
    "Krum": (lambda: flower.Krum(**SAMPLING), False),
    "MultiKrum": (lambda: flower.MultiKrum(**SAMPLING, num_nodes_to_select=2), False),
    "Bulyan": (lambda: flower.Bulyan(**SAMPLING), False),
    "DP": (lambda: flower.DifferentialPrivacyServerSideFixedClipping(fedavg(4), 0.0, 1.0, 4), False),
    "DP over FedAdam": (
        lambda: flower.DifferentialPrivacyClientSideFixedClipping(flower.FedAdam(**SAMPLING), 0.0, 1.0, 4),
        False,
    ),
}


@pytest.mark.parametrize(("made", "kept"), KINDS.values(), ids=KINDS)
def test_an_update_that_is_not_finite_is_kept_where_flower_keeps_it_and_harms_nothing(tmp_path, made, kept):
    run = federate(tmp_path / "s", grid=fleet(not_finite, mods=()), inner=made(), rounds=1)
    assert run.rows[1].clients == (4 if kept else 3)
    assert np.all(np.isfinite(run.registry.load(run.digest)["fc.weight"]))
    other = federate(
        tmp_path / "t",
        grid=fleet(not_finite, mods=()),
        inner=made(),
        rounds=1,
        nonfinite="leave_out" if kept else "keep",
    )
    assert other.rows[1].clients == (3 if kept else 4)


def test_another_rule_for_them_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nonfinite is 'drop', expected one of: keep, leave_out"):
        VersionedStrategy(store=tmp_path / "s", nonfinite="drop")


def huge(message):
    message.content["arrays"]["fc.weight"] = Array(np.full((16, 24), 3e38, np.float32))


def nearly_nothing(message):
    """An update whose norm is 0 as float32 counts: clipping divides by it."""
    found = small_arrays()["fc.weight"].numpy()
    message.content["arrays"] = ArrayRecord({name: Array(array.numpy()) for name, array in small_arrays().items()})
    message.content["arrays"]["fc.weight"] = Array(np.where(np.arange(24) < 1, np.nextafter(found, np.inf), found))


def weightless(message):
    message.content["metrics"]["num-examples"] = 0


@pytest.mark.parametrize("change", [huge, nearly_nothing, weightless])
@pytest.mark.parametrize("made", [made for made, _ in KINDS.values()], ids=KINDS)
def test_numbers_at_the_edge_of_what_can_be_computed_end_no_run(tmp_path, made, change):
    run = federate(tmp_path / "s", grid=fleet(change, mods=(), odd=0), inner=made(), rounds=2)
    assert [row.skipped for row in run.rows] == [""] * 3


@pytest.mark.parametrize("kind", ["Krum", "MultiKrum"])
def test_a_weight_of_nothing_is_never_the_only_one_that_is_chosen(tmp_path, kind):
    """It is right in the middle of the others, so Krum would choose it, and divide by its weight."""

    def middle(message):
        weightless(message)
        message.content["arrays"] = ArrayRecord(
            {
                name: Array(np.asarray(array.numpy() + (0 if name.startswith("bn") else np.float32(1e-6))))
                for name, array in small_arrays().items()
            }
        )

    inner = getattr(flower, kind)(**SAMPLING)
    run = federate(tmp_path / "s", grid=fleet(middle, mods=()), inner=inner, rounds=2)
    assert [(row.skipped, row.clients) for row in run.rows[1:]] == [("", 3)] * 2


def test_an_evaluation_that_fails_to_be_read_is_not_counted(tmp_path):
    def bomb(message):
        message.content = RecordDict({**message.content, **{f"r{at}": ConfigRecord() for at in range(100)}})

    run = federate(tmp_path / "s", grid=fleet(bomb, kind="evaluate"), inner=fedavg(4, 4, 4), rounds=1)
    assert run.rows[1].failures == 1
    assert run.rows[1].metrics["client_total"] > 0


@pytest.mark.parametrize("name", ["A" * 100, "A" * 101, "A" * 195, "A" * 201, "A" * 5000, "\x1b[2J", ""])
def test_no_name_of_a_metric_ends_a_run_where_a_strategy_hands_on_what_was_sent(tmp_path, name):
    """The row puts a word before a name: what is plain and short enough alone must be it with the word as well."""

    class HandsOn(flower.FedAvg):
        def aggregate_evaluate(self, server_round, replies):
            return MetricRecord({"accuracy": 0.5, name: 1.0})

        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            return arrays, MetricRecord({**metrics, name: 1.0})

    run = federate(tmp_path / "s", inner=HandsOn(), rounds=2)
    assert [row.version for row in run.rows] == [0, 1, 2]
    assert run.rows[-1].metrics["client_accuracy"] == 0.5
    assert run.registry.latest("model").metrics["client_accuracy"] == 0.5
