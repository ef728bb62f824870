from math import ldexp, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.artifact import DTYPES
from flserve_app.codec.floats import moved
from flserve_app.codec.step import MOST_EXPONENT, MOST_STEPS, is_step, most_steps, read_step, step_bytes, step_near
from flserve_app.errors import CodecError

STEPS = [ldexp(m, e - 2) for e in range(-MOST_EXPONENT, MOST_EXPONENT + 1) for m in (4, 5, 6, 7)]
POWERS = set(STEPS[::4])


def test_every_step_comes_back_from_its_bytes():
    for step in STEPS:
        named = step_bytes(step)
        assert len(named) == (1 if step in POWERS else 2)
        assert read_step(memoryview(named + b"rest")) == (step, b"rest")


def test_what_is_a_step():
    assert all(map(is_step, STEPS))
    others = (0.0, -1.0, 0.3, 9 / 8, float("inf"), float("nan"), 2.0**101, 7 * 2.0**-103, 2.0**-101)
    assert not any(map(is_step, others))


@given(st.floats(2.0**-99, 2.0**99))
def test_the_nearest_is_nearest_by_its_ratio(wanted):
    for fine, steps in ((True, STEPS), (False, STEPS[::4])):
        found = step_near(wanted, fine=fine)
        assert found in steps
        ratio = max(found / wanted, wanted / found)
        assert ratio <= min(max(step / wanted, wanted / step) for step in steps) * (1 + 1e-12)
        assert ratio <= (sqrt(5 / 4) if fine else sqrt(2)) * (1 + 1e-12)


@pytest.mark.parametrize("wanted", [0.0, 1e-35, 1e35, 5e-324, 1.7976931348623157e308, float("inf")])
def test_there_is_none_so_small_or_large(wanted):
    assert step_near(wanted, fine=True) is None


@given(st.sampled_from([step for step in STEPS if 1e-3 < step < 1e3]), st.integers(1, MOST_STEPS), st.booleans())
def test_a_count_below_the_most_moves_zero_to_just_so_many_steps(step, count, down):
    count = min(count, most_steps(step) - 1) * (-1 if down else 1)
    words = moved(np.zeros(1, "<u4"), np.array([count]), step, DTYPES["float32"])
    assert float(words.view("<f4")[0]) == count * step


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (b"", "no bytes"),
        (bytes((201,)), "no bytes"),
        (bytes((201, 201)), r"5 quarters of 2\*\*-101"),
        (bytes((203, 202)), r"7 quarters of 2\*\*101"),
        (bytes((204, 0)), r"8 quarters of 2\*\*0"),
        (bytes((255, 0)), r"59 quarters of 2\*\*0"),
    ],
)
def test_bytes_that_name_none_are_refused(side, message):
    with pytest.raises(CodecError, match=message):
        read_step(memoryview(side))
