"""A blob is named only when it is seen to be there, and removed only when nothing names it."""

from datetime import UTC, datetime

import pytest

from flserve_app.errors import NotFound, Overtaken
from flserve_app.store import Catalog, Database, Draft, Edge, MemoryBlobs, State, States, Sweeper

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def blobs():
    return MemoryBlobs()


@pytest.fixture
def database(place):
    opened = Database.at(place / "catalog.sqlite")
    yield opened
    opened.close()


def publish(database, blobs, edge, state=None):
    draft = Draft(
        model="m",
        digest=edge.target,
        nbytes=8,
        parent=None,
        round=0,
        run=None,
        codec="lossless",
        metrics={},
        created=NOON,
        serving=None,
    )
    return Catalog(database, holds=blobs.has).publish(draft, edge, state)


def edge(blob: str, target: int = 1, base: int | None = None) -> Edge:
    ends = [None if one is None else f"{one:064x}" for one in (target, base)]
    return Edge(target=ends[0], base=ends[1], codec="lossless", blob=blob, nbytes=4)


def test_a_payload_that_is_gone_is_not_named(database, blobs):
    blob = blobs.put(b"blob")
    blobs.delete(blob)
    with pytest.raises(Overtaken, match=f"blob {blob} was removed before it was named"):
        publish(database, blobs, edge(blob))
    assert Catalog(database, holds=blobs.has).models() == ()


def test_a_state_that_is_gone_takes_its_version_with_it(database, blobs):
    state = State(kind="adam", blob="0" * 64, nbytes=4)
    with pytest.raises(Overtaken):
        publish(database, blobs, edge(blobs.put(b"blob")), state)
    assert Catalog(database, holds=blobs.has).models() == ()
    publish(database, blobs, edge(blobs.put(b"blob")))
    with pytest.raises(Overtaken):
        States(database, holds=blobs.has).save("m", 0, state)


def test_a_base_that_was_never_there_is_not_found(database, blobs):
    with pytest.raises(NotFound, match="is not in the store"):
        publish(database, blobs, edge(blobs.put(b"blob"), 2, base=1))


def test_a_sweep_removes_what_nothing_names(database, blobs):
    named, state, orphan = (blobs.put(data) for data in (b"named", b"state", b"orphan"))
    publish(database, blobs, edge(named), State(kind="adam", blob=state, nbytes=5))
    assert Sweeper(database, blobs).sweep([named, state, orphan]) == (orphan,)
    assert set(blobs) == {named, state}
    assert Sweeper(database, blobs).sweep([]) == ()


def test_a_large_sweep_goes_in_batches(database, blobs):
    orphans = [blobs.put(str(number).encode()) for number in range(1200)]
    assert Sweeper(database, blobs).sweep(orphans) == tuple(sorted(orphans))
    assert list(blobs) == []
