from itertools import pairwise

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.codec import decode
from flserve_app.codec.lossy import Lossy
from flserve_app.codec.ramp import Ramp
from flserve_app.delivery import Step
from flserve_app.fleet import BASIC, CHAIN
from flserve_app.registry import Registry
from flserve_app.strategy.publisher import Publisher

DRAW = np.random.default_rng(0)
START = DRAW.normal(size=(64, 256)).astype(np.float32)
CHAINS = BASIC | {CHAIN}
HEADER = 40


def dense(count):
    """Return versions of which each differs from the one before everywhere, a little."""
    values = [START]
    for _ in range(count - 1):
        values.append(values[-1] + np.float32(1e-3) * DRAW.normal(size=START.shape).astype(np.float32))
    return [Artifact({"w": value}) for value in values]


def sparse(count):
    """Return versions of which each differs from the one before in one place."""
    values = [START]
    for number in range(count - 1):
        value = values[-1].copy()
        value.reshape(-1)[17 * number] += np.float32(1)
        values.append(value)
    return [Artifact({"w": value}) for value in values]


@pytest.fixture
def registry(tmp_path):
    with Registry.open(tmp_path / "s", keyframe_every=1000) as opened:
        yield opened


def published(registry, artifacts, codec="lossless"):
    publisher = Publisher(registry, "m", codec)
    for number, artifact in enumerate(artifacts):
        publisher.publish(artifact, number)
    return publisher


def test_a_thousand_clients_on_five_bases_cost_five_encodes(registry):
    artifacts = dense(8)
    publisher = published(registry, artifacts)
    bases = [artifact.digest for artifact in artifacts[:5]]
    kinds = {publisher.deliver((bases[client % 5],), artifacts[-1].digest, CHAINS)[0].kind for client in range(1000)}
    assert kinds == {"delta"}
    info = publisher.cache_info()
    assert (info.encodes, info.reads, info.hits) == (5, 0, 1000)
    assert info.held_bytes == sum(publisher._payloads.tied.kept().values())


def test_known_chains_cost_no_encode(registry):
    artifacts = sparse(8)
    publisher = published(registry, artifacts)
    for late in range(1, 8):
        plan, payloads = publisher.deliver((artifacts[7 - late].digest,), artifacts[-1].digest, CHAINS)
        assert plan.kind == ("delta" if late == 1 else "chain")
        assert len(payloads) == late
    assert (publisher.cache_info().encodes, publisher.cache_info().reads) == (0, 7)


def test_a_codec_that_the_history_is_not_kept_in_is_made_and_compared(registry):
    artifacts = dense(2)
    publisher = published(registry, artifacts, "lossless-small")
    plan, payloads = publisher.deliver((artifacts[0].digest,), artifacts[1].digest, CHAINS)
    assert publisher.cache_info().encodes == 1
    (stored,) = (edge.nbytes for edge in registry.edges(artifacts[1].digest) if edge.base is not None)
    (sent,) = payloads.values()
    assert len(sent) <= stored
    assert plan.steps[0].codec == ("lossless-small" if len(sent) < stored else "lossless")


def test_nothing_costs_more_than_the_whole_but_for_a_header(registry):
    """Versions that have nothing in common: the whole is made where it could be less, and a delta needs no base."""
    artifacts = [Artifact({"w": START}), Artifact({"w": np.zeros_like(START)}), Artifact({"w": START[::-1].copy()})]
    publisher = published(registry, artifacts)
    for held, target in ((0, 1), (1, 2), (0, 2), (2, 0), (2, 1)):
        plan, payloads = publisher.deliver((artifacts[held].digest,), artifacts[target].digest, CHAINS)
        (whole,) = publisher.whole(artifacts[target].digest)[1].values()
        assert sum(map(len, payloads.values())) <= len(whole) + HEADER, plan


def test_plans_are_made_anew_for_a_new_version(registry):
    artifacts = sparse(3)
    publisher = published(registry, artifacts[:2])
    assert publisher.plan((artifacts[0].digest,), artifacts[1].digest, CHAINS).kind == "delta"
    publisher.publish(artifacts[2], 2)
    assert publisher.plan((artifacts[0].digest,), artifacts[2].digest, CHAINS).kind == "chain"


def test_a_payload_in_the_cache_is_a_link_where_the_history_has_a_keyframe(tmp_path):
    artifacts = sparse(3)
    with Registry.open(tmp_path / "s", keyframe_every=1) as registry:
        publisher = published(registry, artifacts[:2])
        publisher.deliver((artifacts[0].digest,), artifacts[1].digest, CHAINS)
        publisher.publish(artifacts[2], 2)
        publisher.deliver((artifacts[1].digest,), artifacts[2].digest, CHAINS)
        before = publisher.cache_info().encodes
        plan, _ = publisher.deliver((artifacts[0].digest,), artifacts[2].digest, CHAINS)
        assert plan.kind == "chain"
        assert publisher.cache_info().encodes == before


SPARSE = Lossy(name="topk", share=Ramp(0.02, 0.02, 0))


def rounded(registry, count, lossy=SPARSE):
    """Publish versions that a lossy codec rounded; return the publisher and them."""
    publisher = Publisher(registry, "m", "lossless-small", lossy=lossy)
    published = []
    for number, artifact in enumerate(dense(count)):
        publisher.publish(artifact, number)
        published.append(publisher.artifact)
    return publisher, published


TOPK = CHAINS | {"topk"}


def test_rounded_versions_compose_to_one_payload_that_takes_less_than_the_chain(registry):
    publisher, published = rounded(registry, 6)
    plan, payloads = publisher.deliver((published[0].digest,), published[-1].digest, TOPK)
    assert plan.steps == (Step(published[0].digest, published[-1].digest, "topk"),)
    assert decode(*payloads.values(), published[0]) == published[-1]
    chain = [registry.payload(after.digest, before.digest, "topk") for before, after in pairwise(published)]
    assert sum(map(len, payloads.values())) < sum(map(len, chain))
    assert publisher.cache_info().encodes == 1


def test_one_step_is_the_payload_of_the_history_and_costs_no_encode(registry):
    publisher, published = rounded(registry, 4)
    plan, payloads = publisher.deliver((published[-2].digest,), published[-1].digest, TOPK)
    assert plan.kind == "delta"
    assert list(payloads.values()) == [registry.payload(published[-1].digest, published[-2].digest, "topk")]
    assert publisher.cache_info().encodes == 0


def test_clients_that_take_no_rounded_payloads_get_none(registry):
    publisher, published = rounded(registry, 4)
    plan, payloads = publisher.deliver((published[0].digest,), published[-1].digest, CHAINS)
    assert {step.codec for step in plan.steps} <= {"lossless", "lossless-small"}
    assert decode(*payloads.values(), published[0]) == published[-1]


@pytest.mark.parametrize("lossy", [SPARSE, Lossy(name="grid")])
def test_a_thousand_clients_on_five_bases_cost_five_composed_encodes(registry, lossy):
    publisher, published = rounded(registry, 8, lossy)
    bases = [artifact.digest for artifact in published[:5]]
    for client in range(1000):
        publisher.deliver((bases[client % 5],), published[-1].digest, CHAINS | {lossy.name})
    assert publisher.cache_info().encodes == 5


def test_a_composed_delta_that_is_large_is_compared_to_a_lossless_one(registry):
    publisher, published = rounded(registry, 8, Lossy(name="grid", multiple=Ramp(2.0**-10, 2.0**-10, 0)))
    ends = published[0].digest, published[-1].digest
    _, payloads = publisher.deliver(ends[:1], ends[1], CHAINS | {"grid"})
    assert publisher.cache_info().encodes == 2
    made = [size for step, size in publisher._payloads.tied.kept().items() if (step.base, step.target) == ends]
    assert len(made) == 2
    assert sum(map(len, payloads.values())) <= min(made)
    assert decode(*payloads.values(), published[0]) == published[-1]
