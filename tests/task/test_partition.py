import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flserve_app.errors import TaskError
from flserve_app.task import partition

LABELS = np.arange(1000) % 10


def deal(labels=LABELS, scheme="iid", num_partitions=10, alpha=0.5, seed=0, min_size=1):
    return partition(labels, scheme=scheme, num_partitions=num_partitions, alpha=alpha, seed=seed, min_size=min_size)


@settings(max_examples=25, deadline=None)
@given(
    scheme=st.sampled_from(["iid", "dirichlet"]),
    labels=st.lists(st.integers(0, 5), min_size=60, max_size=120),
    num_partitions=st.integers(1, 5),
    seed=st.integers(0, 2**40),
)
def test_every_row_goes_to_exactly_one_client_and_the_seed_decides(scheme, labels, num_partitions, seed):
    labels = np.array(labels)
    parts = deal(labels, scheme, num_partitions, alpha=10.0, seed=seed)
    again = deal(labels, scheme, num_partitions, alpha=10.0, seed=seed)
    assert len(parts) == num_partitions
    assert all(part.dtype == np.int64 and len(part) >= 1 for part in parts)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert all(np.array_equal(one, two) for one, two in zip(parts, again, strict=True))


@pytest.mark.parametrize("scheme", ["iid", "dirichlet"])
def test_another_seed_deals_differently(scheme):
    assert not np.array_equal(deal(scheme=scheme, seed=1)[0][:20], deal(scheme=scheme, seed=2)[0][:20])


def test_iid_parts_are_equal_and_mixed_even_where_rows_are_sorted_by_label():
    parts = deal(np.sort(LABELS), num_partitions=7)
    assert {len(part) for part in parts} == {142, 143}
    for part in parts:
        assert np.bincount(np.sort(LABELS)[part], minlength=10).min() >= 4


def classes_held(alpha):
    parts = deal(scheme="dirichlet", alpha=alpha, seed=3)
    return np.mean([(np.bincount(LABELS[part], minlength=10) >= 5).sum() for part in parts])


def test_a_small_alpha_gives_clients_few_classes():
    assert classes_held(0.1) < 4.5
    assert classes_held(100.0) > 9.5


def test_no_part_is_smaller_than_asked_and_nothing_is_printed(capfd):
    # At this seed the first eight draws have a part that is too small: flwr-datasets warns and draws again.
    parts = deal(scheme="dirichlet", alpha=0.3, min_size=60, seed=1)
    assert min(map(len, parts)) >= 60
    assert capfd.readouterr() == ("", "")


def test_a_partition_that_is_not_found_is_an_error():
    with pytest.raises(
        TaskError, match=r"no dirichlet partition \(alpha 0.01\) gives each of 100 clients 5 of 1000 rows"
    ):
        deal(scheme="dirichlet", num_partitions=100, alpha=0.01, min_size=5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scheme": "shards"}, "unknown partition scheme 'shards'; known: iid, dirichlet"),
        ({"num_partitions": 0}, "1000 rows do not make 0 partitions"),
        ({"num_partitions": 1001}, "1000 rows do not make 1001 partitions of 1 rows or more"),
        ({"num_partitions": 10, "min_size": 101}, "1000 rows do not make 10 partitions of 101 rows or more"),
    ],
)
def test_what_cannot_be_dealt_is_refused(values, message):
    with pytest.raises(TaskError, match=message):
        deal(**values)
