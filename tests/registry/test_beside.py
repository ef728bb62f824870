"""Whatever a publisher and a collection do between any two reads of ours, a sound store is sound and read."""

import shutil
from datetime import timedelta
from itertools import count, islice

import pytest

from flserve_app.errors import NotFound
from flserve_app.registry import Registry, Retention, collect, export_bundle, import_bundle, verify
from flserve_app.registry.named import load_named
from tests.registry.beside import Beside
from tests.registry.samples import drifting

pytestmark = pytest.mark.slow

NOW = timedelta(0)
ARTIFACTS = drifting(40, size=60)


def publish(registry, number, *, state=True):
    more = {"state": f"state {number}".encode(), "state_kind": "adam"} if state else {}
    parent = None if (latest := registry.latest("m")) is None else latest.number
    return registry.publish("m", ARTIFACTS[number], parent=parent, round=number, codec="lossless", **more)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template") / "store"
    with Registry.open(folder, keyframe_every=4) as registry:
        for number in range(9):
            publish(registry, number)
        registry.move_label("m", "stable", 2, why="good")
    return folder


@pytest.fixture
def copies(template, tmp_path):
    numbers = count()
    return lambda: shutil.copytree(template, tmp_path / str(next(numbers)))


def goes_on(other, turns=4):
    """A run that publishes a few rounds: it forgets the states of the versions before."""

    def act():
        for _ in range(turns):
            publish(other, other.latest("m").number + 1)

    return act


def collects(other):
    return lambda: collect(other, Retention(keep=1), grace=NOW)


def both(other):
    def act():
        goes_on(other, 1)()
        collects(other)()

    return act


ACTS = {"goes on": goes_on, "collects": collects, "both": both}


def at_every_read(copies, act, check, step=1):
    """Let something happen at the first, second, ... read of what `check` does; return how many there are."""
    for at in count(0, step):
        store = copies()
        with Registry.open(store, keyframe_every=4, recent_bytes=0) as registry, Registry.open(store) as other:
            registry.blobs = beside = Beside(registry.blobs, ACTS[act](other), at)
            registry.archive._blobs = registry._memory._blobs = beside
            check(registry)
            if beside.reads <= at:
                return at
    raise AssertionError


@pytest.mark.parametrize("act", ACTS)
def test_a_sound_store_is_sound_whatever_happens_during_the_check(copies, act):
    def check(registry):
        report = verify(registry)
        assert report.clean, report
        assert (report.damage, report.problems) == ((), ())
        assert len(report.findings) == 9

    assert at_every_read(copies, act, check) >= 12


def test_a_store_that_never_rests_is_sound(copies):
    """Something happens before every single read."""
    store = copies()
    with Registry.open(store, recent_bytes=0) as registry, Registry.open(store) as other:
        numbers = iter(range(9, 40))

        def act():
            if (number := next(numbers, None)) is not None:
                publish(other, number)
                collect(other, Retention(keep=1), grace=NOW)

        registry.blobs = Beside(registry.blobs, act)
        report = verify(registry)
        assert report.clean, report


@pytest.mark.parametrize("at", [0, 3, 7, None])
@pytest.mark.parametrize("gone", [True, False])
def test_damage_is_damage_whatever_happens_during_the_check(copies, gone, at):
    """A payload that something stays named by is missed."""
    store = copies()
    with Registry.open(store, recent_bytes=0) as registry, Registry.open(store) as other:
        blob = registry.chain(registry.resolve("m", "stable").digest)[0].blob
        path = store / "blobs" / blob[:2] / blob
        path.unlink() if gone else path.write_bytes(b"other")
        numbers = iter(range(9, 20))
        registry.blobs = Beside(registry.blobs, lambda: [publish(other, number) for number in islice(numbers, 1)], at)
        report = verify(registry)
    assert [one.version.number for one in report.findings if one.condition == "lost"] == [0, 1, 2, 3]
    assert [(one.blob, one.missing) for one in report.damage] == [(blob, gone)]


@pytest.mark.parametrize("gone", [True, False])
def test_a_state_that_is_damaged_is_reported_once_and_one_that_was_let_go_is_not(copies, gone):
    store = copies()
    with Registry.open(store) as registry, Registry.open(store) as other:
        states = registry.catalog.inventory().states
        for number in (7, 8):
            path = store / "blobs" / states["m", number].blob[:2] / states["m", number].blob
            path.unlink() if gone else path.write_bytes(b"other")
        registry.blobs = Beside(registry.blobs, goes_on(other, 2), 3)  # lets v6's and v7's go
        report = verify(registry)
        assert [one.what for one in report.damage] == ["state of m v8 (adam)"]
        assert [one.missing for one in report.damage] == [gone]


@pytest.mark.parametrize("act", ACTS)
def test_latest_is_read_wherever_it_moves(copies, act):
    def check(registry):
        ((version, artifact),) = load_named(registry, "m", "latest")
        assert artifact == ARTIFACTS[version.number]

    at_every_read(copies, act, check)


@pytest.mark.parametrize("act", ACTS)
def test_the_same_name_twice_is_one_version(copies, act):
    def check(registry):
        (old, _), (new, artifact), (stable, _) = load_named(registry, "m", "latest", "latest", "stable")
        assert old == new
        assert stable.number == 2
        assert artifact == ARTIFACTS[new.number]

    at_every_read(copies, act, check)


def test_a_version_that_is_collected_while_it_is_read_is_told_in_a_sentence(copies):
    def check(registry):
        try:
            assert load_named(registry, "m", "v6")[0][1] == ARTIFACTS[6]
        except NotFound as error:
            assert "m v6 was collected on " in str(error)  # noqa: PT017

    at_every_read(copies, "both", check)


@pytest.mark.parametrize("act", ACTS)
def test_a_state_is_that_of_the_version_or_none(copies, act):
    def check(registry):
        assert registry.load_state("m", 7) in (("adam", b"state 7"), None)
        assert registry.load_state("m", 8) in (("adam", b"state 8"), None)

    at_every_read(copies, act, check)


def test_a_state_that_is_saved_again_while_it_is_read_is_the_new_one(copies):
    store = copies()
    with Registry.open(store) as registry, Registry.open(store) as other:
        registry._memory._blobs = Beside(registry.blobs, lambda: other.save_state("m", 8, b"new", "dp+adam"), 0)
        assert registry.load_state("m", 8) == ("dp+adam", b"new")


def test_a_lost_state_is_not_found(copies):
    store = copies()
    with Registry.open(store) as registry:
        registry.blobs.delete(registry.catalog.inventory().states["m", 8].blob)
        with pytest.raises(NotFound, match=r"blob .* is not in"):
            registry.load_state("m", 8)


@pytest.mark.parametrize("act", ACTS)
def test_a_bundle_is_whole_whatever_happens_while_it_is_written(copies, tmp_path, act):
    """What has content then is in it, or the sentence says what was collected; never half of it."""
    numbers = count()

    def check(registry):
        path = tmp_path / "bundles" / str(next(numbers))
        path.parent.mkdir(exist_ok=True)
        try:
            contents = export_bundle(registry, registry.versions("m")[5:9], path)
        except NotFound as error:
            assert "was collected on " in str(error)  # noqa: PT017
            assert not path.exists()
        else:
            with Registry.open(path.with_suffix(".store")) as taken:
                import_bundle(taken, path)
                assert [taken.load(one) for one in taken.versions("m")] == ARTIFACTS[5:9]
                assert list(contents.versions) == [5, 6, 7, 8]

    at_every_read(copies, act, check)


@pytest.mark.parametrize("act", ACTS)
def test_a_collection_goes_on_beside_another(copies, act):
    def check(registry):
        collect(registry, Retention(keep=3), grace=NOW)
        assert verify(registry).clean
        (latest, artifact), (_, stable) = load_named(registry, "m", "latest", "stable")
        assert (artifact, stable) == (ARTIFACTS[latest.number], ARTIFACTS[2])

    at_every_read(copies, act, check)


def test_a_collection_that_is_always_overtaken_removes_less_and_nothing_wrong(copies):
    """Another one sweeps what it makes, before it can name it, every time."""
    store = copies()
    with Registry.open(store, recent_bytes=0) as registry, Registry.open(store) as other:
        keyframe = registry.archive.keyframe

        def swept(digest):
            made = keyframe(digest)
            other.blobs.delete(made.blob)
            return made

        registry.archive.keyframe = swept
        collect(registry, Retention(keep=1), grace=NOW)
        report = verify(registry)
        assert report.clean
        assert registry.load(registry.resolve("m", "stable")) == ARTIFACTS[2]


def test_an_artifact_that_is_damaged_is_not_taken_for_one_that_was_collected(copies):
    store = copies()
    with Registry.open(store, recent_bytes=0) as registry:
        registry.move_label("m", "needed", 6, why="in the middle of a chain")
        for edge in registry.edges(registry.resolve("m", "needed").digest):
            registry.blobs.delete(edge.blob)
        with pytest.raises(NotFound, match=r"blob .* is not in"):
            collect(registry, Retention(keep=1), grace=NOW)
