"""Leases as runs hold them: for a block, heard of meanwhile, and seen by what the run publishes."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from flserve_app.errors import Conflict, StoreError
from flserve_app.registry import Registry, leases
from tests.registry.samples import drifting


class Clock:
    def __init__(self):
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pair(place, clock):
    """Two registries of one store."""
    with Registry.open(place / "s", clock=clock) as one, Registry.open(place / "s", clock=clock) as other:
        yield one, other


def steal(registry, model="m"):
    with registry.database.write() as connection:
        connection.exec_driver_sql("UPDATE leases SET place = 'elsewhere', heard = '2020-01-01T00:00:00.000000+00:00'")
    return registry.leases.hold(model)


@pytest.mark.parametrize("run", [None, "r"])
@pytest.mark.parametrize("same", [True, False])
def test_a_second_run_is_refused_whichever_registry_it_has(pair, same, run):
    one, other = pair
    with one.leases.hold("m", run):
        rival = one if same else other
        with pytest.raises(Conflict, match="'m' is being trained by"), rival.leases.hold("m", "another"):
            pass
        with pytest.raises(Conflict, match="'m' is being trained by"), other.leases.hold("m", run):
            pass
        with other.leases.hold("n"):
            pass
    with other.leases.hold("m"):
        pass


def test_a_run_may_hold_its_lease_again_within(pair):
    one, other = pair
    with one.leases.hold("m", "r"):
        token = one.leases.token("m")
        with one.leases.hold("m", "r"):
            assert one.leases.token("m") == token
        with pytest.raises(Conflict):
            other.leases.check_free("m")
    other.leases.check_free("m")
    assert one.leases.token("m") is None


def test_it_is_given_back_however_the_run_ends(pair):
    one, other = pair
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), one.leases.hold("m"):
            raise error
        other.leases.check_free("m")
    assert not [thread for thread in threading.enumerate() if thread.name == "flserve-lease"]


def test_its_holder_is_heard_of_all_the_time(pair, clock, monkeypatch):
    monkeypatch.setattr(leases, "HEARD_SECONDS", 0.01)
    one, other = pair
    with one.leases.hold("m"):
        clock.now += timedelta(hours=1)
        deadline = time.monotonic() + 10
        heard = "SELECT heard FROM leases"
        while time.monotonic() < deadline:
            with other.database.read() as connection:
                if connection.exec_driver_sql(heard).scalar().startswith("2026-01-01T01:00"):
                    return
            time.sleep(0.01)
    pytest.fail("it was not heard of")


def test_a_run_that_was_taken_for_dead_publishes_nothing(pair):
    one, other = pair
    artifacts = drifting(3)
    with one.leases.hold("m"):
        one.publish("m", artifacts[0], round=0, codec="full")
        with steal(other):
            with pytest.raises(Conflict, match="not this run's any more"):
                one.publish("m", artifacts[1], parent=0, round=1, codec="full")
            with pytest.raises(Conflict, match="not this run's any more"):
                one.add_metrics("m", 0, {"accuracy": 0.5})
            other.publish("m", artifacts[2], parent=0, round=1, codec="full")
            assert [version.digest for version in one.versions("m")] == [artifacts[0].digest, artifacts[2].digest]
        other.leases.check_free("m")


def test_the_first_version_of_a_run_is_the_models_first(pair):
    one, other = pair
    artifacts = drifting(2)
    with one.leases.hold("m"):
        other.publish("m", artifacts[0], round=0, codec="full")  # no run: a bundle that was imported
        with pytest.raises(Conflict, match="was new when the run began, and is in the store now"):
            one.publish("m", artifacts[1], round=0, codec="full")
        one.publish("m", artifacts[1], parent=0, round=1, codec="full")


def test_metrics_that_are_to_be_kept_stay_and_new_ones_come(pair):
    one, _ = pair
    one.publish("m", drifting(1)[0], round=0, codec="full", metrics={"accuracy": 0.5})
    assert one.add_metrics("m", 0, {"accuracy": 0.1, "loss": 2.0}, keep=True).metrics == {"accuracy": 0.5, "loss": 2.0}
    assert one.add_metrics("m", 0, {"accuracy": 0.1}).metrics == {"accuracy": 0.1, "loss": 2.0}


def test_a_store_that_cannot_be_written_any_more_does_not_hide_why_a_run_ended(pair):
    one, other = pair

    def fail():
        one.database.write = full
        raise ValueError("the reason")

    def full():
        raise StoreError("disk full")

    with pytest.raises(ValueError, match="the reason"), one.leases.hold("m"):
        fail()
    other.leases.check_free("m")  # it is this process's, which holds it no more


def test_a_lease_whose_heartbeat_cannot_be_started_is_given_back(pair, monkeypatch):
    one, other = pair

    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", start)
    with pytest.raises(RuntimeError, match="new thread"), one.leases.hold("m"):
        pytest.fail("it is not held")
    other.leases.check_free("m")
