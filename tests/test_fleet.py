import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.fleet import BASIC, CHAIN, RECIPE, SHARDS, Client, Fleet, natural


def client(node_id, identity, **fields):
    return Client(node_id=node_id, identity=identity, **fields)


def test_numbers_in_names_sort_by_value():
    names = "partition-10 partition-2 node-9 partition-2b partition- partition-02 10 9 a1b12 a1b3"
    ordered = "9 10 a1b3 a1b12 node-9 partition- partition-2 partition-02 partition-2b partition-10"
    assert sorted(names.split(), key=natural) == ordered.split()


@given(st.lists(st.text()))
def test_any_names_can_be_ordered(names):
    ordered = sorted(names, key=natural)
    assert sorted(ordered) == sorted(names)


@pytest.mark.parametrize("name", ["²", "x²", "٣", "9" * 5000, ""])
def test_no_name_breaks_the_order(name):
    assert sorted([name, "partition-1"], key=natural)


def test_clients_come_in_the_order_of_their_identities_whatever_their_nodes():
    fleet = Fleet().put(client(5, "partition-10"), client(9, "partition-2"), client(1, "partition-1"))
    assert fleet.order([5, 9, 1]) == [1, 9, 5]
    assert fleet.order([9, 5]) == [9, 5]
    assert fleet.order([5, 77, 9, 33]) == [33, 77, 9, 5]
    assert fleet.order([]) == []


def test_a_fleet_never_changes():
    empty = Fleet()
    one = empty.put(client(1, "a"))
    two = one.heard(2, identity="b", held=("d",), version=3, server_round=4)
    again = two.heard(1, identity="a", held=(), version=None, server_round=5)
    assert [len(fleet.clients) for fleet in (empty, one, two, again)] == [0, 1, 2, 2]
    assert two.clients[2] == client(2, "b", held=("d",), version=3, last_round=4)
    assert two.clients[1].last_round == 0
    with pytest.raises(TypeError):
        one.clients[2] = client(2, "b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.clients[1].identity = "c"


def test_a_word_of_a_client_copies_few_of_the_others():
    """A round has a word or two of every client: n of them may not copy n clients each."""

    def copied(size):
        fleet = Fleet().put(*(client(at * 7919 + 3, f"partition-{at}") for at in range(size)))
        heard = fleet.heard(3, identity="partition-0", held=("d",), version=1, server_round=1)
        assert len(heard.clients) == size
        before, after = fleet.clients.shards, heard.clients.shards
        return sum(len(new) for old, new in zip(before, after, strict=True) if old is not new)

    assert copied(10_000) <= 4 * 10_000 // SHARDS


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(-3, 3), st.booleans()), max_size=40))
def test_clients_are_there_or_not_as_in_a_dict(steps):
    fleet, model = Fleet(), {}
    for node_id, there in steps:
        if there:
            fleet, model[node_id] = fleet.put(client(node_id, "a")), client(node_id, "a")
        else:
            fleet = fleet.without(node_id)
            model.pop(node_id, None)
        assert dict(fleet.clients) == model
        assert (len(fleet.clients), node_id in fleet.clients) == (len(model), there)
    assert "a" not in fleet.clients


def test_a_word_of_a_client_replaces_what_was_known():
    fleet = Fleet().put(client(1, "node-1", versioned=False, version=7))
    heard = fleet.heard(1, identity="partition-0", held=("x", "y"), version=None, server_round=2)
    assert heard.get(1) == client(1, "partition-0", held=("x", "y"), version=7, last_round=2)


def test_what_a_client_takes_is_what_it_said_and_what_all_releases_took():
    fleet = Fleet().heard(1, identity="a", held=(), version=None, server_round=1)
    assert fleet.get(1).takes == BASIC
    told = fleet.heard(1, identity="a", held=(), version=None, server_round=1, takes=[CHAIN, RECIPE, "grid"])
    again = told.heard(1, identity="a", held=("x",), version=1, server_round=2)
    assert again.get(1).takes == BASIC | {CHAIN, RECIPE, "grid"}
    assert again.takes_no_more(1, RECIPE).get(1).takes == BASIC | {CHAIN, "grid"}


def test_a_node_nobody_heard_of_holds_nothing():
    assert Fleet().get(4) == client(4, "node-4")
    assert Fleet().put(client(1, "a")).unknown([3, 1, 2]) == [3, 2]


def test_a_node_may_be_forgotten():
    fleet = Fleet().put(client(1, "a"), client(2, "b"))
    assert fleet.without(1).unknown([1, 2]) == [1]
    assert fleet.without(3).unknown([1, 2]) == []
    assert fleet.unknown([1, 2]) == []


def test_clients_by_version_counts_those_that_worked_with_one():
    fleet = Fleet().put(
        client(1, "a", version=10),
        client(2, "b", version=9),
        client(3, "c", version=10),
        client(4, "d"),
        client(5, "e", version=0),
    )
    assert fleet.by_version() == {0: 1, 9: 1, 10: 2}
    assert list(fleet.by_version()) == [0, 9, 10]
    assert Fleet().by_version() == {}
