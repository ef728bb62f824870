import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.artifact import DTYPES
from flserve_app.codec.grouping import Grouping
from flserve_app.codec.sorting import LabelOrder, Labels
from flserve_app.codec.words import words_of

FLOAT = DTYPES["float32"]


def words(*values):
    return words_of(np.array(values, "f4"), FLOAT)


def cuts(runs):
    return [(run.start, run.stop) for run in runs]


def test_words_are_sorted_by_the_exponent_of_the_base_stably():
    order = Labels(Grouping(row=1), FLOAT).order(slice(0, 5), words(1, 0.1, -1.5, 0.12, 64))
    assert order.permutation.tolist() == [1, 3, 0, 2, 4]
    assert order.labels.tolist() == [127, 123, 127, 123, 133]


@pytest.mark.parametrize(("name", "label"), [("float16", 15), ("float64", 1023 % 256)])
def test_sign_is_no_part_of_a_label(name, label):
    dtype = DTYPES[name]
    order = Labels(Grouping(row=1), dtype).order(slice(0, 3), words_of(np.array([-1, 2, -1.5], name), dtype))
    assert order.labels.tolist() == [label, (label + 1) % 256, label]


def test_scales_of_row_and_column_are_subtracted():
    scales = bytes([0, 10, 20]) + bytes(range(16))
    sorter = Labels(Grouping(row=16, scales=scales), FLOAT)
    expected = [-(10 * (place // 16) + place % 16) % 256 for place in range(48)]
    assert sorter.order(slice(0, 48), None).labels.tolist() == expected
    assert sorter.order(slice(20, 40), None).labels.tolist() == expected[20:40]


def test_words_that_are_all_alike_are_not_sorted():
    assert Labels(Grouping(row=1), FLOAT).order(slice(0, 3), words(1, 1.5, -1.9)) is None
    assert Labels(Grouping(), FLOAT).order(slice(0, 3), words(1, 2, 3)) is None
    assert Labels(Grouping(row=1), DTYPES["int32"]).order(slice(0, 3), np.array([1, 2**30, 5], "<u4")) is None


def test_runs_of_labels_are_whole_groups_and_cover_all():
    run = 64
    labels = np.repeat(np.array([0, 3, 7, 255], np.uint8), [run - 1, 2, 3 * run, 1])
    shuffled = RandomState(0).permutation(labels)
    order = LabelOrder(shuffled, np.argsort(shuffled, kind="stable"))
    assert cuts(order.runs(run)) == [(0, run + 1), (run + 1, 4 * run + 1), (4 * run + 1, 4 * run + 2)]
    few = LabelOrder(labels[:100], np.arange(100))
    assert cuts(few.runs(128)) == [(0, 100)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(16, 300), st.sampled_from(["<u1", "<u2", "<u4", "<u8"]))
def test_sorted_words_come_back(rows, row, word):
    scales = RandomState(rows).randint(0, 256, rows + row).astype(np.uint8).tobytes()
    sorter = Labels(Grouping(row=row, scales=scales), FLOAT)
    values = RandomState(row).randint(0, 1 << 31, rows * row).astype(word)
    order = sorter.order(slice(0, values.size), None)
    if order is not None:
        assert np.array_equal(order.unsort(order.sort(values)), values)
        assert cuts(order.runs(64))[-1][1] == values.size
