import numpy as np
import pytest
from hypothesis import given, settings

from flserve_app.artifact import DTYPES
from flserve_app.codec.words import ordered, residual, restore, words_of
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
def test_order_of_floats_is_kept(name):
    dtype = DTYPES[name]
    values = np.array([-np.inf, -3.5, -1, -np.finfo(name).tiny, -0.0, 0.0, 1e-7, 1, 1.5, np.inf], name)
    assert (np.diff(ordered(words_of(values, dtype), dtype)) > 0).all()


def test_neighbours_are_one_apart_across_exponents():
    dtype = DTYPES["float32"]
    below = words_of(np.array([np.nextafter(np.float32(2), np.float32(0)), 2], "f4"), dtype)
    assert np.diff(ordered(below, dtype)).tolist() == [1]


def test_small_moves_of_either_sign_have_small_residuals():
    dtype = DTYPES["int64"]
    base = words_of(np.array([0, 5, -1, 2**63 - 1], "i8"), dtype)
    target = words_of(np.array([-1, 6, 0, -(2**63)], "i8"), dtype)
    assert residual(target, base, dtype).tolist() == [1, 2, 2, 2]
