from datetime import UTC, datetime, timedelta

import pytest

from flserve_app.errors import StoreError
from flserve_app.store import Clients, Database, Holder

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def clients(place):
    database = Database.at(place / "catalog.sqlite")
    yield Clients(database)
    database.close()


def holder(identity, digest=ONE, **changes):
    return Holder(**{"identity": identity, "digest": digest, "number": 0, "round": 1, "seen": NOON, **changes})


def test_clients_come_back_by_identity(clients):
    clients.saw("m", [holder("b", TWO, number=None), holder("a", round=7)], now=NOON)
    clients.saw("other", [holder("c")], now=NOON)
    assert clients.of("m") == (holder("a", round=7), holder("b", TWO, number=None))
    assert clients.of("none") == ()


def test_a_later_sight_replaces_the_one_before(clients):
    clients.saw("m", [holder("a"), holder("b")], now=NOON)
    clients.saw(
        "m", [holder("a", TWO, seen=None), holder("a", TWO, number=5, seen=None)], now=NOON + timedelta(hours=1)
    )
    assert clients.of("m") == (holder("a", TWO, number=5, seen=NOON + timedelta(hours=1)), holder("b"))


def test_nobody_seen_is_fine_and_makes_no_model(clients):
    clients.saw("not plain", [], now=NOON)
    assert clients.of("not plain") == ()


@pytest.mark.parametrize("strange", [holder("a b"), holder("x" * 129), holder(""), holder("ok", "short")])
def test_what_is_not_plain_is_refused_and_nothing_recorded(clients, strange):
    with pytest.raises(StoreError, match="found"):
        clients.saw("m", [holder("fine"), strange], now=NOON)
    assert clients.of("m") == ()


def test_of_too_many_those_unseen_the_longest_go(place):
    database = Database.at(place / "catalog.sqlite")
    clients = Clients(database, most=3)
    clients.saw("other", [holder("z")], now=NOON)
    for minute in range(6):
        clients.saw("m", [holder(f"x{minute}", seen=None)], now=NOON + timedelta(minutes=minute))
    clients.saw("m", [holder("x3", seen=None)], now=NOON + timedelta(minutes=9))
    clients.saw("m", [holder("y", seen=None)], now=NOON + timedelta(minutes=10))
    assert [client.identity for client in clients.of("m")] == ["x3", "x5", "y"]
    assert [client.identity for client in clients.of("other")] == ["z"]
    database.close()


def test_a_large_round_is_one_transaction(clients):
    clients.saw("m", [holder(f"partition-{number}") for number in range(3000)], now=NOON)
    clients.saw("m", [holder(f"partition-{number}", TWO) for number in range(3000)], now=NOON)
    assert {client.digest for client in clients.of("m")} == {TWO}
    assert len(clients.of("m")) == 3000
