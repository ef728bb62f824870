import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.artifact.digest import CHUNK_BYTES, FillingDigest, tree_digests

STEPS = [5000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]


def test_digest_is_over_the_digests_of_chunks():
    data = bytes(CHUNK_BYTES) + b"end"
    leaves = hashlib.sha256(bytes(CHUNK_BYTES)).digest() + hashlib.sha256(b"end").digest()
    assert tree_digests([memoryview(data), memoryview(b"")]) == [
        hashlib.sha256(leaves).hexdigest(),
        hashlib.sha256(b"").hexdigest(),
    ]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("size", [0, 5, CHUNK_BYTES, 2 * CHUNK_BYTES + 7])
def test_digest_of_a_buffer_filled_in_any_order_is_that_of_the_whole(size, step):
    data = np.random.RandomState(0).randint(0, 256, size, dtype=np.uint8)
    buffer = np.zeros(size, np.uint8)
    digest = FillingDigest(buffer.data)

    def fill(start):
        stop = min(start + step, size)
        buffer[start:stop] = data[start:stop]
        digest.filled(start, stop)

    with ThreadPoolExecutor(2) as pool:
        for start in np.random.RandomState(1).permutation(range(0, size, step)).tolist():
            pool.submit(fill, start)
    assert digest.value() == tree_digests([data.data])[0]


def test_artifact_made_with_its_digests_is_the_same():
    array = np.ones((2, 3), "<u2")
    array.flags.writeable = False
    plain = Artifact({"w": array}, dtypes={"w": "bfloat16"})
    hashed = Artifact.hashed({"w": array}, plain.manifest.digests, dtypes={"w": "bfloat16"})
    assert hashed.manifest == plain.manifest
    assert hashed["w"] is array
