import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.codec.coders import PAGE_RUN, Bins, Planes
from flserve_app.codec.grouping import Order
from flserve_app.errors import CodecError

CODERS = [Planes(), Bins()]


def sorted_words(word, size, groups, seed):
    """Words that grow with their label, and their order."""
    labels = RandomState(seed).randint(0, groups, size).astype(np.uint8)
    order = Order(labels, np.argsort(labels, kind="stable"))
    sizes = labels[order.permutation].astype("u8") % (8 * np.dtype(word).itemsize)
    return (RandomState(seed + 1).randint(0, 256, size).astype("u8") & ((1 << sizes) - 1)).astype(word), order


@pytest.mark.parametrize("coder", CODERS)
@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["<u1", "<u2", "<u4", "<u8"]), st.integers(1, 3 * PAGE_RUN), st.integers(1, 40), st.booleans())
def test_words_come_back(coder, word, size, groups, is_sorted):
    words, order = sorted_words(word, size, groups, size)
    body = coder.pack(words, order if is_sorted else None)
    out = np.empty_like(words)
    coder.unpack(memoryview(body), out, order if is_sorted else None)
    assert np.array_equal(out, words)


@pytest.mark.parametrize("coder", CODERS)
def test_groups_make_a_body_smaller(coder):
    words, order = sorted_words("<u4", 100_000, 8, 0)
    shuffled = words[RandomState(0).permutation(words.size)]
    assert len(coder.pack(words, order)) < 0.9 * len(coder.pack(shuffled, None))


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("more", [-200, -1, 500])
def test_body_of_another_number_of_words_is_refused(coder, more):
    words, _ = sorted_words("<u4", 1000, 4, 0)
    with pytest.raises(CodecError):
        coder.unpack(memoryview(coder.pack(words, None)), np.empty(1000 + more, "<u4"), None)


@pytest.mark.parametrize("mode", [1, 0x10, 0x21, 0xFF])
def test_page_of_another_mode_is_refused(mode):
    words, _ = sorted_words("<u4", 1000, 4, 0)
    body = bytearray(Bins().pack(words, None))
    body[2] = mode
    with pytest.raises(CodecError, match="mode or delta"):
        Bins().unpack(memoryview(bytes(body)), np.empty_like(words), None)
