"""What counts as reached, and which bytes are charged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.errors import DeliveryError
from flserve_app.experiments.byte_curve import (
    Curve,
    compare,
    curve_of,
    first_round,
    interval,
    summed_up,
)
from flserve_app.strategy import RoundRow


def curve(*accuracy, each=10, extra=1):
    rounds = range(1, len(accuracy) + 1)
    return Curve(
        accuracy=accuracy,
        payload=tuple(each * number for number in rounds),
        message=tuple((each + extra) * number for number in rounds),
    )


PLAIN = curve(0.5, 0.9, 0.91, 0.9, 0.9, each=1000, extra=100)


def row(number, accuracy=0.5, **counts):
    return RoundRow(round=number, version=number, digest="d", accuracy=accuracy, **counts)


def test_bytes_add_up_both_ways_and_what_comes_before_the_first_round_counts_with_it():
    rows = [
        row(0, bytes_down_message=7),
        row(1, 0.6, bytes_down=10, bytes_up=20, bytes_down_message=11, bytes_up_message=22),
        row(2, 0.7, bytes_down=1, bytes_up=2, bytes_down_message=3, bytes_up_message=4),
    ]
    assert curve_of(rows) == Curve(accuracy=(0.6, 0.7), payload=(30, 33), message=(40, 47))


@pytest.mark.parametrize("bad", [row(1, None), row(1, 0.5, failures=1)])
def test_a_round_that_measures_nothing_is_an_error(bad):
    with pytest.raises(DeliveryError, match="round 1 measures nothing"):
        curve_of([row(0), bad])


def test_one_good_round_touches_and_three_in_the_mean_reach():
    found = compare(3, curve(0.5, 0.95, 0.8, 0.9, 0.9, 0.9, 0.9), PLAIN)
    assert (found.seed, found.touched, found.reached) == (3, 2, 6)
    assert (found.bytes, found.bytes_message) == (60, 66)
    assert (found.bytes_equal, found.bytes_message_equal) == (50, 55)
    assert (found.plain_bytes, found.plain_bytes_message) == (5000, 5500)
    assert found.gap == pytest.approx(0)


def test_exactly_the_margin_below_is_as_good():
    assert compare(0, curve(0.895, 0.895, 0.895), PLAIN, margin=0.005).reached == 3
    assert compare(0, curve(0.894, 0.894, 0.894), PLAIN, margin=0.005).reached is None


def test_a_seed_that_does_not_reach_is_charged_all_that_it_sent():
    found = compare(0, curve(*[0.7] * 8), PLAIN)
    assert (found.touched, found.reached, found.bytes) == (None, None, 80)
    assert found.gap == pytest.approx(20)


def test_plain_is_charged_all_its_rounds_and_its_own_reach_is_told_beside():
    found = compare(0, PLAIN, PLAIN)
    assert (found.bytes, found.plain_reached, found.plain_bytes_reached) == (5000, 4, 4000)
    assert (found.touched, found.gap) == (2, 0)


def test_seeds_are_summed_up():
    outcomes = [compare(0, curve(*[0.9] * 6), PLAIN), compare(1, curve(*[0.8] * 6), PLAIN)]
    found = summed_up("mine", "small", 6, outcomes)
    assert (found["name"], found["model"], found["rounds"], found["seeds"]) == ("mine", "small", 6, 2)
    assert (found["reached"], found["touched"]) == (1, 1)
    assert found["bytes"] == 45  # 30 where it reached, all 60 where it did not
    assert found["fewer"] == pytest.approx(10_000 / 90)
    assert found["fewer_message"] == pytest.approx(11_000 / 99)
    assert found["fewer_worst"] == pytest.approx(5000 / 30)
    assert found["fewer_matched"] == pytest.approx(8000 / 90)
    assert found["fewer_equal"] == pytest.approx(100)
    assert found["accuracy"] == pytest.approx(0.85)
    assert found["gap"] == pytest.approx(5)
    assert found["gap_ci"] == pytest.approx((5 - 12.706 * 5, 5 + 12.706 * 5))
    assert [each["reached"] for each in found["per_seed"]] == [3, None]


def test_one_seed_has_no_interval():
    found = summed_up("mine", "small", 2, [compare(0, curve(0.1, 0.2), PLAIN)])
    assert found["accuracy_ci"] is None
    assert found["fewer_worst"] is None
    assert interval([1.0]) is None


def test_intervals_are_students():
    # Ten values with mean 5.5 and standard deviation 3.02765: 2.262 standard errors each way.
    assert interval(range(1, 11)) == pytest.approx((3.3343, 7.6657), abs=1e-3)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=30), st.floats(0, 1))
def test_the_first_round_is_as_good_and_none_before_it_is(accuracy, target):
    found = first_round(accuracy, target, 3)
    means = [sum(accuracy[end - 3 : end]) / 3 for end in range(3, len(accuracy) + 1)]
    good = [place + 3 for place, value in enumerate(means) if value >= target + 1e-6]
    assert found is None or means[found - 3] >= target - 1e-6
    assert not good or (found is not None and found <= good[0])
