import os
import time
from datetime import timedelta

import pytest

from flserve_app.errors import CorruptBlob, NotFound
from flserve_app.registry import Holder, Registry, Retention, collect
from flserve_app.registry.retention import MOST_HELD
from flserve_app.store import DirBlobs, Labels
from tests.registry.samples import drifting, unrelated

NOW = timedelta(0)


@pytest.fixture
def now(clock):
    """The clock, well after all files were written."""
    clock.now += timedelta(days=365 * 100)


def publish(registry, artifacts, model="m", **more):
    for number, artifact in enumerate(artifacts):
        parent = number - 1 if number else None
        registry.publish(model, artifact, parent=parent, round=number, codec="lossless", **more)
    return registry.versions(model)


def blobs_of(place):
    return set(DirBlobs(place / "store" / "blobs"))


def content_of(registry, model="m"):
    return [version.number for version in registry.versions(model) if version.collected is None]


def test_the_newest_stay_and_the_others_are_history(place, registry):
    artifacts = drifting(10)
    versions = publish(registry, artifacts)
    done = collect(registry, Retention(keep=3))
    assert [version.number for version in done.versions] == list(range(7))
    assert (done.kept, done.keyframes, done.blobs) == (3, 1, 8)
    assert content_of(registry) == [7, 8, 9]
    assert len(registry.versions("m")) == 10
    with Registry.open(place / "store", create=False) as reopened:
        for number in (7, 8, 9):
            assert reopened.load(versions[number]) == artifacts[number]
        with pytest.raises(NotFound, match=r"m v3 was collected on 2026-11-23: the store keeps no content of it"):
            reopened.load(versions[3])
        with pytest.raises(NotFound, match=f"artifact {artifacts[3].digest} was collected"):
            reopened.load(artifacts[3].digest)
    with pytest.raises(NotFound, match="was collected"):
        registry.load(versions[3])
    named = {edge.blob for number in (7, 8, 9) for edge in registry.chain(artifacts[number].digest)}
    assert blobs_of(place) == named


def test_collecting_twice_is_collecting_once(place, registry):
    publish(registry, drifting(6))
    collect(registry, Retention(keep=2))
    before = blobs_of(place)
    again = collect(registry, Retention(keep=2))
    assert (again.versions, again.keyframes, again.blobs, again.nbytes) == ((), 0, 0, 0)
    assert blobs_of(place) == before


def test_a_rehearsal_says_what_would_go_and_removes_nothing(place, registry):
    publish(registry, drifting(10), state=b"x", state_kind="adam")
    before = blobs_of(place)
    said = collect(registry, Retention(keep=1), dry_run=True)
    assert blobs_of(place) == before
    assert content_of(registry) == list(range(10))
    done = collect(registry, Retention(keep=1))
    assert done == said


def test_labels_and_live_clients_hold_on(registry):
    artifacts = drifting(10)
    publish(registry, artifacts)
    registry.move_label("m", "stable", 2, why="good")
    registry.saw_clients("m", [Holder(identity="a", digest=artifacts[5].digest, number=5, round=5)])
    done = collect(registry, Retention(keep=1))
    assert (content_of(registry), done.keyframes) == ([2, 5, 9], 3)
    assert [registry.load(registry.versions("m")[number]) for number in (2, 5, 9)] == [artifacts[n] for n in (2, 5, 9)]


@pytest.mark.parametrize("keep", [0, 3])
def test_whatever_a_thousand_identities_say_to_hold_the_store_is_no_larger_after(place, registry, now, keep):
    artifacts = drifting(60)
    publish(registry, artifacts)
    said = [Holder(identity=f"x{at}", digest=artifacts[at % 60].digest, number=at % 60, round=1) for at in range(1000)]
    registry.saw_clients("m", said)

    def size():
        return sum(path.stat().st_size for path in (place / "store" / "blobs").rglob("*") if path.is_file())

    before = size()
    for _ in range(3):
        done = collect(registry, Retention(keep=keep))
        assert size() <= before
        before = size()
    assert done.kept <= max(keep, 1) + MOST_HELD
    for number in content_of(registry):
        assert registry.load(registry.versions("m")[number]) == artifacts[number]


def test_clients_unseen_for_long_are_forgotten(registry, clock):
    artifacts = drifting(4)
    publish(registry, artifacts)
    registry.saw_clients("m", [Holder(identity="gone", digest=artifacts[1].digest, number=1, round=1)])
    clock.now += timedelta(days=40)
    registry.saw_clients("m", [Holder(identity="here", digest=artifacts[2].digest, number=2, round=2)])
    assert collect(registry, Retention(keep=1)).clients == (("m", "gone"),)
    assert [client.identity for client in registry.clients("m")] == ["here"]
    assert content_of(registry) == [2, 3]


def test_states_go_with_their_versions(place, registry):
    for number, artifact in enumerate(drifting(4)):
        registry.publish("m", artifact, round=number, codec="full", state=bytes([number]), state_kind="adam")
    collect(registry, Retention(keep=1))
    assert [registry.load_state("m", number) for number in range(4)] == [None, None, None, ("adam", b"\3")]
    assert len(blobs_of(place)) == 2


def test_a_collected_content_can_be_published_again(registry):
    artifacts = drifting(5)
    versions = publish(registry, artifacts)
    collect(registry, Retention(keep=1))
    again = registry.publish("m", artifacts[1], parent=2, round=5, codec="lossless")
    assert again.stored > 0
    assert content_of(registry) == [1, 4, 5]
    assert registry.load(versions[1]) == artifacts[1]


def test_a_label_never_stands_at_nothing(registry):
    publish(registry, drifting(4))
    collect(registry, Retention(keep=1))
    with pytest.raises(NotFound, match="the content of 'm' v1 was collected: label not moved"):
        registry.move_label("m", "stable", 1, why="back")
    assert Labels(registry.database).of("m") == {"latest": 3}


def test_orphans_and_leftovers_go_when_they_are_old(place, registry, now):
    publish(registry, drifting(2))
    before = blobs_of(place)
    folder = place / "store" / "blobs"
    orphan = DirBlobs(folder).put(b"orphan")
    leftover = folder / orphan[:2] / ".tmp-0123"
    leftover.write_bytes(b"half")
    assert (
        collect(registry, Retention(), grace=timedelta(days=36500 * 2), leftover_grace=timedelta(days=36500 * 2)).blobs
        == 0
    )
    assert leftover.exists()
    done = collect(registry, Retention())
    assert (done.blobs, done.nbytes, done.leftovers) == (1, 6, 1)
    assert blobs_of(place) == before
    assert not leftover.exists()


def test_young_blobs_are_left_alone(place):
    """Real clock: files of this minute may be somebody's work."""
    with Registry.open(place / "store") as registry:
        publish(registry, drifting(1))
        folder = place / "store" / "blobs"
        orphan, old = DirBlobs(folder).put(b"orphan"), DirBlobs(folder).put(b"old")
        os.utime(folder / old[:2] / old, (time.time() - 4000,) * 2)
        collect(registry, Retention())
        assert (registry.blobs.has(orphan), registry.blobs.has(old)) == (True, False)


def test_damage_stops_a_collection_before_it_removes_anything(place, registry):
    versions = publish(registry, drifting(4))
    blob = registry.chain(versions[1].digest)[1].blob
    (place / "store" / "blobs" / blob[:2] / blob).write_bytes(b"damaged")
    before = blobs_of(place)
    with Registry.open(place / "store") as reopened, pytest.raises(CorruptBlob):
        collect(reopened, Retention(keep=1))
    assert blobs_of(place) == before
    assert content_of(registry) == [0, 1, 2, 3]


def test_a_chain_in_use_is_replaced_under_a_reader(place, registry):
    """Another process has read the old chain and finds its blobs gone."""
    artifacts = drifting(4)
    versions = publish(registry, artifacts)
    with Registry.open(place / "store") as other:
        stale = other.catalog.edges_behind(versions[3].digest)
        edges_behind = other.catalog.edges_behind
        answers = [stale]
        other.catalog.edges_behind = lambda digest: answers.pop() if answers else edges_behind(digest)
        collect(registry, Retention(keep=1))
        assert other.load(versions[3]) == artifacts[3]


def test_a_publisher_that_was_overtaken_starts_again(place, registry):
    """The parent's content is collected after the delta to it was made."""
    artifacts = drifting(6)
    publish(registry, artifacts[:5])
    collect(registry, Retention(keep=2))
    with Registry.open(place / "store") as other:
        keep = other.archive.keep

        def keep_and_wait(artifact, base, delta):
            edges = keep(artifact, base, delta)
            collect(registry, Retention(keep=1))
            return edges

        other.archive.keep = keep_and_wait
        made = other.publish("m", artifacts[5], parent=3, round=5, codec="lossless")
    assert content_of(registry) == [4, 5]
    with Registry.open(place / "store") as reopened:
        assert reopened.load(made) == artifacts[5]
        assert len(reopened.chain(made.digest)) == 1


def test_the_blob_of_a_publisher_is_swept_before_it_is_named(place, registry):
    publish(registry, drifting(1))
    with Registry.open(place / "store") as other:
        keep, waited = other.archive.keep, []

        def keep_and_wait(artifact, base, delta):
            edges = keep(artifact, base, delta)
            if not waited:
                waited.append(True)
                registry.blobs.delete(edges[0].blob)
            return edges

        other.archive.keep = keep_and_wait
        made = other.publish("m", unrelated(3), round=1, codec="lossless")
    with Registry.open(place / "store") as reopened:
        assert reopened.load(made) == unrelated(3)


def test_a_parent_that_is_collected_while_it_is_looked_at_costs_nothing(place, registry):
    artifacts = drifting(4)
    publish(registry, artifacts[:3])
    with Registry.open(place / "store") as other:
        keep = other.archive.keep

        def wait_and_keep(artifact, base, delta):
            collect(registry, Retention(keep=1))
            return keep(artifact, base, delta)

        other.archive.keep = wait_and_keep
        made = other.publish("m", artifacts[3], parent=1, round=3, codec="lossless")
    with Registry.open(place / "store") as reopened:
        assert reopened.load(made) == artifacts[3]


def test_a_damaged_parent_does_not_stop_the_next_version(place, registry):
    artifacts = drifting(3)
    versions = publish(registry, artifacts[:2])
    blob = registry.chain(versions[1].digest)[1].blob
    (place / "store" / "blobs" / blob[:2] / blob).write_bytes(b"damaged")
    with Registry.open(place / "store") as other:
        made = other.publish("m", artifacts[2], parent=1, round=2, codec="lossless")
    with Registry.open(place / "store") as reopened:
        assert reopened.load(made) == artifacts[2]
        assert len(reopened.chain(made.digest)) == 1
