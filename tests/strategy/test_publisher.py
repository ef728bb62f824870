import pytest

from flserve_app.client.records import to_artifact
from flserve_app.codec import decode
from flserve_app.delivery import Plan
from flserve_app.errors import FlserveError, NotFound
from flserve_app.registry import Registry
from flserve_app.strategy.publisher import Publisher
from tests.apps import small_arrays

ONE, TWO, OTHER = (to_artifact(small_arrays(seed)) for seed in range(3))


@pytest.fixture
def registry(tmp_path):
    with Registry.open(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def publisher(registry):
    return Publisher(registry, "m", "lossless")


def spoil(folder):
    for blob in folder.rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"spoiled")


def test_before_the_first_version_there_is_none(publisher):
    for name in ("version", "artifact", "record"):
        with pytest.raises(NotFound, match="model 'm' has no version yet"):
            getattr(publisher, name)


def test_a_version_is_stored_and_current(publisher, registry):
    publisher.publish(ONE, 0)
    version = publisher.publish(TWO, 4)
    assert publisher.version == version == registry.latest("m")
    assert (version.number, version.parent, version.round, version.codec) == (1, 0, 4, "lossless")
    assert publisher.artifact is TWO
    assert to_artifact(publisher.record) == TWO
    assert [publisher.number_of(artifact.digest) for artifact in (ONE, TWO, OTHER)] == [0, 1, -1]


def test_the_same_content_again_is_a_new_version(publisher, registry):
    for number in range(3):
        publisher.publish(ONE, number)
    assert [version.digest for version in registry.versions("m")] == [ONE.digest] * 3
    assert publisher.number_of(ONE.digest) == 2


def test_metrics_go_to_the_newest_version(publisher, registry):
    publisher.publish(ONE, 0)
    publisher.measured({"accuracy": 0.5})
    assert registry.latest("m").metrics["accuracy"] == 0.5


def test_a_payload_of_the_history_is_delivered_as_it_is(publisher, registry, monkeypatch):
    def never(*_):
        raise AssertionError("made again")

    publisher.publish(ONE, 0)
    publisher.publish(TWO, 1)
    plan = publisher.plan((ONE.digest,), TWO.digest)
    assert plan == Plan(kind="delta", target=TWO.digest, base=ONE.digest, codec="lossless")
    monkeypatch.setattr("flserve_app.strategy.publisher.encode", never)
    followed, payload = publisher.payload(plan)
    assert followed == plan
    assert payload == registry.payload(TWO.digest, ONE.digest, "lossless")
    assert decode(payload, ONE) == TWO


def test_bases_are_what_the_store_can_read(publisher, registry):
    registry.publish("another", OTHER, round=0, codec="lossless")
    publisher.publish(ONE, 0)
    assert publisher.plan((OTHER.digest,), ONE.digest).kind == "delta"
    assert publisher.plan(("f" * 64,), ONE.digest).kind == "full"
    assert publisher.plan(("f" * 64, OTHER.digest), ONE.digest).base == OTHER.digest
    assert publisher.plan((ONE.digest,), ONE.digest).kind == "none"


def test_a_damaged_payload_of_the_history_is_made_again(publisher, tmp_path):
    publisher.publish(ONE, 0)
    publisher.publish(TWO, 1)
    spoil(tmp_path / "s" / "blobs")
    _, payload = publisher.payload(Plan(kind="full", target=TWO.digest, codec="lossless"))
    assert decode(payload) == TWO
    plan, payload = publisher.payload(publisher.plan((ONE.digest,), TWO.digest))
    assert plan.kind in ("delta", "full")
    assert decode(payload, ONE) == TWO


def test_a_lost_base_makes_the_plan_full_once_and_for_all(publisher, tmp_path, caplog):
    publisher.registry.publish("another", OTHER, round=0, codec="lossless")
    publisher.publish(ONE, 0)
    spoil(tmp_path / "s" / "blobs")
    with Registry.open(tmp_path / "s") as registry:
        fresh = Publisher(registry, "m", "lossless")
        fresh.adopt(publisher.version, ONE)
        wanted = fresh.plan((OTHER.digest,), ONE.digest)
        plan, payload = fresh.payload(wanted)
        assert (wanted.kind, plan.kind) == ("delta", "full")
        assert decode(payload) == ONE
        assert f"{OTHER.digest[:12]} is no base any more" in caplog.text
        assert fresh.plan((OTHER.digest,), ONE.digest).kind == "full"


def test_a_target_that_is_lost_is_an_error(publisher):
    publisher.publish(ONE, 0)
    with pytest.raises(FlserveError):
        publisher.payload(Plan(kind="full", target="f" * 64, codec="lossless"))
