import pytest
from flwr.app import Message, RecordDict

from flserve_app.errors import StoreError
from flserve_app.strategy.settlements import MOST, Settlements

A, B, C = (letter * 64 for letter in "abc")
STATE = ("strategy-1", b"what it remembers")


def reply():
    return Message(RecordDict(), dst_node_id=1, message_type="train")


@pytest.fixture
def settlements():
    return Settlements(active=True)


def aggregated(settlements, identity, *updates):
    for update in updates:
        taken = reply()
        settlements.took(taken, identity, update)
        settlements.aggregated([taken])


def test_what_was_taken_is_told_once_it_was_aggregated(settlements):
    one, other = reply(), reply()
    settlements.took(one, "x", A)
    settlements.took(other, "y", B)
    assert settlements.untold("x") == ()
    settlements.aggregated([one, reply()])
    assert settlements.untold("x") == (A,)
    assert settlements.untold("y") == ()


def test_a_reply_of_a_round_that_is_over_is_not_aggregated(settlements):
    taken = reply()
    settlements.took(taken, "x", A)
    settlements.enter()
    settlements.aggregated([taken])
    assert settlements.untold("x") == ()


def test_it_is_told_until_it_is_known(settlements):
    aggregated(settlements, "x", A, B)
    assert settlements.untold("x") == settlements.untold("x") == (A, B)
    settlements.told("x", [A])
    assert settlements.untold("x") == (B,)
    settlements.told("x", [C])
    settlements.told("nobody", [B])
    assert settlements.untold("x") == (B,)
    settlements.told("x", [B])
    assert settlements.untold("x") == ()
    assert settlements.attached(STATE) is STATE


def test_who_has_its_identity_after_all_is_told_what_it_was_owed_before(settlements):
    aggregated(settlements, "node-7", A)
    aggregated(settlements, "x", B)
    pending = reply()
    settlements.took(pending, "node-7", C)
    settlements.renamed("node-7", "x")
    settlements.aggregated([pending])
    assert (settlements.untold("x"), settlements.untold("node-7")) == ((B, A, C), ())


def test_a_client_that_never_answers_costs_a_bounded_list(settlements):
    updates = [f"{number:064x}" for number in range(MOST + 3)]
    aggregated(settlements, "x", *updates)
    assert settlements.untold("x") == tuple(updates[-MOST:])


def test_where_nothing_is_kept_nothing_is_noted():
    settlements = Settlements()
    aggregated(settlements, "x", A)
    assert settlements.untold("x") == ()


@pytest.mark.parametrize("state", [None, STATE])
def test_it_is_stored_with_a_version(settlements, state):
    aggregated(settlements, "x", A, B)
    aggregated(settlements, "partition-1", C)
    other = Settlements(active=True)
    assert other.recall(settlements.attached(state), "m v3") == state
    assert (other.untold("x"), other.untold("partition-1")) == ((A, B), (C,))


def test_a_state_without_it_is_the_strategys(settlements):
    assert settlements.recall(STATE, "m v3") is STATE
    assert settlements.recall(None, "m v3") is None


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"x": "abc"}', b'{"x": [1]}', b'{"x": ["ABC"]}', b'{"x": 3}', b"\xff"])
def test_what_is_malformed_is_one_sentence(settlements, data):
    aggregated(settlements, "x", A)
    kind, whole = settlements.attached(STATE)
    start = whole[: 8 + len(STATE[1])]
    with pytest.raises(StoreError, match="the settled updates of m v3 are malformed"):
        Settlements().recall((kind, start + data), "m v3")
    with pytest.raises(StoreError, match="the settled of m v3 is malformed"):
        Settlements().recall((kind, whole[:5]), "m v3")
