import time

import pytest

from flserve_app.errors import DeliveryError
from flserve_app.registry import Registry
from flserve_app.strategy import count_nodes, nodes
from flserve_app.strategy.grid import VersionedGrid
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.nodes import wait_for_nodes
from flserve_app.strategy.publisher import Publisher
from tests.apps import numpy_app
from tests.fleet import FleetGrid


class Arriving(FleetGrid):
    """A fleet whose nodes come one after the other, one a look."""

    def get_node_ids(self):
        self.looks = getattr(self, "looks", 0) + 1
        return list(super().get_node_ids())[: self.looks]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(nodes, "STILL_SECONDS", 0.05)
    monkeypatch.setattr(nodes, "SETTLE_SECONDS", 0.1)


@pytest.fixture
def versioned(tmp_path):
    with Registry.open(tmp_path / "s") as registry:
        yield lambda grid: VersionedGrid(grid, Publisher(registry, "m", "lossless"), Ledger(), "lossless")


def test_the_run_begins_when_all_are_there(versioned):
    grid = Arriving(app=numpy_app(), size=4)
    assert [grid.number(node) for node in wait_for_nodes(versioned(grid), 4, 5.0)] == [0, 1, 2, 3]


def test_nodes_say_themselves_how_many_they_are(versioned):
    grid = Arriving(app=numpy_app(), size=4)
    assert len(wait_for_nodes(versioned(grid), None, 5.0)) == 4
    assert sum(item.way == "down" for item in grid.log) == 4


def test_without_an_expectation_it_goes_on_with_those_that_came(versioned, caplog):
    grid = FleetGrid(app=numpy_app(), size=4)
    grid.hidden.add(grid.node_id(2))
    assert len(wait_for_nodes(versioned(grid), None, 5.0)) == 3
    assert "3 of 4 nodes connected; going on with them" in caplog.text


def test_nodes_that_know_no_number_are_taken_as_they_are(versioned):
    assert len(wait_for_nodes(versioned(FleetGrid(app=numpy_app(), size=2, partitioned=False)), None, 5.0)) == 2


def test_too_few_are_an_error_that_says_how_many(versioned):
    grid = FleetGrid(app=numpy_app(), size=4)
    grid.hidden.update((grid.node_id(2), grid.node_id(3)))
    with pytest.raises(DeliveryError, match="4 clients are expected, 2 connected within 0 s"):
        wait_for_nodes(versioned(grid), 4, 0.05)
    with pytest.raises(DeliveryError, match="1 clients are expected, 0 connected"):
        wait_for_nodes(versioned(FleetGrid(app=numpy_app(), size=0)), None, 0.05)


def test_a_federation_that_is_too_small_is_told_at_once(versioned):
    started = time.monotonic()
    with pytest.raises(
        DeliveryError, match=r"5 clients are expected, the federation has 4: .*num-supernodes=5.*num_clients=4"
    ):
        wait_for_nodes(versioned(FleetGrid(app=numpy_app(), size=4)), 5, 60.0)
    assert time.monotonic() - started < 5


def test_a_node_that_says_it_is_alone_does_not_end_a_run_whose_others_are_on_their_way(versioned):
    grid = Arriving(app=numpy_app(), size=4)
    for context in grid.contexts.values():
        context.node_config["num-partitions"] = 1
    assert len(wait_for_nodes(versioned(grid), 4, 5.0)) == 4


def test_too_few_that_say_so_are_told_how_to_go_on(versioned):
    grid = FleetGrid(app=numpy_app(), size=1)
    with pytest.raises(
        DeliveryError, match=r"3 clients are expected, 1 connected within 0 s, the federation has 1: run"
    ):
        wait_for_nodes(versioned(grid), 3, 0.05)


def test_nodes_are_counted_once_their_number_stands_still():
    assert count_nodes(Arriving(app=numpy_app(), size=4), 5.0) == 4


def test_counting_ends_with_those_that_came_in_time():
    assert count_nodes(FleetGrid(app=numpy_app(), size=3), 0.01) == 3


def test_no_nodes_at_all_are_an_error():
    with pytest.raises(DeliveryError, match="no client connected within 0 s"):
        count_nodes(FleetGrid(app=numpy_app(), size=0), 0.02)


@pytest.mark.parametrize("expected", [3, None])
def test_who_waits_says_so_every_few_seconds(versioned, caplog, monkeypatch, expected):
    monkeypatch.setattr(nodes, "SAY_SECONDS", 0.05)
    grid = FleetGrid(app=numpy_app(), size=1 if expected else 0)
    with caplog.at_level("WARNING", logger="flwr"), pytest.raises(DeliveryError):
        wait_for_nodes(versioned(grid), expected, 0.4) if expected else count_nodes(grid, 0.4)
    said = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert 2 <= len(said) <= 8
    assert set(said) == {f"flserve: waiting for clients: {'1 of 3' if expected else '0'} connected"}


def test_nodes_that_are_connected_and_not_ready_yet_are_told_apart(versioned, caplog, monkeypatch):
    class Starting(FleetGrid):
        def pull_messages(self, message_ids):
            return super().pull_messages(message_ids) if time.monotonic() > ready else []

    monkeypatch.setattr(nodes, "SAY_SECONDS", 0.05)
    ready = time.monotonic() + 0.5
    with caplog.at_level("WARNING", logger="flwr"):
        wait_for_nodes(versioned(Starting(app=numpy_app(), size=2)), None, 10.0)
    said = {record.getMessage() for record in caplog.records if "waiting" in record.getMessage()}
    assert said == {"flserve: waiting for clients: 2 connected, 0 ready"}
