import sqlite3
from contextlib import closing

import pytest

from flserve_app.codec import Rounding, encode, encode_rounded, round_to
from flserve_app.registry import Edge, Registry, Retention, collect, verify
from flserve_app.registry.derive import derive_all
from flserve_app.store import DirBlobs
from tests.registry.samples import drifting, unrelated


@pytest.fixture
def store(place):
    """Seven versions of `m` with a keyframe at 0 and 4, a rollback, states, and one version of `other`."""
    artifacts = drifting(7)
    with Registry.open(place / "store", keyframe_every=4) as registry:
        for number, artifact in enumerate([*artifacts, artifacts[5]]):
            parent = number - 1 if number else None
            registry.publish(
                "m", artifact, parent=parent, round=number, codec="full", state=bytes([number]), state_kind="adam"
            )
        registry.publish("other", unrelated(1), round=0, codec="full")
    return place / "store"


def blob_file(store, edge):
    return store / "blobs" / edge.blob[:2] / edge.blob


def edges_of(store):
    with Registry.open(store) as registry:
        return {version.number: registry.chain(version.digest)[-1] for version in registry.versions("m")[:7]}


def check(store, **how):
    with Registry.open(store, create=False) as registry:
        return verify(registry, **how)


def lost(report):
    return [finding.version.number for finding in report.findings if finding.condition == "lost"]


def execute(store, statement, *values):
    with closing(sqlite3.connect(store / "catalog.sqlite")) as connection, connection:
        connection.execute(statement, values)


def test_a_sound_store_is_clean(store):
    report = check(store)
    assert report.clean
    assert [finding.condition for finding in report.findings] == ["good"] * 9
    assert (report.damage, report.problems, report.orphans) == ((), (), ())
    assert report.payloads == 8
    assert report.nbytes == sum(edge.nbytes for edge in edges_of(store).values()) + encoded(unrelated(1))


def encoded(artifact):
    return len(encode(artifact, None, "lossless"))


@pytest.mark.parametrize("gone", [True, False])
def test_a_broken_payload_costs_the_versions_that_need_it(store, gone):
    path = blob_file(store, edges_of(store)[2])
    if gone:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    report = check(store)
    assert not report.clean
    assert lost(report) == [2, 3]
    (damage,) = report.damage
    assert (damage.blob, damage.missing, damage.spare) == (path.name, gone, False)
    reasons = {finding.version.number: finding.reason for finding in report.findings if finding.reason}
    assert path.name in reasons[2]
    assert "which cannot be made" in reasons[3]
    assert not check(store, repair=True).clean
    assert [finding.version.model for finding in check(store, model="other").findings] == ["other"]
    assert check(store, model="other").clean
    assert lost(check(store, model="m")) == [2, 3]


def test_every_byte_that_is_flipped_is_found(place):
    with Registry.open(place / "store") as registry:
        registry.publish("m", unrelated(1, size=8), round=0, codec="full")
        (edge,) = registry.catalog.inventory().edges
        path = blob_file(place / "store", edge)
        sound = path.read_bytes()
        for position in range(len(sound)):
            path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
            assert not verify(registry).clean
        path.write_bytes(sound)
        assert verify(registry).clean


@pytest.fixture
def doubled(store):
    """A second way to version 2, from nothing, and the edge of the first."""
    with Registry.open(store) as registry:
        keyframe = registry.archive.keyframe(drifting(3)[2].digest)
    values = (keyframe.blob, keyframe.target, keyframe.codec, keyframe.nbytes)
    execute(store, "INSERT INTO edges (blob, target, base, codec, nbytes) VALUES (?, ?, NULL, ?, ?)", *values)
    (delta,) = (edge for edge in all_edges(store) if edge.target == keyframe.target and edge.base)
    return store, delta, keyframe


def all_edges(store) -> tuple[Edge, ...]:
    with Registry.open(store) as registry:
        return registry.catalog.inventory().edges


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_a_payload_that_can_be_spared_is_put_back(doubled, which, content):
    path = blob_file(doubled[0], doubled[which])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    report = check(doubled[0])
    assert not report.clean
    assert lost(report) == []
    assert [(one.blob, one.missing, one.spare) for one in report.damage] == [(path.name, content is None, True)]
    with Registry.open(doubled[0]) as registry:
        assert registry.load(drifting(4)[3].digest) == drifting(4)[3]
    repaired = check(doubled[0], repair=True)
    assert repaired.clean
    assert [one.repaired for one in repaired.damage] == [True]
    assert check(doubled[0]).damage == ()


@pytest.mark.parametrize("rounding", [Rounding(kind="topk", share=0.05), Rounding(kind="grid", multiple=1, fine=True)])
def test_a_payload_that_rounding_made_is_put_back(place, rounding):
    first, wanted = drifting(2)
    rounded = round_to(wanted, first, rounding)
    payload = encode_rounded(rounded, first, rounding.kind)
    with Registry.open(place / "store", keyframe_every=1) as registry:
        registry.publish("m", first, round=0, codec=rounding.kind)
        registry.publish("m", rounded.artifact, parent=0, round=1, codec=rounding.kind, delta=payload)
        (delta,) = (edge for edge in registry.catalog.inventory().edges if edge.codec == rounding.kind)
    blob_file(place / "store", delta).unlink()
    report = check(place / "store", repair=True)
    assert [(one.blob, one.repaired) for one in report.damage] == [(delta.blob, True)]
    assert blob_file(place / "store", delta).read_bytes() == payload


def test_what_another_release_encoded_is_not_put_back_as_something_else(doubled):
    store, delta, _ = doubled
    other = DirBlobs(store / "blobs").put(b"made by another release")
    execute(store, "UPDATE edges SET blob = ?, nbytes = 23 WHERE blob = ?", other, delta.blob)
    report = check(store, repair=True)
    assert [(one.spare, one.repaired) for one in report.damage] == [(True, False)]
    assert not report.clean


def test_orphans_are_told_and_no_damage(store):
    orphan = DirBlobs(store / "blobs").put(b"orphan")
    report = check(store)
    assert (report.clean, report.orphans) == (True, (orphan,))


def test_a_damaged_state_is_damage(store):
    with Registry.open(store) as registry:
        state = registry.catalog.inventory().states["m", 7]
    (store / "blobs" / state.blob[:2] / state.blob).unlink()
    report = check(store)
    assert [(one.what, one.missing) for one in report.damage] == [("state of m v7 (adam)", True)]
    assert not report.clean
    assert lost(report) == []


def test_collected_versions_are_no_damage(store):
    with Registry.open(store) as registry:
        collect(registry, Retention(keep=2))
    report = check(store)
    assert report.clean
    assert [one.condition for one in report.findings if one.version.model == "m"][:6] == ["collected"] * 5 + ["good"]


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE versions SET parent = 70 WHERE number = 7", "m v7 has the parent v70, which is no earlier version"),
        ("UPDATE versions SET parent = 6 WHERE number = 6", "m v6 has the parent v6, which is no earlier version"),
        ("UPDATE labels SET number = 70 WHERE model_id = 1", "label 'latest' of 'm' stands at v70, which is not there"),
        ("UPDATE artifacts SET collected = '2026-01-01T00:00:00+00:00'", "stands at v7, whose content was collected"),
        ("UPDATE versions SET run = 'none'", "a row of table 'versions' refers to one of 'runs' that is not there"),
    ],
)
def test_rows_that_do_not_hold_together_are_problems(store, statement, problem):
    execute(store, statement)
    report = check(store)
    assert not report.clean
    assert any(problem in one for one in report.problems), report.problems


def test_content_of_another_size_is_lost(store):
    execute(store, "UPDATE artifacts SET nbytes = nbytes + 1 WHERE digest = ?", drifting(1)[0].digest)
    assert lost(check(store)) == [0]


def test_a_version_no_payload_leads_to_is_lost(store):
    execute(store, "DELETE FROM edges WHERE blob = ?", edges_of(store)[6].blob)
    report = check(store)
    assert [one.reason for one in report.findings if one.condition == "lost"] == ["no payload leads to it"]


@pytest.mark.slow
def test_few_artifacts_are_in_memory_at_a_time(store):
    """A line of versions needs the present one and its base, however long it is."""
    import gc
    import weakref

    alive, most = weakref.WeakSet(), 0
    with Registry.open(store) as registry:
        edges = registry.catalog.inventory().edges
        for done in derive_all(edges, lambda edge: registry.blobs.get(edge.blob)):
            alive.add(done.artifact)
            del done
            gc.collect()
            most = max(most, len(alive))
    assert most <= 2


def test_circles_and_loose_ends_are_walked_once():
    made = drifting(3)
    ends = [(None, 0), (0, 1), (1, 0), (1, 2), (2, 1), (None, 2)]
    payloads = {}
    for base, target in ends:
        source = None if base is None else made[base]
        edge = Edge(
            target=made[target].digest,
            base=None if source is None else source.digest,
            codec="lossless",
            blob=f"{base}>{target}",
            nbytes=1,
        )
        payloads[edge] = encode(made[target], source, "lossless")
    loose = Edge(target=made[0].digest, base="f" * 64, codec="lossless", blob="loose", nbytes=1)
    found = list(derive_all([*payloads, loose], payloads.__getitem__))
    assert sorted(done.edge.blob for done in found) == sorted([*(edge.blob for edge in payloads), "loose"])
    assert [done.edge.blob for done in found if done.artifact is None] == ["loose"]
