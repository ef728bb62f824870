import math

import pytest

from flserve_app.codec.ramp import Ramp, ramp_of
from flserve_app.errors import CodecError


def test_it_goes_geometrically_and_then_stays():
    ramp = Ramp(0.02, 0.005, 40)
    assert ramp.at(1) == 0.02
    assert ramp.at(21) == pytest.approx(0.01)
    assert [ramp.at(41), ramp.at(1000)] == [0.005, 0.005]
    steps = [ramp.at(number + 1) / ramp.at(number) for number in range(1, 40)]
    assert steps == pytest.approx([0.25 ** (1 / 40)] * 39)


def test_a_number_is_a_ramp_that_stays():
    assert [ramp_of(0.5, "share").at(number) for number in (0, 1, 99)] == [0.5] * 3
    assert ramp_of([2, 1, 10], "share") == Ramp(2, 1, 10)
    assert Ramp(3, 1, 0).at(1) == 1


@pytest.mark.parametrize(
    "values", [(0, 1, 2), (1, -1, 2), (1, math.inf, 2), (math.nan, 1, 2), ("1", 1, 2), (1, 1, -1), (1, 1, 1.5)]
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(CodecError, match=r"^found .*, expected ") as caught:
        Ramp(*values)
    with pytest.raises(CodecError, match=r"^share: found ") as named:
        ramp_of(list(values), "share")
    assert str(named.value) == f"share: {caught.value}"


@pytest.mark.parametrize("value", ["0.5", [1, 2], True, None, {"start": 1}])
def test_what_is_no_ramp_is_refused(value):
    with pytest.raises(CodecError, match="share is"):
        ramp_of(value, "share")
