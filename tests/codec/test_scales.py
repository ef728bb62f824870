import numpy as np
import pytest
from numpy.random import RandomState

from flserve_app.artifact import DTYPES
from flserve_app.codec.scales import scaled_grouping
from flserve_app.codec.words import words_of

FLOAT = DTYPES["float32"]


def scales_of(base, target):
    grouping = scaled_grouping(words_of(target, FLOAT), words_of(base, FLOAT), FLOAT, base.shape[1], 128)
    scales = np.frombuffer(grouping.scales, np.int8).astype(int)
    return scales[: len(base)], scales[len(base) :]


def test_rows_and_columns_that_move_more_have_larger_scales():
    base = RandomState(0).normal(0, 1, (400, 300))
    rows, columns = RandomState(1).randint(-6, 1, 400), RandomState(2).randint(-6, 1, 300)
    move = RandomState(3).normal(0, 1e-2, base.shape) * 2.0 ** (rows[:, None] + columns)
    of_rows, of_columns = scales_of(base.astype("f4"), (base + move).astype("f4"))
    for found, true in ((of_rows, rows), (of_columns, columns)):
        off = found - true
        assert np.abs(off - np.median(off)).max() <= 1
        assert found.max() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_are_not_finite_do_no_harm(value):
    base = RandomState(0).normal(0, 1, (64, 64)).astype("f4")
    target = base * np.float32(1.01)
    target[3, 5] = value
    of_rows, of_columns = scales_of(base, target)
    assert np.abs(np.delete(of_rows, 3) - np.median(of_rows)).max() <= 2
    assert np.abs(np.delete(of_columns, 5) - np.median(of_columns)).max() <= 2


def test_tensor_that_does_not_move_has_scales_of_zero():
    base = RandomState(0).normal(0, 1, (64, 64)).astype("f4")
    of_rows, of_columns = scales_of(base, base)
    assert not of_rows.any()
    assert not of_columns.any()


@pytest.mark.parametrize(("dtype", "shape"), [("int32", (64, 64)), ("float32", (64, 8)), ("float32", (4, 64))])
def test_no_scales_where_they_would_not_pay(dtype, shape):
    array = np.ones(shape, dtype)
    words = words_of(array, DTYPES[dtype])
    assert scaled_grouping(words, words, DTYPES[dtype], shape[1], 128) is None


@pytest.mark.parametrize("moving", [1.0, 0.5])
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 0), (0, 1)])
def test_scales_pay_where_rows_or_columns_differ_by_more_than_sampling_makes(rows, columns, moving):
    random = RandomState(4)
    base = random.normal(0, 1, (400, 300)).astype("f4")
    octaves = rows * random.randint(0, 2, (400, 1)) + columns * random.randint(0, 2, 300)
    move = random.normal(0, 1e-2, base.shape) * 2.0**octaves * (random.random_sample(base.shape) < moving)
    words = (words_of(array.astype("f4"), FLOAT) for array in (base + move, base))
    found = scaled_grouping(*words, FLOAT, 300, 64, least_spread=0.2)
    assert (found is None) == (rows == columns == 0)
