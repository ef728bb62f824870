import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.strategy.identities import HINT, Identities, Name, own_name

NOBODY = frozenset


def said(identities, node_id, identity, *connected):
    return identities.said(node_id, identity, lambda: frozenset(connected))


def test_an_identity_is_the_nodes_that_said_it_first():
    identities = Identities()
    assert said(identities, 1, "a", 1, 2) == Name(identity="a")
    assert said(identities, 2, "a", 1, 2) == Name(identity="node-2", why=f"which node 1 said first ({HINT})")
    assert said(identities, 1, "a", 1, 2) == Name(identity="a")


def test_a_node_has_one_identity():
    identities = Identities()
    said(identities, 1, "a")
    for number in range(100):
        assert said(identities, 1, f"x{number}") == Name(identity="a", why="it said it is a before")
    assert said(identities, 2, "x3") == Name(identity="x3"), "what was not heard was not taken"


def test_who_restarts_has_its_identity_again_once_its_old_node_is_gone():
    identities = Identities()
    said(identities, 1, "a")
    assert said(identities, 2, "a", 1, 2).identity == "node-2", "Flower lists the old node for a while"
    assert said(identities, 2, "a", 2) == Name(identity="a")
    assert said(identities, 3, "a", 2, 3).identity == "node-3"
    assert said(identities, 1, "a", 1, 2, 3) == Name(identity="a"), "it was the first"
    assert said(identities, 2, "a", 1, 2, 3).identity == "node-2"


def test_the_name_of_a_node_is_its_own():
    identities = Identities()
    assert said(identities, 7, "node-7") == Name(identity="node-7")
    assert said(identities, 8, "node-7") == Name(identity="node-8", why="which is another node's own name")
    assert said(identities, 9, "node-10").identity == "node-9"
    assert said(identities, 10, "node-10") == Name(identity="node-10")
    assert said(identities, 11, "node-x") == Name(identity="node-x")


@pytest.mark.parametrize("first", ["node-7", "node-8"])
def test_the_name_of_a_node_does_not_bind_who_says_it(first):
    identities = Identities()
    for _ in range(2):
        assert said(identities, 7, first, 7, 8).identity == "node-7"
    assert said(identities, 7, "a", 7, 8) == Name(identity="a")
    assert said(identities, 7, first, 7, 8) == Name(identity="a", why="it said it is a before")
    assert said(identities, 8, "node-8", 7, 8) == Name(identity="node-8")


def test_an_identity_belongs_to_the_key_that_the_operator_registered():
    identities = Identities()
    identities.know({1: b"one", 2: b"two", 3: b"one"})
    assert said(identities, 1, "a").identity == "a"
    assert said(identities, 2, "a", 2).identity == "node-2", "though the first is gone"
    assert said(identities, 3, "a", 1, 2, 3).identity == "a", "though its old node is still listed"
    assert said(identities, 1, "a", 1, 3).identity == "node-1"


def test_who_is_connected_is_asked_for_only_where_two_say_the_same():
    identities = Identities()
    for node_id in range(1000):
        identities.said(node_id, f"partition-{node_id}", lambda: pytest.fail("asked"))


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "node-1", "node-9"])), max_size=30))
def test_no_two_connected_nodes_ever_have_one_identity(words):
    identities, names = Identities(), {}
    for node_id, identity in words:
        names[node_id] = said(identities, node_id, identity, *range(6)).identity
        assert names[node_id] in (identity, own_name(node_id)) or names[node_id] in ("a", "b", "node-1")
    assert len(set(names.values())) == len(names)
