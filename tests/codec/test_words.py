import numpy as np
import pytest
from hypothesis import given, settings

from flserve_app.artifact import DTYPES
from flserve_app.codec.words import residual, restore, words_of
from tests.codec.examples import tensors


@settings(max_examples=100, deadline=None)
@given(tensors(), tensors())
def test_restore_undoes_residual(one, other):
    dtype = DTYPES[one[0]]
    target = words_of(one[1], dtype)
    base = np.resize(words_of(other[1], DTYPES[other[0]]).astype(dtype.word), target.size)
    for held in (base, None):
        out = np.empty_like(target)
        restore(residual(target, held, dtype), held, dtype, out)
        assert np.array_equal(out, target)


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_sign_of_a_float_stands_below_its_magnitude(name):
    dtype = DTYPES[name]
    words = words_of(np.array([1.5, -1.5, 0.0, -0.0], name), dtype)
    found = residual(words, None, dtype).tolist()
    assert found == [2 * int(words[0]), 2 * int(words[0]) + 1, 0, 1]


def test_neighbours_of_one_sign_have_small_residuals_across_exponents():
    dtype = DTYPES["float32"]
    for sign in (1, -1):
        base = np.array([2, 2], "f4") * np.float32(sign)
        target = np.nextafter(base, np.array([0, 4], "f4") * np.float32(sign))
        assert residual(words_of(target, dtype), words_of(base, dtype), dtype).tolist() == [1, 2]


def test_small_moves_of_either_sign_have_small_residuals():
    dtype = DTYPES["int64"]
    base = words_of(np.array([0, 5, -1, 2**63 - 1], "i8"), dtype)
    target = words_of(np.array([-1, 6, 0, -(2**63)], "i8"), dtype)
    assert residual(target, base, dtype).tolist() == [1, 2, 2, 2]
