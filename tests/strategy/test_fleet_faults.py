"""Clients and disks that fail: what it costs, and the one line that says so."""

import errno
import os

import pytest
from flwr.serverapp.strategy import FedAvg
from sqlalchemy import Engine, event

from flserve_app.client import versioned_mod
from flserve_app.client.wire import RECORD
from flserve_app.errors import DeliveryError, StoreError
from flserve_app.registry import Registry
from flserve_app.strategy.identities import HINT
from flserve_app.strategy.roster import GREETINGS
from tests.apps import numpy_app
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow


def lines(caplog, text):
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def test_of_two_nodes_of_one_identity_the_second_goes_by_its_node_and_that_is_said_once(tmp_path, caplog):
    def run(place, first_id):
        grid = FleetGrid(app=numpy_app(), size=4, first_id=first_id)
        grid.contexts[grid.node_id(3)].node_config["partition-id"] = 1
        grid.hidden.add(grid.node_id(2))  # it joins later: the twins are not named again
        options = {"inner": fedavg(3), "num_clients": None, "wait_seconds": 0.2}
        return federate(tmp_path / place, grid=grid, on_row=lambda row: grid.hidden.clear(), **options)

    one = run("a", 104729)
    assert [row.clients for row in one.rows[2:]] == [4, 4]
    assert one.total("failures") == one.plans().get("resend", 0) == 0
    twins = {one.grid.node_id(1), one.grid.node_id(3)}
    (said,) = lines(caplog, "says it is partition-1")
    second = int(said.split()[2])
    (first,) = twins - {second}
    assert said == (
        f"flserve: node {second} says it is partition-1, which node {first} said first ({HINT}): it is node-{second}"
    )
    assert run("b", 7).digest == one.digest
    assert [holder.identity for holder in one.registry.clients("model")] == [f"partition-{at}" for at in (0, 1, 2)]


def test_a_node_that_leaves_for_good_costs_its_part_of_the_rounds(tmp_path, caplog):
    grid = FleetGrid(app=numpy_app(), size=4)
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    leave = lambda row: row.round == 1 and grid.hidden.add(grid.node_id(0))  # noqa: E731
    run = federate(tmp_path / "s", grid=grid, inner=inner, on_row=leave)
    assert [row.clients for row in run.rows] == [0, 4, 3, 3]
    assert run.total("failures") == 0
    assert not lines(caplog, "did not answer")


def test_a_node_that_dies_unnoticed_costs_one_line_a_round(tmp_path, caplog):
    grid = FleetGrid(app=numpy_app(), size=4)

    def dead(message):
        gone = message.metadata.dst_node_id == grid.node_id(0) and len(grid.log) > 16
        return None if gone else message

    grid.down.append(dead)
    run = federate(tmp_path / "s", grid=grid, rounds=3)
    assert [row.clients for row in run.rows] == [0, 4, 3, 3]
    assert len(lines(caplog, "partition-0 did not answer in time")) == 2


def test_too_few_that_stay_end_the_run_with_one_sentence_and_it_can_be_resumed(tmp_path):
    grid = FleetGrid(app=numpy_app(), size=3)
    leave = lambda row: row.round == 1 and grid.hidden.add(grid.node_id(0))  # noqa: E731
    with pytest.raises(DeliveryError, match=r"round 2 needs more than the 2 clients that are connected: none came"):
        federate(tmp_path / "s", grid=grid, inner=fedavg(3), wait_seconds=0.5, on_row=leave)
    rest = federate(tmp_path / "s", clients=3, resume=True)
    assert rest.digest == federate(tmp_path / "t", clients=3).digest


def test_a_crash_and_a_refusal_are_told_apart(tmp_path, caplog):
    def crash(message, context, server_round):
        if (server_round, context.node_config["partition-id"]) == (2, 0):
            raise MemoryError("no room")

    grid = FleetGrid(app=numpy_app(on_train=crash), size=3)
    run = federate(tmp_path / "s", grid=grid, rounds=2, on_row=lambda row: row.round == 1 and grid.forget(1))
    assert [row.failures for row in run.rows] == [0, 0, 1]
    assert run.rows[2].plans == {"delta": 3, "resend": 1}
    assert run.rows[2].clients == 2
    (failed,) = lines(caplog, "flserve: node")
    assert failed == f"flserve: node {grid.node_id(0)} failed: MemoryError: no room"
    (refused,) = lines(caplog, "is served again in full")
    assert refused.startswith("flserve: partition-1 is served again in full: ")


def test_a_greeting_that_failed_is_tried_again(tmp_path, caplog):
    bad = [1]

    def crash_once(message, context, call_next):
        if RECORD in message.content and message.content[RECORD]["action"] == "hello" and bad:
            bad.pop()
            raise OSError("a bad moment")
        return call_next(message, context)

    apps = [numpy_app(mods=(crash_once, versioned_mod)), numpy_app()]
    grid = FleetGrid(app=lambda number: apps[number == 1], size=2)
    run = federate(tmp_path / "s", grid=grid, inner=fedavg(2), rounds=3)
    assert [row.clients for row in run.rows[1:]] == [2, 2, 2]
    assert [row.plans for row in run.rows[2:]] == [{"delta": 2}] * 2
    assert len(lines(caplog, "gets plain arrays")) == 1


def test_a_stranger_whose_app_cannot_take_greetings_is_left_alone_after_some(tmp_path, caplog):
    grid = FleetGrid(app=numpy_app(mods=()), size=2)
    run = federate(tmp_path / "s", grid=grid, rounds=5)
    assert [row.plans.get("plain", 0) for row in run.rows] == [0, 2, 2, 2, 2, 2]
    greeted = [item for item in grid.log if item.way == "down" and item.kind == "train"]
    assert len(greeted) == 2 * (GREETINGS + 5)
    assert len(lines(caplog, "gets plain arrays")) == 2


def full(place):
    """Return os.replace for a disk that has no room left for files of a folder."""
    replace = os.replace

    def full_replace(source, target, **options):
        if str(target).startswith(str(place)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target, **options)

    return full_replace


def test_a_client_whose_disk_is_full_goes_on_in_memory(tmp_path, monkeypatch, caplog):
    cache = tmp_path / "cache"
    grid = FleetGrid(app=numpy_app(), size=3, node_config={"cache-dir": str(cache)})
    monkeypatch.setattr(os, "replace", full(cache))
    run = federate(tmp_path / "s", grid=grid)
    monkeypatch.undo()
    assert [row.clients for row in run.rows] == [0, 3, 3, 3]
    assert (run.total("failures"), run.plans()) == (0, {"full": 3, "delta": 6})
    assert run.digest == federate(tmp_path / "t", clients=3).digest
    assert len(lines(caplog, "keeps its version in memory, the cache cannot be written")) == 3, "once a client"


def test_a_server_whose_disk_is_full_ends_with_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    store = tmp_path / "s"
    run_full = lambda row: row.round == 2 and monkeypatch.setattr(os, "replace", full(store))  # noqa: E731
    with pytest.raises(StoreError, match="No space left on device") as caught:
        federate(store, on_row=run_full)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    goes_on(tmp_path, store, left=3)


def test_a_catalog_without_room_ends_with_one_sentence_and_loses_nothing(tmp_path):
    store = tmp_path / "s"
    limited = []

    def limit(connection):
        if limited:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    event.listen(Engine, "begin", limit)
    try:
        with pytest.raises(StoreError, match="full") as caught:
            federate(store, rounds=60, on_row=lambda row: row.round == 2 and limited.append(1))
    finally:
        event.remove(Engine, "begin", limit)
    assert "\n" not in str(caught.value)
    with Registry.open(store, create=False) as registry:
        left = len(registry.versions("model"))
    goes_on(tmp_path, store, left=left, rounds=left + 1)


def goes_on(tmp_path, store, *, left, rounds=3):
    with Registry.open(store, create=False) as registry:
        versions = registry.versions("model")
        assert len(versions) == left
        assert all(registry.load(version).digest == version.digest for version in versions)
    rest = federate(store, rounds=rounds, resume=True)
    assert rest.digest == federate(tmp_path / "undisturbed", rounds=rounds).digest


def test_the_store_knows_who_holds_what_after_each_round(tmp_path):
    seen = []
    grid = FleetGrid(app=numpy_app(), size=4)

    def note(row):
        seen.append({holder.identity: holder.round for holder in registry.clients("model")})

    with Registry.open(tmp_path / "s") as registry:
        run = federate(registry, grid=grid, inner=fedavg(4, 2), rounds=4, on_row=note)
        rounds = [max(found.values(), default=0) for found in seen]
        assert rounds == [0, 1, 2, 3, 4]
        versions = registry.versions("model")
        for holder in registry.clients("model"):
            assert holder.digest == versions[holder.number].digest
            assert holder.number == holder.round - 1
        assert run.total("failures") == 0
