"""bfloat16 against torch, which has it."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flserve_app.artifact import bfloat16

WORDS = hnp.arrays(np.uint32, st.integers(0, 50), elements=st.integers(0, 2**32 - 1))
EDGES = np.array(
    [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 1, 0x7FFFFFFF],
    dtype=np.uint32,
)


def check(words):
    values = words.view(np.float32)
    narrowed = bfloat16.narrow(values)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    bits = expected.view(torch.uint16).numpy()
    numbers = ~np.isnan(values)
    assert np.array_equal(narrowed[numbers], bits[numbers])
    assert np.all(np.isnan(bfloat16.widen(narrowed)[~numbers]))


def test_edges_round_as_torch_rounds():
    check(EDGES)


@given(WORDS)
def test_any_float_rounds_as_torch_rounds(words):
    check(words)


def test_widening_loses_nothing_and_is_exact():
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    wide = bfloat16.widen(bits)
    assert bfloat16.is_exact(wide)
    assert np.array_equal(bfloat16.narrow(wide), bits)
    assert not bfloat16.is_exact(np.float32([0.1]))


def test_scalars_keep_their_shape():
    assert bfloat16.narrow(np.asarray(np.float32(1.5))).shape == ()
