from dataclasses import replace

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.client.records import to_artifact
from flserve_app.codec import decode
from flserve_app.delivery import Plan, Step
from flserve_app.errors import FlserveError, NotFound
from flserve_app.fleet import BASIC, RECIPE, TIED
from flserve_app.registry import Registry, Serving
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.step_payloads import StepPayloads
from tests.apps import drift, small_arrays

ONE, TWO, OTHER = (to_artifact(small_arrays(seed)) for seed in range(3))
LIKE_ONE = to_artifact(drift(small_arrays(0), 1, 0))


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
    publisher.publish(LIKE_ONE, 1)
    monkeypatch.setattr("flserve_app.strategy.step_payloads.encode", never)
    step = Step(ONE.digest, LIKE_ONE.digest, "lossless")
    plan, payloads = publisher.deliver((ONE.digest,), LIKE_ONE.digest)
    assert plan == Plan(kind="delta", target=LIKE_ONE.digest, steps=(step,), codec="lossless")
    assert payloads == {step: registry.payload(*step[1::-1], "lossless")}
    assert decode(payloads[step], ONE) == LIKE_ONE


def test_bases_are_what_the_store_can_read(publisher, registry):
    registry.publish("another", ONE, round=0, codec="lossless")
    publisher.publish(LIKE_ONE, 0)
    assert publisher.plan((ONE.digest,), LIKE_ONE.digest).kind == "delta"
    assert publisher.plan(("f" * 64,), LIKE_ONE.digest).kind == "full"
    assert publisher.plan(("f" * 64, ONE.digest), LIKE_ONE.digest).steps[0].base == ONE.digest
    assert publisher.plan((LIKE_ONE.digest,), LIKE_ONE.digest).kind == "none"


def test_a_delta_from_something_else_altogether_is_no_better_than_the_whole(publisher, registry):
    other = Artifact({"bytes": np.arange(2000)})
    registry.publish("another", other, round=0, codec="lossless")
    publisher.publish(ONE, 0)
    assert publisher.plan((other.digest,), ONE.digest).kind == "full"


def test_a_damaged_payload_of_the_history_is_made_again(publisher, tmp_path):
    publisher.publish(ONE, 0)
    publisher.publish(LIKE_ONE, 1)
    spoil(tmp_path / "s" / "blobs")
    _, payloads = publisher.whole(LIKE_ONE.digest)
    assert decode(*payloads.values()) == LIKE_ONE
    plan, payloads = publisher.deliver((ONE.digest,), LIKE_ONE.digest)
    assert plan.kind == "delta"
    assert decode(*payloads.values(), ONE) == LIKE_ONE


def test_a_lost_base_makes_the_plan_full_once_and_for_all(publisher, tmp_path, caplog):
    publisher.registry.publish("another", LIKE_ONE, round=0, codec="lossless")
    publisher.publish(ONE, 0)
    spoil(tmp_path / "s" / "blobs")
    with Registry.open(tmp_path / "s") as registry:
        fresh = Publisher(registry, "m", "lossless")
        fresh.adopt(publisher.version, ONE)
        for _ in range(2):
            plan, payloads = fresh.deliver((LIKE_ONE.digest,), ONE.digest)
            assert plan.kind == "full"
            assert decode(*payloads.values()) == ONE
        assert caplog.text.count(f"{LIKE_ONE.digest[:12]} is no base any more") == 1


def test_a_lossy_payload_that_is_gone_is_made_again_to_the_same_version(publisher):
    """Not by rounding, which would lead elsewhere."""
    publisher.publish(ONE, 0)
    publisher.publish(LIKE_ONE, 1)
    payloads = StepPayloads(publisher.registry, publisher.base)
    assert decode(payloads.get(Step(ONE.digest, LIKE_ONE.digest, "grid"), frozenset({TIED})), ONE) == LIKE_ONE


def test_a_target_that_is_lost_is_an_error(publisher):
    publisher.publish(ONE, 0)
    with pytest.raises(FlserveError):
        publisher.whole("f" * 64)
    with pytest.raises(FlserveError):
        publisher.deliver((ONE.digest,), "f" * 64)


def test_a_first_version_with_a_seed_is_a_recipe(registry):
    serving = Serving(
        model_id="mlp", arguments={"hidden": 8}, inputs=({"dtype": "float32", "shape": [None, 4]},), classes=("a", "b")
    )
    publisher = Publisher(registry, "m", "lossless", serving=replace(serving, seed=5))
    first = Artifact({"w": np.random.default_rng(0).normal(size=(40, 100)).astype(np.float32)})
    second = Artifact({"w": first["w"] + np.float32(1e-4)})
    publisher.publish(first, 0)
    publisher.publish(second, 1)
    assert [version.serving.seed for version in registry.versions("m")] == [5, None]
    plan = publisher.plan((), second.digest, BASIC | {RECIPE})
    assert [step.codec for step in plan.steps] == ["recipe", "lossless"]
    again = Publisher(registry, "m", "lossless")
    again.adopt(registry.latest("m"), second)
    assert again.recipe == publisher.recipe
    assert again.plan((), first.digest, BASIC | {RECIPE}).steps == (Step(None, first.digest, "recipe"),)
    assert publisher.plan((), second.digest).kind == "full"


def test_a_version_that_was_rolled_back_does_not_lead_to_the_current_one(publisher, registry):
    versions = [publisher.publish(each, number) for number, each in enumerate((ONE, TWO, OTHER))]
    assert all(publisher.leads_to_current(version.digest) for version in versions)
    assert not publisher.leads_to_current(LIKE_ONE.digest)
    back = registry.publish("m", LIKE_ONE, parent=1, round=3, run=None, codec="lossless")
    publisher.adopt(back, LIKE_ONE)
    led = [publisher.leads_to_current(each.digest) for each in (ONE, TWO, OTHER, LIKE_ONE)]
    assert led == [True, True, False, True]
    resumed = Publisher(registry, "m", "lossless")
    resumed.adopt(back, LIKE_ONE)
    assert [resumed.leads_to_current(each.digest) for each in (ONE, TWO, OTHER, LIKE_ONE)] == led
