"""Which nodes owe a reply: asked for each message of a round, however many are late."""

import time

import pytest
from flwr.app import RecordDict

from flserve_app.strategy.late import ROUNDS, LateReplies
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.parcel import Parcel
from flserve_app.strategy.settlements import Settlements


def parcel(node_id):
    fields = {"content": RecordDict(), "message_type": "train", "arrays": "arrays", "group_id": "", "ttl": 1.0}
    return Parcel(node_id=node_id, **fields)


@pytest.fixture
def late():
    return LateReplies(None, Ledger(), None, rule="rebase", settlements=Settlements())


def test_what_a_node_owes_is_known_without_a_look_at_what_others_owe(late):
    for node_id in range(5000):
        for server_round in (3, 1):
            late.expect(f"{node_id}-{server_round}", parcel(node_id), server_round)
    started = time.process_time()
    assert all(late.owes(node_id, 3 + ROUNDS) for node_id in range(5000))
    assert not any(late.owes(node_id, 4 + ROUNDS) for node_id in range(5000))
    assert time.process_time() - started < 0.5


def test_what_is_owed_follows_what_is_expected(late):
    assert not late.owes(7, 1)
    late.expect("a", parcel(7), 1)
    assert late.owes(7, 1 + ROUNDS)
    assert not late.owes(7, 2 + ROUNDS)
    late.expect("b", parcel(7), 2)
    assert late.owes(7, 2 + ROUNDS)
    assert not late.owes(8, 2)


def test_under_drop_nothing_is_owed():
    late = LateReplies(None, Ledger(), None, rule="drop", settlements=Settlements())
    late.expect("a", parcel(7), 1)
    assert not late.owes(7, 1)
