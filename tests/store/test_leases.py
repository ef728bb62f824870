from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from flserve_app.errors import Conflict, StoreError
from flserve_app.processes import this_process
from flserve_app.store import Database, Lease, Leases, Runs
from flserve_app.store.leases import SILENT_SECONDS, check_held, is_free

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(seconds=SILENT_SECONDS + 1)


@pytest.fixture
def database(place):
    opened = Database.at(place / "catalog.sqlite")
    yield opened
    opened.close()


def lease(token="a", *, elsewhere=True, heard=NOW, model="m", run=None):
    process = replace(this_process(), place="elsewhere", host="node7") if elsewhere else this_process()
    return Lease(model=model, token=token, run=run, process=process, taken=heard, heard=heard)


@pytest.mark.parametrize(
    ("there", "seconds", "free"),
    [
        (True, 0, False),
        (True, 1e6, False),
        (True, -1e6, False),
        (False, 0, True),
        (None, 0, False),
        (None, SILENT_SECONDS, False),
        (None, -SILENT_SECONDS, False),
        (None, SILENT_SECONDS + 1, True),
        (None, -SILENT_SECONDS - 1, True),
    ],
)
def test_a_lease_is_free_when_its_holder_is_gone_or_was_silent_for_long(there, seconds, free):
    assert is_free(lease(), there=there, now=NOW + timedelta(seconds=seconds)) is free


def test_one_has_it_until_it_gives_it_back(database):
    leases = Leases(database)
    leases.take(lease("a"), mine=())
    leases.take(lease("other", model="n"), mine=())
    with pytest.raises(Conflict, match=r"'m' is being trained by a run \(process \d+ on node7\) if it lives, .* 60 s"):
        leases.take(lease("b"), mine=())
    with pytest.raises(Conflict, match="another model_name"):
        leases.check_free("m", mine=(), now=NOW)
    leases.give_back(lease("a"))
    leases.check_free("m", mine=(), now=NOW)
    leases.check_free("unknown", mine=(), now=NOW)
    leases.take(lease("b"), mine=())


def test_one_of_another_host_that_is_not_heard_of_is_taken_over(database):
    leases = Leases(database)
    leases.take(lease("a"), mine=())
    assert leases.heard(lease("a"), NOW + timedelta(seconds=50))
    with pytest.raises(Conflict):
        leases.take(lease("b", heard=LATER), mine=())
    leases.take(lease("b", heard=LATER + timedelta(seconds=50)), mine=())
    assert not leases.heard(lease("a"), LATER)
    leases.give_back(lease("a"))
    with pytest.raises(Conflict):
        leases.check_free("m", mine=(), now=LATER + timedelta(seconds=50))


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_takes_nothing_from_a_process_that_is_there(database, hours):
    leases = Leases(database)
    leases.take(lease("a", elsewhere=False), mine={"a"})
    with pytest.raises(Conflict, match="is being trained by a run"):
        leases.take(lease("b", elsewhere=False, heard=NOW + timedelta(hours=hours)), mine={"a"})


def test_what_this_process_could_not_give_back_is_free(database):
    leases = Leases(database)
    leases.take(lease("a", elsewhere=False), mine=())
    leases.take(lease("b", elsewhere=False), mine=())


def test_whoever_takes_over_marks_the_run_that_died(database):
    leases, runs = Leases(database), Runs(database)
    runs.start("r1", "m", config={}, started=NOW)
    runs.start("r2", "m", config={}, started=NOW)
    runs.finish("r2", "failed", finished=NOW)
    for token, run in (("a", "r1"), ("b", "r2"), ("c", None)):
        gone = replace(this_process(), begun="1")
        leases.take(replace(lease(token, run=run), process=gone), mine=())
    states = {run.run: (run.state, run.finished) for run in runs.all()}
    assert states == {"r1": ("interrupted", NOW), "r2": ("failed", NOW)}


def test_who_lost_it_may_not_write(database):
    leases = Leases(database)
    leases.take(lease("a"), mine=())
    with database.write() as connection:
        check_held(connection, "m", "a")
    leases.take(lease("b", heard=LATER), mine=())
    with database.write() as connection, pytest.raises(Conflict, match=r"'m' is not this run's any more.*node7"):
        check_held(connection, "m", "a")
    leases.give_back(lease("b"))
    with database.write() as connection, pytest.raises(Conflict, match="nobody has the model now"):
        check_held(connection, "m", "a")


def test_a_name_that_is_not_plain_has_no_lease(database):
    with pytest.raises(StoreError, match="a model's name is 1 to 128 letters"):
        Leases(database).take(lease(model="a\x1b[31m"), mine=())
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM leases")).scalar() == 0
