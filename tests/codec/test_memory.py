"""What encoding and decoding take besides what they are given and what they give."""

import tracemalloc

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.codec import CODECS, decode, encode, encode_parts, encode_rounded, round_to
from tests.codec.examples import trained

MIB = 1 << 20
ROWS = {"embedding": 8192, "wide": 4096, "deep": 2048, "head": 1024, "tail": 1024}  # of 1024 float32: 64 MiB
LARGEST = 32 * MIB
CONSTANT = 12 * MIB  # buffers of the threads


@pytest.fixture(scope="module")
def pair():
    random = np.random.Generator(np.random.SFC64(0))
    old = {name: random.standard_normal((rows, 1024), dtype=np.float32) for name, rows in ROWS.items()}
    base, target = Artifact(old), Artifact(trained(old, 1))
    assert base.nbytes == 64 * MIB
    base.manifest, target.manifest  # noqa: B018 digests are known in a run
    return base, target


def most_besides(work):
    """Peak of traced memory beyond the result's own size."""
    tracemalloc.start()
    try:
        result = work()
        size = getattr(result, "nbytes", None) or len(result)
        return tracemalloc.get_traced_memory()[1] - size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", ["full", "lossless", "lossless-small"])
def test_encoding_takes_at_most_one_and_a_half_of_the_largest_tensor(pair, codec):
    base, target = pair
    payload = encode(target, base, codec)
    # The payload grows as it is written: up to an eighth of it is asked for and not used.
    growth = len(payload) // 8
    assert most_besides(lambda: encode(target, base, codec)) < 1.5 * LARGEST + CONSTANT + growth
    assert most_besides(lambda: decode(payload, base)) < CONSTANT


@pytest.mark.parametrize("codec", ["full", "lossless"])
def test_parts_need_no_whole_payload(pair, codec):
    base, target = pair

    def longest():
        return bytes(max(1, sum(len(part) for part in encode_parts(target, base, codec)) >> 40))

    assert most_besides(longest) < 1.5 * LARGEST + CONSTANT


def test_parts_make_the_payload(pair):
    base, target = pair
    assert b"".join(encode_parts(target, base)) == encode(target, base)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["grid", "topk"])
def test_rounding_takes_a_model_and_a_few_buffers(pair, codec):
    base, target = pair
    rounding = CODECS[codec].rounding
    rounded = round_to(target, base, rounding)
    payload = encode_rounded(rounded, base, codec)
    assert most_besides(lambda: round_to(target, base, rounding).artifact) < 2 * CONSTANT
    assert most_besides(lambda: encode_rounded(rounded, base, codec)) < 2 * CONSTANT
    assert most_besides(lambda: decode(payload, base)) < 2 * CONSTANT
