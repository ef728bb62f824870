import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.artifact import DTYPES
from flserve_app.codec.patches import apply_patches, pack_patches
from flserve_app.codec.rice import RiceWriter
from flserve_app.errors import CodecError

FLOAT = DTYPES["float32"]


@given(st.integers(0, 10**6), st.integers(1, 200))
def test_any_words_come_back(seed, size):
    random = RandomState(seed)
    base, target = (random.randint(0, 1 << 32, size, dtype=np.uint32) for _ in range(2))
    moved = np.flatnonzero(random.randint(0, 2, size))
    kept = random.randint(0, 3, size) > 0
    target[kept] = base[kept]
    unmoved = np.setdiff1d(np.arange(size), moved)
    still = unmoved[target[unmoved] != base[unmoved]]
    body = pack_patches(target, base, moved, still, FLOAT)
    out = base.copy()
    apply_patches(memoryview(body), moved, FLOAT, out)
    assert np.array_equal(out, target)


def test_words_of_eight_bytes_that_are_too_far_off_are_told():
    base = np.zeros(4, "<u8")
    target = base + np.uint64(1 << 40)
    assert pack_patches(target, base, np.arange(4), np.arange(0), DTYPES["float64"]) is None


def written(*subsets) -> memoryview:
    writer = RiceWriter()
    for places, count, sizes in subsets:
        writer.subset(np.array(places, np.int64), count)
        writer.sized(np.array(sizes, np.int64))
    return memoryview(writer.body())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (written(([2], 3, [1]), ([], 8, [])), "names place 2 of 2|number 2, expected less than 2"),
        (written(([], 2, []), ([9], 10, [1])), "less than 8|place 9 of 8"),
        (written(([], 2, [])), "holds 1 numbers"),
        (written(([], 2, []), ([], 8, []), ([], 8, [])), "1 numbers and 0 bits too many"),
    ],
)
def test_bad_bodies_are_refused(body, message):
    with pytest.raises(CodecError, match=message):
        apply_patches(body, np.array([1, 3]), FLOAT, np.zeros(8, "<u4"))
