"""Means of metrics over those who sent them."""

import math

import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.errors import DeliveryError
from flserve_app.strategy.metric_means import MOST_NAMES, averaging, level, mean_of_senders
from flserve_app.strategy.reply_metrics import LARGEST_NUMBER, MOST_METRICS, check_numbers, plain_metrics
from tests.fleet import set_identity

WEIGHT = "num-examples"
numbers = st.floats(-1e300, 1e300) | st.integers(-(2**62), 2**62)


def records(*metrics):
    return [RecordDict({"metrics": MetricRecord(dict(each))}) for each in metrics]


@given(
    st.lists(
        st.tuples(
            st.integers(1, LARGEST_NUMBER) | st.floats(1e-6, 1e9),
            numbers,
            st.lists(numbers.map(float), min_size=2, max_size=2),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_where_all_sent_all_it_is_flowers_mean_bit_for_bit(sent):
    found = records(*({WEIGHT: weight, "a": a, "z": z} for weight, a, z in sent))
    expected = aggregate_metricrecords(found, WEIGHT)
    mean = mean_of_senders(found, WEIGHT)
    assert list(mean) == list(expected)
    assert repr(mean) == repr(expected)


def test_where_some_did_not_it_is_the_mean_of_the_others():
    set_identity()
    replies = [
        Message(content, dst_node_id=1, message_type="train")
        for content in records({WEIGHT: 1, "a": 2.0, "b": 8.0}, {WEIGHT: 3, "a": 4.0}, {WEIGHT: 1, "l": [1.0]})
    ]
    level(replies, WEIGHT)
    mean = mean_of_senders([reply.content for reply in replies], WEIGHT)
    assert dict(mean) == {"a": 3.5, "b": 8.0, "l": [1.0]}


def test_the_names_of_a_round_are_bounded_and_those_of_many_stay():
    set_identity()
    odd = [{WEIGHT: 1, **{f"a{client}.{at}": 1.0 for at in range(63)}} for client in range(9)]
    replies = [
        Message(content, dst_node_id=1, message_type="train")
        for content in records(*odd, {WEIGHT: 1, "loss": 1.0}, {WEIGHT: 1, "loss": 3.0})
    ]
    level(replies, WEIGHT)
    mean = mean_of_senders([reply.content for reply in replies], WEIGHT)
    assert len(mean) == MOST_NAMES
    assert mean["loss"] == 2.0


@pytest.mark.parametrize("odd", [{"l": [9.0]}, {"l": 9.0}, {}, {"l": [9.0] * 3}])
def test_lists_are_of_the_length_that_most_have(odd):
    found = records({WEIGHT: 1, "l": [1.0, 2.0]}, {WEIGHT: 1, "l": [3.0, 4.0]}, {WEIGHT: 1, "l": math.nan, **odd})
    assert mean_of_senders(found, WEIGHT)["l"] == [2.0, 3.0]


def test_nobody_with_a_weight_is_no_mean():
    assert dict(mean_of_senders(records({WEIGHT: 0, "a": 1.0}, {WEIGHT: 1, "a": math.nan}), WEIGHT)) == {}


def test_a_function_of_somebody_elses_gets_metrics_as_they_were_sent():
    seen = []

    def function(contents, weighted_by):
        seen.extend(dict(content["metrics"]) for content in contents)
        return MetricRecord({"best": max(content["metrics"]["a"] for content in contents)})

    strategy = FedAvg(train_metrics_aggr_fn=function)
    found = records({WEIGHT: 1, "a": 1.0}, {WEIGHT: 1, "a": 2.0}, {WEIGHT: 1, "a": math.nan})
    with averaging(strategy):
        assert dict(strategy.train_metrics_aggr_fn(found, WEIGHT)) == {"best": 2.0}
        assert strategy.evaluate_metrics_aggr_fn is mean_of_senders
    assert seen == [{WEIGHT: 1, "a": 1.0}, {WEIGHT: 1, "a": 2.0}]
    assert strategy.train_metrics_aggr_fn is function
    assert strategy.evaluate_metrics_aggr_fn is aggregate_metricrecords


def test_one_that_fails_costs_the_metrics_alone(caplog):
    strategy = FedAvg(train_metrics_aggr_fn=lambda contents, weighted_by: contents[0]["metrics"]["\x1b[2Jnone"])
    with averaging(strategy):
        assert dict(strategy.train_metrics_aggr_fn(records({WEIGHT: 1}), WEIGHT)) == {}
    assert "the metrics of the round are lost: KeyError" in caplog.text
    assert "\x1b" not in caplog.text


def test_metrics_that_are_kept_are_few_plain_and_of_pythons_own_types():
    import numpy as np

    sent = {**{f"m{at}": 1.0 for at in range(200)}, WEIGHT: np.float64(3), "loss": 2}
    kept = plain_metrics(MetricRecord(sent), (WEIGHT, "loss"))
    assert len(kept) == MOST_METRICS
    assert type(kept[WEIGHT]) is float
    assert type(kept["loss"]) is int


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, LARGEST_NUMBER + 1, 1e308, [1], None])
def test_numbers_that_are_read_have_to_be_numbers(value):
    metrics = MetricRecord({} if value is None else {WEIGHT: value})
    with pytest.raises(DeliveryError, match="its metric 'num-examples' is "):
        check_numbers(metrics, (WEIGHT,))


def test_one_that_may_be_chosen_alone_needs_a_weight():
    check_numbers(MetricRecord({WEIGHT: 0}), (WEIGHT,))
    with pytest.raises(DeliveryError, match="needs a weight"):
        check_numbers(MetricRecord({WEIGHT: 0}), (WEIGHT,), positive=True)


def test_a_list_that_is_too_long_takes_nothing_else_with_it():
    sent = MetricRecord(
        {"a": [0.5] * 1000, "b": [0.5] * 1000, "c": 0.25, "d": [1.0] * 24, "e": [1.0] * 2000, WEIGHT: 3}
    )
    assert list(plain_metrics(sent, [WEIGHT])) == ["a", "c", "d", WEIGHT]
