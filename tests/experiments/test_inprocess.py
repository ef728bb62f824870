"""The in-process engine has Flower's semantics."""

import time
import weakref

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flserve_app.experiments.inprocess import LARGE_BYTES, InProcessGrid


def counting_app():
    """An app that counts its messages in its context, and fails, stalls or answers nothing when told to."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        order = message.content["config"]["order"]
        count = context.state.get("count", ConfigRecord({"n": 0}))["n"] + 1
        context.state["count"] = ConfigRecord({"n": count})
        message.content["config"]["order"] = "seen"
        if order == "fail":
            raise ValueError("as told")
        if order == "nothing":
            return None
        if order == "stall":
            time.sleep(0.3)
        partition = context.node_config["partition-id"]
        return Message(RecordDict({"m": MetricRecord({"count": count, "partition": partition})}), reply_to=message)

    return app


@pytest.fixture
def grid():
    with InProcessGrid(counting_app(), 3) as running:
        yield running


def order(grid, text, nodes=None):
    content = RecordDict({"config": ConfigRecord({"order": text})})
    nodes = list(grid.get_node_ids()) if nodes is None else nodes
    return [Message(content, dst_node_id=node, message_type="train") for node in nodes]


def test_every_node_answers_with_its_partition_and_keeps_its_context(grid):
    for count in (1, 2):
        replies = list(grid.send_and_receive(order(grid, "count"), timeout=5))
        assert sorted(reply.content["m"]["partition"] for reply in replies) == [0, 1, 2]
        assert {reply.content["m"]["count"] for reply in replies} == {count}


def test_messages_are_copied_on_the_way(grid):
    messages = order(grid, "count")
    list(grid.send_and_receive(messages, timeout=5))
    assert messages[0].content["config"]["order"] == "count"


def test_what_was_large_is_gone_when_it_is_answered():
    app, seen = ClientApp(), []

    @app.train()
    def train(message, context):
        seen.append(weakref.ref(message.content.array_records["arrays"]))
        return Message(RecordDict(), reply_to=message)

    with InProcessGrid(app, 1) as grid:
        array = Array("uint8", (LARGE_BYTES,), "plain", bytes(LARGE_BYTES))
        content = RecordDict({"arrays": ArrayRecord({"a": array})})
        messages = [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
        assert len(list(grid.send_and_receive(messages, timeout=5))) == 1
        deadline = time.monotonic() + 5
        while seen[0]() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert seen[0]() is None


def test_an_exception_is_an_error_reply_and_leaves_the_context_as_it_was(grid):
    node = next(iter(grid.get_node_ids()))
    (failed,) = grid.send_and_receive(order(grid, "fail", [node]), timeout=5)
    assert failed.error.code == 2
    assert "as told" in failed.error.reason
    (reply,) = grid.send_and_receive(order(grid, "count", [node]), timeout=5)
    assert reply.content["m"]["count"] == 1


def test_a_handler_that_returns_no_message_gives_no_reply(grid):
    node = next(iter(grid.get_node_ids()))
    assert list(grid.send_and_receive(order(grid, "nothing", [node]), timeout=0.1)) == []


def test_a_late_reply_can_be_pulled_afterwards_once(grid):
    node = next(iter(grid.get_node_ids()))
    messages = order(grid, "stall", [node])
    assert list(grid.send_and_receive(messages, timeout=0.05)) == []
    time.sleep(0.5)
    name = messages[0].metadata.message_id
    (late,) = grid.pull_messages([name])
    assert late.metadata.reply_to_message_id == name
    assert list(grid.pull_messages([name])) == []


def test_an_unknown_node_is_an_error_reply(grid):
    (reply,) = grid.send_and_receive(order(grid, "count", [12345]), timeout=5)
    assert "there is no node 12345" in reply.error.reason


def test_closing_ends_the_thread_and_drops_what_waits():
    grid = InProcessGrid(counting_app(), 2)
    grid.push_messages(order(grid, "stall") * 5)
    started = time.monotonic()
    grid.close()
    assert time.monotonic() - started < 2
    assert grid.run.run_id > 0
