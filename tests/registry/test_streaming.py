"""What the store takes in memory for artifacts that are large: never a whole payload."""

import tracemalloc

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.registry import Registry, export_bundle, import_bundle, verify

pytestmark = pytest.mark.slow

MIB = 1 << 20
ROWS = {"embedding": 4096, "wide": 2048, "deep": 1024, "head": 512, "tail": 512}  # of 1024 float32: 32 MiB
SIZE, LARGEST = 32 * MIB, 16 * MIB
CONSTANT = 12 * MIB  # buffers of the threads


@pytest.fixture(scope="module")
def pair():
    random = np.random.Generator(np.random.SFC64(0))
    old = {name: random.standard_normal((rows, 1024), dtype=np.float32) for name, rows in ROWS.items()}
    new = {name: tensor * (1 + random.random(tensor.shape, dtype=np.float32) / 4096) for name, tensor in old.items()}
    first, second = Artifact(old), Artifact({name: tensor.astype(np.float32) for name, tensor in new.items()})
    first.manifest, second.manifest  # noqa: B018 digests are known in a run
    return first, second


@pytest.fixture(scope="module")
def store(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("streaming") / "store"
    with Registry.open(folder) as registry:
        publish(registry, pair)
    return folder


def publish(registry, pair):
    for number, artifact in enumerate(pair):
        registry.publish("m", artifact, parent=number - 1 if number else None, round=number, codec="lossless")


def most(work):
    """Peak of traced memory."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_publishing_takes_one_and_a_half_of_the_largest_tensor(pair, tmp_path):
    with Registry.open(tmp_path / "store") as registry:
        assert most(lambda: publish(registry, pair)) < 1.5 * LARGEST + CONSTANT
        assert min(edge.nbytes for edge in registry.catalog.inventory().edges) > SIZE // 4


def test_loading_takes_the_artifact_and_its_base(store, pair):
    with Registry.open(store) as registry:
        assert most(lambda: registry.load(pair[1].digest)) < 2 * SIZE + CONSTANT


def test_verifying_takes_two_artifacts(store):
    with Registry.open(store) as registry:
        assert most(lambda: verify(registry)) < 2 * SIZE + CONSTANT


def test_a_keyframe_takes_one_and_a_half_of_the_largest_tensor(store, pair):
    with Registry.open(store) as registry:
        registry.load(pair[1].digest)
        assert most(lambda: registry.archive.keyframe(pair[1].digest)) < 1.5 * LARGEST + CONSTANT


def test_a_bundle_goes_out_in_little_and_comes_in_with_two_artifacts(store, tmp_path):
    with Registry.open(store) as registry:
        assert most(lambda: export_bundle(registry, registry.versions("m"), tmp_path / "bundle")) < CONSTANT
    with Registry.open(tmp_path / "other") as registry:
        assert most(lambda: import_bundle(registry, tmp_path / "bundle")) < 2 * SIZE + CONSTANT
