from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.codec.coders import Bins, Planes
from flserve_app.errors import CodecError

CODERS = [Planes(), Bins()]
WHOLE = [slice(0, 100_000)]


def words_in_runs(word, size, runs, seed):
    """Words whose size differs from run to run, and the runs."""
    cuts = sorted({0, size, *RandomState(seed).randint(0, size + 1, runs - 1).tolist()})
    slices = [slice(low, high) for low, high in pairwise(cuts)]
    words = RandomState(seed + 1).randint(0, 256, size).astype(word)
    for index, run in enumerate(slices):
        words[run] &= (1 << (1 + index) % 8) - 1
    return words, slices


@pytest.mark.parametrize("coder", CODERS)
@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["<u1", "<u2", "<u4", "<u8"]), st.integers(1, 30_000), st.integers(1, 8))
def test_words_come_back(coder, word, size, count):
    words, runs = words_in_runs(word, size, count, size)
    out = np.empty_like(words)
    coder.unpack(memoryview(coder.pack(words, runs)), [out[run] for run in runs])
    assert np.array_equal(out, words)


@pytest.mark.parametrize("coder", CODERS)
def test_runs_make_a_body_smaller(coder):
    words, runs = words_in_runs("<u4", 100_000, 4, 0)
    assert len(coder.pack(words, runs)) < 0.9 * len(coder.pack(RandomState(0).permutation(words), WHOLE))


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("more", [-200, -1, 500])
def test_body_of_another_number_of_words_is_refused(coder, more):
    words, _ = words_in_runs("<u4", 1000, 4, 0)
    body = memoryview(coder.pack(words, [slice(0, 1000)]))
    with pytest.raises(CodecError):
        coder.unpack(body, [np.empty(1000 + more, "<u4")])


def test_noise_goes_as_it_is_and_what_lies_below_it_is_still_looked_at():
    noise = RandomState(0).randint(0, 1 << 16, 1 << 15).astype("<u4") << np.uint32(16)
    body = Planes().pack(noise, [slice(0, noise.size)])
    assert 2 * noise.size < len(body) < 2.01 * noise.size


@pytest.mark.parametrize("mode", [1, 0x10, 0x21, 0xFF])
def test_page_of_another_mode_is_refused(mode):
    words, _ = words_in_runs("<u4", 1000, 4, 0)
    body = bytearray(Bins().pack(words, [slice(0, 1000)]))
    body[2] = mode
    with pytest.raises(CodecError, match="mode or delta"):
        Bins().unpack(memoryview(bytes(body)), [np.empty_like(words)])
