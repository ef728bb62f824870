import pytest

from flserve_app.errors import CorruptBlob, NotFound, StoreError
from flserve_app.registry import Registry
from flserve_app.store import DirBlobs
from tests.registry.samples import drifting


def publish(registry, count, *, start=0, state=lambda number: f"state {number}".encode()):
    for number, artifact in enumerate(drifting(start + count)[start:], start):
        data = state(number)
        kind = "adam" if data is not None else ""
        registry.publish("m", artifact, round=number, codec="lossless", state=data, state_kind=kind)


def states_of(registry):
    return [registry.load_state("m", version.number) for version in registry.versions("m")]


def test_a_state_comes_back_with_its_version_after_reopening(place, registry):
    publish(registry, 1)
    with Registry.open(place / "store", create=False) as reopened:
        assert reopened.load_state("m", 0) == ("adam", b"state 0")
        assert reopened.load_state("m", 1) is None
        assert reopened.load_state("other", 0) is None


def test_the_states_of_the_last_three_versions_are_kept_and_no_other_bytes(place, registry):
    publish(registry, 6)
    expected = [None, None, None, *[("adam", f"state {number}".encode()) for number in (3, 4, 5)]]
    assert states_of(registry) == expected
    history = {edge.blob for version in registry.versions("m") for edge in registry.chain(version.digest)}
    assert len(set(DirBlobs(place / "store" / "blobs")) - history) == 3


def test_versions_without_a_state_push_out_older_ones(registry):
    publish(registry, 1)
    publish(registry, 3, start=1, state=lambda number: None)
    assert states_of(registry) == [None] * 4


def test_equal_states_share_their_bytes_and_outlive_each_other(registry):
    publish(registry, 5, state=lambda number: b"same")
    assert states_of(registry) == [None, None, *[("adam", b"same")] * 3]


def test_an_empty_state_is_a_state(registry):
    publish(registry, 1, state=lambda number: b"")
    assert registry.load_state("m", 0) == ("adam", b"")


def test_a_state_can_be_set_later_and_replaced(place, registry):
    publish(registry, 5, state=lambda number: None)
    registry.save_state("m", 3, b"first", "adam")
    registry.save_state("m", 3, b"second", "dp+adam")
    assert registry.load_state("m", 3) == ("dp+adam", b"second")
    with pytest.raises(StoreError, match="only the last 3 versions, up to v4, have one"):
        registry.save_state("m", 1, b"old", "adam")
    with pytest.raises(NotFound, match="no version v9"):
        registry.save_state("m", 9, b"new", "adam")
    with pytest.raises(NotFound, match="model 'x' is not in the store"):
        registry.save_state("x", 0, b"new", "adam")
    assert registry.load_state("m", 3) == ("dp+adam", b"second")


@pytest.mark.parametrize("kind", ["", "a b", "-x", "x" * 65])
def test_a_kind_is_plain_and_a_refused_one_publishes_nothing(registry, kind):
    with pytest.raises(StoreError, match="a state's kind is 1 to 64"):
        registry.publish("m", drifting(1)[0], round=0, codec="full", state=b"x", state_kind=kind)
    assert registry.versions("m") == ()


def test_a_damaged_state_is_never_returned(place, registry):
    publish(registry, 1)
    history = {edge.blob for edge in registry.chain(registry.latest("m").digest)}
    (blob,) = set(DirBlobs(place / "store" / "blobs")) - history
    (place / "store" / "blobs" / blob[:2] / blob).write_bytes(b"state 1")
    with pytest.raises(CorruptBlob):
        registry.load_state("m", 0)
