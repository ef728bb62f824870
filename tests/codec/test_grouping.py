import numpy as np
import pytest
from numpy.random import RandomState

from flserve_app.artifact import DTYPES
from flserve_app.codec.grouping import Grouping, Order, chunk_words, read_grouping, read_row
from flserve_app.codec.words import words_of
from flserve_app.errors import CodecError

FLOAT = DTYPES["float32"]


def words(*values):
    return words_of(np.array(values, "f4"), FLOAT)


def test_words_are_sorted_by_the_exponent_of_the_base_stably():
    order = Grouping(row=1).order(slice(0, 5), words(1, 0.1, -1.5, 0.12, 64), FLOAT)
    assert order.permutation.tolist() == [1, 3, 0, 2, 4]
    assert order.labels.tolist() == [127, 123, 127, 123, 133]


@pytest.mark.parametrize(("name", "label"), [("float16", 15), ("float64", 1023 % 256)])
def test_sign_is_no_part_of_a_label(name, label):
    dtype = DTYPES[name]
    order = Grouping(row=1).order(slice(0, 3), words_of(np.array([-1, 2, -1.5], name), dtype), dtype)
    assert order.labels.tolist() == [label, (label + 1) % 256, label]


def test_scales_of_row_and_column_are_subtracted():
    scales = bytes([0, 10, 20]) + bytes(range(16))
    order = Grouping(row=16, scales=scales).order(slice(0, 40), None, FLOAT)
    expected = [-(10 * (place // 16) + place % 16) % 256 for place in range(40)]
    assert order.labels.tolist() == expected
    later = Grouping(row=16, scales=scales).order(slice(20, 40), None, FLOAT)
    assert later.labels.tolist() == expected[20:]


def test_words_that_are_all_alike_are_not_sorted():
    assert Grouping(row=1).order(slice(0, 3), words(1, 1.5, -1.9), FLOAT) is None
    assert Grouping().order(slice(0, 3), words(1, 2, 3), FLOAT) is None
    integers = DTYPES["int32"]
    assert Grouping(row=1).order(slice(0, 3), np.array([1, 2**30, 5], "<u4"), integers) is None


def test_runs_are_whole_groups_and_cover_all():
    labels = np.repeat(np.array([0, 3, 7, 255], np.uint8), [10, 2, 30, 1])
    shuffled = labels[RandomState(0).permutation(labels.size)]
    order = Order(shuffled, np.argsort(shuffled, kind="stable"))
    assert [(run.start, run.stop) for run in order.runs(11)] == [(0, 12), (12, 42), (42, 43)]
    assert [(run.start, run.stop) for run in order.runs(1)] == [(0, 10), (10, 12), (12, 42), (42, 43)]
    assert [(run.start, run.stop) for run in order.runs(100)] == [(0, 43)]


@pytest.mark.parametrize("grouping", [Grouping(), Grouping(row=1), Grouping(row=20, scales=bytes(range(25)))])
def test_side_bytes_come_back(grouping):
    assert read_grouping(memoryview(grouping.side()), 100) == grouping


@pytest.mark.parametrize("side", [b"\x01\x00", b"\x02", b"\x10", b"\x10" + bytes(16), b"\x81\x80\x08", b"\x80"])
def test_bad_side_bytes_are_refused(side):
    with pytest.raises(CodecError):
        read_grouping(memoryview(side), 32)


def test_chunks_are_whole_rows():
    assert [chunk_words(row) for row in (0, 1, 16, 3136)] == [1 << 18] * 3 + [83 * 3136]
    assert read_row(memoryview(Grouping(row=20, scales=bytes(25)).side())) == 20
