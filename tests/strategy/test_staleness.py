import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.client.records import to_artifact
from flserve_app.errors import DeliveryError
from flserve_app.strategy.staleness import rebase, staleness_weight

FLOATS = st.floats(-1e6, 1e6, width=32)


def record(w, n=0, dtype=np.float32):
    return ArrayRecord({"w": Array(np.asarray(w, dtype)), "n": Array(np.asarray(n, np.int64))})


@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS), min_size=1, max_size=8))
def test_a_reply_moves_by_what_the_model_moved(rows):
    reply, base, current = (np.asarray(column, np.float32) for column in zip(*rows, strict=True))
    moved = rebase(record(reply, 9), to_artifact(record(base, 3)), to_artifact(record(current, 5)))
    expected = current.astype(np.float64) + (reply.astype(np.float64) - base.astype(np.float64))
    if not np.array_equal(base, current):
        assert np.array_equal(moved["w"].numpy(), expected.astype(np.float32))
    assert moved["w"].numpy().dtype == np.float32
    assert moved["n"].numpy() == 5


def test_a_reply_to_the_current_version_comes_back_bit_for_bit():
    reply = record([np.nan, -0.0, 1e-45], 4)
    base = to_artifact(record([1, 2, 3]))
    assert rebase(reply, base, base) is reply


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (ArrayRecord({"w": Array(np.zeros(2, np.float32))}), "other tensors"),
        (record([1.0]), r"'w' has shape \(1,\), expected \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(reply, message):
    with pytest.raises(DeliveryError, match=message):
        rebase(reply, to_artifact(record([1, 2])), to_artifact(record([3, 4])))


def test_what_is_too_large_becomes_infinite_without_a_warning():
    moved = rebase(record([3e38]), to_artifact(record([-3e38])), to_artifact(record([1.0])))
    assert np.isinf(moved["w"].numpy()).all()


@pytest.mark.parametrize(("lag", "exponent", "weight"), [(0, 0.5, 1.0), (3, 0.5, 0.5), (1, 1.0, 0.5), (7, 0.0, 1.0)])
def test_the_weight_is_fedasyncs_polynomial(lag, exponent, weight):
    assert staleness_weight(lag, exponent) == weight


@given(st.integers(-2, 50), st.floats(0, 4))
def test_the_weight_is_a_share_and_shrinks(lag, exponent):
    assert 0 < staleness_weight(lag + 1, exponent) <= staleness_weight(lag, exponent) <= 1
