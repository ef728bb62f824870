import pytest

from flserve_app.codec.grouping import Grouping, read_grouping, read_row
from flserve_app.codec.ops import BINS, PLANES
from flserve_app.errors import CodecError


@pytest.mark.parametrize("grouping", [Grouping(), Grouping(row=1), Grouping(row=20, scales=bytes(range(25)))])
def test_side_bytes_come_back(grouping):
    assert read_grouping(memoryview(grouping.side()), 100) == grouping


def test_scales_of_rows_stand_before_those_of_columns():
    grouping = Grouping(row=20, scales=bytes(range(25)))
    assert grouping.of_rows.tolist() == list(range(5))
    assert grouping.of_columns.tolist() == list(range(5, 25))
    assert Grouping().of_columns.size == Grouping(row=1).of_rows.size == 0


@pytest.mark.parametrize("side", [b"\x01\x00", b"\x02", b"\x10", b"\x10" + bytes(16), b"\x81\x80\x08", b"\x80"])
def test_bad_side_bytes_are_refused(side):
    with pytest.raises(CodecError):
        read_grouping(memoryview(side), 32)


def test_rows_that_do_not_come_out_even_are_refused():
    side = memoryview(Grouping(row=16, scales=bytes(18)).side())
    assert read_grouping(side, 32).row == 16
    with pytest.raises(CodecError, match="33 words are no whole rows of 16"):
        read_grouping(side, 33)


def test_chunks_are_whole_rows():
    for op in (PLANES, BINS):
        assert [op.words_of_rows(row) for row in (0, 1, 16, 3136)] == [1 << 18] * 3 + [83 * 3136]
    side = memoryview(Grouping(row=20, scales=bytes(25)).side())
    assert read_row(side) == 20
    assert PLANES.chunk_words(side) == (1 << 18) // 20 * 20
    assert PLANES.chunk_words(memoryview(b"")) == 1 << 18
