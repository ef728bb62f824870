"""Replies that a Grid cannot take: one node uploads objects that Flower makes no message of."""

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from flserve_app.client import versioned_mod
from flserve_app.strategy.pulls import LOST, Pulls, is_lost
from tests.apps import numpy_app
from tests.fleet import FleetGrid, set_identity
from tests.strategy.runs import fedavg, federate


class SuperLink(FleetGrid):
    """A Grid as Flower's is beside a SuperLink: a pull that raises has taken what it asked for, and it is gone."""

    def __init__(self, *, malformed=lambda reply: False, **fields):
        super().__init__(**fields)
        self.malformed = malformed
        self.down_for_good = False
        self.given = set()
        self.pulls = []

    def pull_messages(self, message_ids):
        if self.down_for_good:
            raise ConnectionError("no SuperLink")
        asked = list(message_ids)
        self.pulls.append(len(asked))
        gone = [name for name in asked if name in self.given]
        ready = list(super().pull_messages(asked))
        self.given.update(reply.metadata.reply_to_message_id for reply in ready)
        if any(map(self.malformed, ready)):
            raise ValueError("Unexpected set of \x1b[2J`children`")
        return [*ready, *(unavailable(name) for name in gone)]


SuperLink.__module__ = "flwr.superlink.grid"  # replies are taken as from a Grid of Flower's own


def unavailable(name):
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_reply_to_message_id"] = name
    return make_message(message.metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, "unavailable"))


def is_update(reply):
    return reply.has_content() and "metrics" in reply.content


def of(number, size, *, greetings=False, train=False, when=lambda: True):
    """Return which replies are malformed: one node's answers to greetings, or its updates."""

    def malformed(reply):
        mine = reply.metadata.src_node_id == FleetGrid.node_id(plain, number)
        return mine and when() and (train if is_update(reply) else greetings)

    plain = FleetGrid(app=numpy_app(), size=size)
    return malformed


def silent(number, size):
    plain = FleetGrid(app=numpy_app(), size=size)

    def fault(message):
        lost = message.metadata.src_node_id == plain.node_id(number) and is_update(message)
        return None if lost else message

    return fault


def digests(run):
    return [row.digest for row in run.rows]


def fleet(malformed=lambda reply: False, size=4, mods=(versioned_mod,), **fields):
    return SuperLink(app=numpy_app(mods=mods), size=size, malformed=malformed, **fields)


@pytest.mark.parametrize("mods", [(versioned_mod,), ()], ids=["mod", "plain"])
@pytest.mark.parametrize(("size", "number"), [(2, 0), (4, 3)])
@pytest.mark.parametrize("what", ["greetings", "train", "both"])
def test_a_reply_that_cannot_be_taken_is_its_nodes_failure_alone(tmp_path, caplog, size, number, what, mods):
    malformed = of(number, size, greetings=what != "train", train=what != "greetings")
    run = federate(tmp_path / "s", grid=fleet(malformed, size, mods), inner=fedavg(size), rounds=3, timeout=20)
    if what == "greetings":
        assert run.rows[-1].clients == size
        return
    grid = FleetGrid(app=numpy_app(mods=mods), size=size, up=[silent(number, size)])
    want = federate(tmp_path / "w", grid=grid, inner=fedavg(size), rounds=3, timeout=20)
    assert digests(run) == digests(want)
    assert [(row.clients, row.failures) for row in run.rows[1:]] == [(size - 1, 1)] * 3
    assert "\x1b" not in caplog.text


def test_once_it_is_known_who_it_was_nobody_else_is_asked_twice(tmp_path):
    grid = fleet(of(1, 4, train=True))
    run = federate(tmp_path / "s", grid=grid, rounds=4, timeout=20)
    # 1 again and again; the others once in round 1.
    assert [row.plans.get("resend", 0) for row in run.rows[1:]] == [3 + 2, 2, 2, 2]


def asked(grid, count=4):
    messages = [
        Message(RecordDict(), dst_node_id=node_id, message_type="train")
        for node_id in list(grid.get_node_ids())[:count]
    ]
    names = grid.push_messages(messages)
    return dict(zip(names, (message.metadata.dst_node_id for message in messages), strict=True))


def test_a_grid_that_failed_itself_is_not_taken_for_a_nodes_failure():
    grid = fleet()
    waiting = asked(grid)
    grid.down_for_good = True
    with pytest.raises(ConnectionError):
        Pulls(grid).pull(waiting)


def test_whoever_lost_a_reply_twice_is_asked_alone_from_then_on():
    turn = [True]
    grid = fleet(of(0, 4, greetings=True, when=lambda: turn[0]))
    pulls = Pulls(grid)
    counts = []
    for bad in (True, False, True, False, True):
        turn[0] = bad
        waiting = asked(grid)
        found = pulls.pull(waiting)
        assert {reply.metadata.reply_to_message_id for reply in found} == set(waiting)
        assert len(found) == len(waiting)
        lost = [reply for reply in found if is_lost(reply)]
        assert {reply.error.code for reply in lost} <= {LOST}
        counts.append(len(lost))
    assert counts == [4, 0, 4, 0, 1]
    assert [reply.metadata.src_node_id for reply in lost] == [grid.node_id(0)]


def test_what_has_not_come_is_waited_for(tmp_path):
    grid = fleet(of(0, 4, greetings=True))
    first, later = asked(grid, 2), {"never": 99}
    pulls = Pulls(grid)
    assert len(pulls.pull({**first, **later})) == 2
    assert pulls.pull(later) == []


class Runtime:
    """What Flower's Grid asks of a SuperLink: replies, and their objects as they were uploaded."""

    def __init__(self, replies, spoiled):
        self.replies, self.objects, self.trees = {}, {}, {}
        for reply in replies:
            name = reply.object_id
            objects = {key: each.deflate() for key, each in get_all_nested_objects(reply).items()}
            if reply.metadata.src_node_id == spoiled:
                name, objects = with_other_body(name, objects)
            reply.metadata.__dict__["_message_id"] = name
            self.replies[reply.metadata.reply_to_message_id] = message_to_proto(remove_content_from_message(reply))
            children = [ObjectTree(object_id=key) for key in objects if key != name]
            self.trees[name] = ObjectTree(object_id=name, children=children)
            self.objects |= objects

    def PullMessages(self, request):
        found = [self.replies[name] for name in request.message_ids if name in self.replies]
        trees = [self.trees[each.metadata.message_id] for each in found]
        return PullAppMessagesResponse(messages_list=found, message_object_trees=trees)

    def PullObject(self, request):
        content = self.objects[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request):
        return None


def with_other_body(name, objects):
    """Return a message's objects, of which one is no records: the SuperLink checks their heads and hashes only."""
    (of_records,) = (key for key, content in objects.items() if content.startswith(b"RecordDict"))
    head = objects.pop(of_records).split(b"\0", 1)[0].rsplit(b" ", 1)[0]
    other = head + b" 3\0{{{"
    message = objects.pop(name).replace(of_records.encode(), get_object_id(other).encode())
    for content in (other, message):
        validate_object_content(content)
    made = {get_object_id(content): content for content in (other, message)}
    return get_object_id(message), {**objects, **made}


def test_objects_that_are_no_message_end_no_pull_of_flowers_own_grid():
    set_identity()
    grid = HttpGrid(token="x")
    grid.set_run(Run.create_empty(1))
    replies = []
    for node_id in (1, 2):
        asked_for = Message(RecordDict(), dst_node_id=node_id, message_type="train")
        asked_for.metadata.__dict__["_message_id"] = f"m{node_id}"
        replies.append(Message(RecordDict({"c": ConfigRecord({"node": node_id})}), reply_to=asked_for))
    grid._client = Runtime(replies, spoiled=2)
    good, bad = Pulls(grid).pull({"m1": 1, "m2": 2})
    assert good.content["c"]["node"] == 1
    assert is_lost(bad)
    assert (bad.metadata.src_node_id, bad.metadata.reply_to_message_id) == (2, "m2")
    assert "JSONDecodeError" in bad.error.reason
