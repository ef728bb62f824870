"""The parts of the Grid that whole runs do not show."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.run import Run

from flserve_app.artifact import Artifact
from flserve_app.client.records import to_artifact, to_record
from flserve_app.client.wire import PAYLOAD, RECORD, payload_array
from flserve_app.codec import encode
from flserve_app.registry import Registry
from flserve_app.store import Holder
from flserve_app.strategy.grid import VersionedGrid
from flserve_app.strategy.intake import LARGEST_EXTRA
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.publisher import Publisher
from tests.apps import numpy_app, small_arrays
from tests.fleet import FleetGrid


class Known(FleetGrid):
    """A fleet that knows its run and its nodes' information."""

    def set_run(self, run):
        self.known = run

    @property
    def run(self):
        return self.known

    def get_nodes(self):
        return ["node information"]


@pytest.fixture
def publisher(tmp_path):
    with Registry.open(tmp_path / "s") as registry:
        made = Publisher(registry, "m", "lossless")
        made.publish(to_artifact(small_arrays()), 0)
        yield made


@pytest.fixture
def grid():
    return Known(app=numpy_app(), size=3)


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
def versioned(grid, publisher, ledger):
    return VersionedGrid(grid, publisher, ledger, "lossless")


def to(grid, number, arrays, kind="train", **records):
    from flwr.app import ConfigRecord

    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1}), **records})
    return Message(content, dst_node_id=grid.node_id(number), message_type=kind, ttl=120.0, group_id="7")


def test_what_it_does_not_change_it_passes_on(grid, versioned):
    run = Run.create_empty(run_id=5)
    versioned.set_run(run)
    assert versioned.run is run is grid.known
    assert versioned.get_nodes() == ["node information"]
    message = versioned.create_message(RecordDict(), "query", grid.node_id(0), "g", 30.0)
    assert (message.metadata.message_type, message.metadata.group_id, message.metadata.ttl) == ("query", "g", 30.0)
    plain = to(grid, 0, small_arrays())
    (name,) = versioned.push_messages([plain])
    (reply,) = versioned.pull_messages([name])
    assert RECORD not in reply.content
    assert list(reply.content["arrays"]) == list(small_arrays())


def test_nodes_are_met_when_they_are_asked_for_or_written_to(grid, versioned):
    assert versioned.connected() == sorted(grid.contexts)
    assert grid.log == []
    assert [grid.number(node) for node in versioned.get_node_ids()] == [0, 1, 2]
    versioned.meet(grid.contexts)
    assert len(grid.log) == 6


def test_greeting_and_resends_have_the_time_of_the_phase_together(grid, versioned, publisher):
    def damage(message):
        if PAYLOAD in message.content and len(grid.timeouts) == 1:
            message.content[PAYLOAD] = ArrayRecord({"payload": payload_array(b"x")})
        return message

    grid.down.append(damage)
    list(versioned.send_and_receive([to(grid, 0, publisher.record)], timeout=5.0))
    first, second = grid.timeouts
    assert second < first < 5.0


def test_a_message_keeps_its_type_group_and_lifetime_even_when_sent_again(grid, versioned, publisher):
    sent = []

    def note(message):
        if PAYLOAD in message.content:
            sent.append(message.metadata)
            if len(sent) == 1:
                del message.content[PAYLOAD]
        return message

    grid.down.append(note)
    (reply,) = versioned.send_and_receive([to(grid, 0, publisher.record, "evaluate")], timeout=9.0)
    assert reply.content["metrics"]["num-examples"] == 5
    assert [(data.message_type, data.group_id, data.ttl) for data in sent] == [("evaluate", "7", 120.0)] * 2


def test_replies_come_in_the_order_of_identities_with_errors_last(grid, versioned, publisher):
    def crash(message, context, server_round):
        if context.node_config["partition-id"] == 0:
            raise RuntimeError("boom")

    grid.app = numpy_app(on_train=crash)
    replies = list(versioned.send_and_receive([to(grid, number, publisher.record) for number in (2, 0, 1)]))
    assert [grid.number(reply.metadata.src_node_id) for reply in replies] == [1, 2, 0]
    assert [reply.has_error() for reply in replies] == [False, False, True]


def test_the_content_of_the_strategy_is_not_changed(grid, versioned, publisher):
    shared = RecordDict({"arrays": publisher.record, "config": to(grid, 0, publisher.record).content["config"]})
    messages = [Message(shared, dst_node_id=grid.node_id(number), message_type="train") for number in range(3)]
    list(versioned.send_and_receive(messages))
    assert list(shared) == ["arrays", "config"]
    assert shared["arrays"] is publisher.record


def test_arrays_that_were_never_published_are_delivered_too(grid, versioned, publisher):
    visiting = small_arrays(seed=8)
    replies = list(versioned.send_and_receive([to(grid, number, visiting) for number in range(3)]))
    assert [sorted(reply.content) for reply in replies] == [["arrays", "metrics"]] * 3
    assert all(client.version is None for client in versioned.fleet.clients.values())
    assert {client.held for client in versioned.fleet.clients.values()} == {(to_artifact(visiting).digest,)}
    again = list(versioned.send_and_receive([to(grid, 0, publisher.record)]))
    assert not again[0].has_error()
    assert publisher.number_of(to_artifact(visiting).digest) == -1


def test_a_copy_of_the_published_record_is_the_published_version(publisher):
    assert publisher.artifact_of(to_record(publisher.artifact)) is publisher.artifact
    assert publisher.artifact_of(publisher.record) is publisher.artifact


def test_a_message_without_a_model_goes_as_it_is(grid, versioned):
    message = Message(
        RecordDict({"metrics": MetricRecord({"a": 1})}), dst_node_id=grid.node_id(0), message_type="evaluate"
    )
    (reply,) = versioned.send_and_receive([message])
    assert reply.has_error()
    assert "KeyError" in reply.error.reason


def test_nothing_to_send_is_nothing_to_do(versioned):
    assert list(versioned.send_and_receive([])) == []


def test_an_update_without_a_name_is_refused(grid, versioned, publisher, caplog):
    def unname(message):
        if PAYLOAD in message.content:
            message.content[RECORD].pop("arrays")
        return message

    grid.up.append(unname)
    assert list(versioned.send_and_receive([to(grid, 1, publisher.record)])) == []
    assert (
        "partition-1 is given up after 3 tries: partition-1 sent an update without a name for its arrays" in caplog.text
    )


def test_a_base_that_is_lost_while_the_run_goes_on_is_used_no_more(grid, publisher, ledger, caplog, tmp_path):
    old = to_artifact(small_arrays(seed=1))
    publisher.publish(old, 1)
    versioned = VersionedGrid(grid, publisher, ledger, "lossless")
    list(versioned.send_and_receive([to(grid, number, to_record(old)) for number in range(3)]))
    clients = versioned.fleet.clients.values()
    holders = [Holder(identity=each.identity, digest=old.digest, number=1, round=1) for each in clients]
    publisher.registry.saw_clients("m", holders)
    publisher.publish(to_artifact(small_arrays(seed=2)), 2)
    for blob in (tmp_path / "s" / "blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"")
    fresh = Publisher(Registry.open(tmp_path / "s"), "m", "lossless")
    fresh.adopt(publisher.version, publisher.artifact)
    taken = VersionedGrid(grid, fresh, ledger, "lossless")
    ledger.take()
    replies = list(taken.send_and_receive([to(grid, number, fresh.record) for number in range(3)]))
    assert len(replies) == 3
    assert ledger.take()["plans"] == {"full": 3}
    assert caplog.text.count("is no base any more") >= 1
    assert isinstance(fresh.record, ArrayRecord)


def test_an_update_that_declares_far_more_than_the_model_is_refused(grid, versioned, publisher, caplog):
    bomb = encode(Artifact({"zeros": np.zeros(LARGEST_EXTRA, dtype=np.int16)}), codec="lossless")
    assert len(bomb) < LARGEST_EXTRA // 100

    def swell(message):
        if PAYLOAD in message.content:
            message.content[PAYLOAD] = ArrayRecord({"payload": payload_array(bomb)})
        return message

    grid.up.append(swell)
    assert list(versioned.send_and_receive([to(grid, 1, publisher.record)])) == []
    assert f"payload declares {2 * LARGEST_EXTRA} bytes, at most" in caplog.text


def test_an_update_may_be_wider_than_the_model(grid, versioned, publisher):
    def widen(message, context, server_round):
        record = message.content["arrays"]
        wide = ArrayRecord({name: Array(array.numpy().astype(np.float64)) for name, array in record.items()})
        return Message(RecordDict({"arrays": wide, "extra": MetricRecord({"a": 1})}), reply_to=message)

    grid.app = numpy_app(on_train=widen)
    (reply,) = versioned.send_and_receive([to(grid, 1, publisher.record)])
    assert {array.dtype for array in reply.content["arrays"].values()} == {"float64"}
