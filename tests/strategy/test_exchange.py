import secrets
import threading
import time
from uuid import uuid4

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from flserve_app.strategy.exchange import Exchange
from flserve_app.strategy.ledger import Ledger
from tests.fleet import FleetGrid, set_identity


@pytest.fixture
def flower():
    """Flower's own Grid of a simulation, and its nodes, which answer when a test says so."""
    set_identity()
    factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    state = factory.state()
    run = Run.create_empty(1)
    run.primary_task_id, run.federation_id = 1, NOOP_FEDERATION_ID
    state.run_ids[1] = RunRecord(run=run)
    state.task_store[1] = Task(task_id=1, run_id=1)
    nodes = [state.create_node("aid", "account", secrets.token_bytes(32), heartbeat_interval=1e6) for _ in range(3)]
    for node in nodes:
        state.acknowledge_node_heartbeat(node_id=node, heartbeat_interval=1e6)
    grid = InMemoryGrid(factory)
    grid.set_run(run)
    return grid, state, nodes


def ask(nodes):
    content = RecordDict({"config": ConfigRecord({"x": 1})})
    return [Message(content, dst_node_id=node, message_type="train") for node in nodes]


def answer(state, node):
    [asked] = state.get_message_ins(node_id=node, limit=1)
    reply = Message(RecordDict({"config": ConfigRecord({"node": node})}), reply_to=asked)
    reply.metadata.__dict__["_message_id"] = str(uuid4())
    assert state.store_message_res(reply)


def sender(reply):
    return reply.metadata.src_node_id


def test_replies_are_handed_out_as_they_come(flower):
    grid, state, nodes = flower
    ledger = Ledger()
    later = [threading.Timer(0.2 * at, answer, (state, node)) for at, node in enumerate(nodes, 1)]
    started = time.monotonic()
    came = []
    replies = Exchange(grid, ledger).replies(ask(nodes), 30)
    for timer in later:
        timer.start()
    for reply in replies:
        came.append((sender(reply), time.monotonic() - started))
    assert [node for node, _ in came] == nodes
    assert came[0][1] < 0.4 < 0.59 < came[2][1]
    assert 0.4 < ledger.take()["wait_seconds"] < 5


def test_what_comes_too_late_is_not_waited_for(flower):
    grid, state, nodes = flower
    messages = ask(nodes)
    replies = Exchange(grid, Ledger()).replies(messages, 0.3)
    timer = threading.Timer(0.05, answer, (state, nodes[1]))
    timer.start()
    started = time.monotonic()
    assert [sender(reply) for reply in replies] == [nodes[1]]
    assert 0.25 < time.monotonic() - started < 5
    answer(state, nodes[0])
    assert [sender(reply) for reply in grid.pull_messages([messages[0].metadata.message_id])] == [nodes[0]]


def test_slow_reading_costs_no_reply_that_is_there(flower):
    grid, state, nodes = flower
    replies = Exchange(grid, Ledger()).replies(ask(nodes), 0.2)
    threading.Timer(0.02, answer, (state, nodes[0])).start()
    first = next(replies)
    for node in nodes[1:]:
        answer(state, node)
    time.sleep(0.3)
    assert {sender(first), *map(sender, replies)} == set(nodes)


def test_nothing_to_send_is_nothing_to_wait_for(flower):
    assert list(Exchange(flower[0], Ledger()).replies([], None)) == []


def test_another_grid_is_asked_as_flower_asks_it():
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message, _):
        return Message(RecordDict(), reply_to=message)

    grid = FleetGrid(app, 2)
    ledger = Ledger()
    assert len(list(Exchange(grid, ledger).replies(ask(grid.get_node_ids()), 7.0))) == 2
    assert grid.timeouts == [7.0]
    assert ledger.take()["wait_seconds"] > 0
