"""What death at any write leaves: all that was committed, and a store on which everything can be done again."""

import shutil
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from flserve_app.registry import Holder, Registry, Retention, collect, export_bundle, import_bundle, verify
from flserve_app.store import DirBlobs
from tests.registry.crashes import at_every_write
from tests.registry.samples import drifting

ARTIFACTS = drifting(8, size=300)
NOW = timedelta(0)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]


def opened(store: Path) -> Registry:
    return Registry.open(store, keyframe_every=4)


def publish(registry, number, *, state=True):
    more = {"state": f"state {number}".encode(), "state_kind": "adam"} if state else {}
    parent = number - 1 if number else None
    return registry.publish("m", ARTIFACTS[number], parent=parent, round=number, codec="lossless", **more)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Six versions with states, labels, clients and an orphan; and a bundle of two more."""
    folder = tmp_path_factory.mktemp("template")
    with opened(folder / "store") as registry:
        for number in range(6):
            publish(registry, number)
        registry.move_label("m", "stable", 1, why="good")
        registry.saw_clients("m", [Holder(identity="a", digest=ARTIFACTS[2].digest, number=2, round=2)])
        registry.blobs.put(b"orphan")
    shutil.copytree(folder / "store", folder / "other")
    with opened(folder / "other") as registry:
        publish(registry, 6, state=False)
        publish(registry, 7, state=False)
        export_bundle(registry, registry.versions("m")[5:], folder / "bundle")
    return folder


@pytest.fixture
def prepare(template, tmp_path):
    numbers = count()

    def copied():
        return shutil.copytree(template / "store", tmp_path / str(next(numbers)))

    return copied


def check_store(store: Path, *, may_lack: frozenset[int] = frozenset()) -> list[int]:
    """Check that everything in the catalog is sound; return the numbers of the versions that have content."""
    with opened(store) as registry:
        report = verify(registry)
        assert report.clean, report
        versions = registry.versions("m")
        assert [version.number for version in versions] == list(range(len(versions)))
        assert registry.labels("m") == {"latest": len(versions) - 1, "stable": 1}
        kept = [version for version in versions if version.collected is None]
        assert [registry.load(version) for version in kept] == [ARTIFACTS[version.number] for version in kept]
        assert set(range(6)) - {version.number for version in kept} <= may_lack
    return [version.number for version in kept]


def check_nothing_is_left_over(store: Path) -> None:
    with opened(store) as registry:
        inventory = registry.catalog.inventory()
        named = {edge.blob for edge in inventory.edges} | {state.blob for state in inventory.states.values()}
        collect(registry, Retention(), grace=NOW, leftover_grace=NOW)
    assert set(DirBlobs(store / "blobs")) == named
    assert list(store.rglob(".tmp-*")) == []


def test_publish(prepare):
    def act(store):
        with opened(store) as registry:
            publish(registry, 6)

    def check(store, lived):
        numbers = check_store(store)
        assert len(numbers) in ((7,) if lived else (6, 7))
        with opened(store) as registry:
            published = len(numbers) == 7
            assert registry.load_state("m", 6) == (("adam", b"state 6") if published else None)
            assert (registry.load_state("m", 3) is None) == published
            if not published:
                assert publish(registry, 6).number == 6
        assert check_store(store) == list(range(7))
        check_nothing_is_left_over(store)

    assert at_every_write(prepare, act, check) > 20


def test_save_state(prepare):
    def act(store):
        with opened(store) as registry:
            registry.save_state("m", 4, b"new", "dp+adam")

    def check(store, lived):
        check_store(store)
        with opened(store) as registry:
            expected = [("dp+adam", b"new")] if lived else [("adam", b"state 4"), ("dp+adam", b"new")]
            assert registry.load_state("m", 4) in expected
        act(store)
        with opened(store) as registry:
            assert registry.load_state("m", 4) == ("dp+adam", b"new")
        check_nothing_is_left_over(store)

    assert at_every_write(prepare, act, check) > 8


def test_collect(prepare):
    def act(store):
        with opened(store) as registry:
            collect(registry, Retention(keep=1), grace=NOW)

    def check(store, lived):
        numbers = check_store(store, may_lack=frozenset({0, 3, 4}))
        assert numbers in ([[1, 2, 5]] if lived else [[1, 2, 5], list(range(6))])
        act(store)
        assert check_store(store, may_lack=frozenset({0, 3, 4})) == [1, 2, 5]
        check_nothing_is_left_over(store)

    assert at_every_write(prepare, act, check) > 20


def test_import(prepare, template):
    def act(store):
        with opened(store) as registry:
            import_bundle(registry, template / "bundle")

    def check(store, lived):
        assert len(check_store(store)) in ((8,) if lived else (6, 8))
        act(store)
        assert check_store(store) == list(range(8))
        check_nothing_is_left_over(store)

    assert at_every_write(prepare, act, check) > 15


def test_saw_clients(prepare):
    seen = [Holder(identity=name, digest=ARTIFACTS[5].digest, number=5, round=5) for name in ("a", "b")]

    def act(store):
        with opened(store) as registry:
            registry.saw_clients("m", seen)

    def check(store, lived):
        check_store(store)
        with opened(store) as registry:
            assert [one.number for one in registry.clients("m")] in ([[5, 5]] if lived else [[2], [5, 5]])

    assert at_every_write(prepare, act, check) >= 3


def test_laying_out_a_store(tmp_path):
    numbers = count()

    def act(store):
        opened(store / "deep" / "store").close()

    def check(store, lived):
        with opened(store / "deep" / "store") as registry:
            publish(registry, 0)
            assert registry.load(registry.versions("m")[0]) == ARTIFACTS[0]
            assert verify(registry).clean

    assert at_every_write(lambda: tmp_path / str(next(numbers)), act, check) > 8


def test_export_leaves_the_old_bundle_or_the_new(prepare, template, tmp_path):
    with opened(prepare()) as registry:
        export_bundle(registry, registry.versions("m"), tmp_path / "whole")
    whole, old = (tmp_path / "whole").read_bytes(), (template / "bundle").read_bytes()

    def act(store):
        with opened(store) as registry:
            export_bundle(registry, registry.versions("m"), store / "bundle")

    def check(store, lived):
        assert (store / "bundle").read_bytes() in ((whole,) if lived else (old, whole))
        check_store(store)

    def prepared():
        store = prepare()
        shutil.copy(template / "bundle", store / "bundle")
        return store

    assert at_every_write(prepared, act, check) >= 4
