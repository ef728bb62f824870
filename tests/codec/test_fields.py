import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.codec.fields import FieldReader, flags_as_fields, packed
from flserve_app.errors import CodecError

FIELDS = st.lists(st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 32)), max_size=60)


def one_by_one(values, widths) -> bytes:
    """The same by the definition, a bit at a time."""
    bits = "".join(
        f"{value & (1 << width) - 1:0{width}b}" for value, width in zip(values, widths, strict=True) if width
    )
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))


def arrays(fields):
    return np.array([value for value, _ in fields], np.uint32), np.array([width for _, width in fields], np.uint8)


def test_fields_of_several_blocks():
    random = np.random.RandomState(0)
    widths = random.randint(0, 33, 40_000).astype(np.uint8)
    values = random.randint(0, 1 << 32, widths.size, dtype=np.uint32)
    data = packed(values, widths)
    assert data == one_by_one(values.tolist(), widths.tolist())
    low = values.astype(np.int64) & (1 << widths.astype(np.int64)) - 1
    assert np.array_equal(FieldReader(memoryview(data)).take(widths.astype(np.int64)), low)


@given(FIELDS)
def test_fields_stand_one_after_another_the_highest_bit_first(fields):
    values, widths = arrays(fields)
    assert packed(values, widths) == one_by_one(values.tolist(), widths.tolist())


@given(FIELDS, st.data())
def test_fields_come_back_at_once_or_one_by_one(fields, data):
    values, widths = arrays(fields)
    data_read, widths = memoryview(packed(values, widths)), widths.astype(np.int64)
    reader, low = FieldReader(data_read), values.astype(np.int64) & (1 << widths) - 1
    first = data.draw(st.integers(0, len(fields)))
    assert np.array_equal(reader.take(widths[:first]), low[:first])
    assert [reader.one(int(width)) for width in widths[first:]] == low[first:].tolist()
    assert reader.left == -int(widths.sum()) % 8


@given(st.lists(st.booleans(), max_size=100), st.integers(0, 9))
def test_flags_are_fields_of_one_bit(flags, before):
    told = np.array(flags, np.bool_)
    values, widths = flags_as_fields(told)
    data = packed(np.append(np.uint32(0), values), np.append(np.uint8(before), widths))
    assert data == one_by_one([0, *flags], [before, *[1] * len(flags)])
    reader = FieldReader(memoryview(data))
    reader.one(before)
    assert np.array_equal(reader.flags(told.size), told)


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.take(np.array([7, 3])),
        lambda reader: reader.take(np.full(1000, 32)),
        lambda reader: reader.one(10),
        lambda reader: reader.flags(10),
    ],
)
def test_reading_past_the_end_is_refused(read):
    reader = FieldReader(memoryview(b"\xff\xff"))
    reader.one(7)
    with pytest.raises(CodecError, match="ends at bit 16, expected"):
        read(reader)
    assert reader.left == 9
