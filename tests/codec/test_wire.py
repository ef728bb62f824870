import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.codec.wire import SLICE_BYTES, Checksum, Reader, checksum, varint
from flserve_app.errors import CodecError


@given(st.integers(0, 2**63 - 1))
def test_varint_comes_back(number):
    reader = Reader(memoryview(varint(number)))
    assert reader.varint() == number
    reader.end()


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff\x80\x00", b"\xff" * 9, b"\xff" * 9 + b"\x01"])
def test_bad_varints_are_refused(data):
    with pytest.raises(CodecError):
        Reader(memoryview(data)).varint()


@given(st.lists(st.one_of(st.integers(0, 127), st.integers(0, 2**63 - 1)), max_size=40))
def test_varints_come_back_together(numbers):
    reader = Reader(memoryview(b"".join(map(varint, numbers))))
    assert reader.varints(len(numbers)) == tuple(numbers)
    reader.end()


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x80", b"\x01\x80\x00", b"\x01" + b"\xff" * 10])
def test_bad_varints_are_refused_together(data):
    with pytest.raises(CodecError):
        Reader(memoryview(data)).varints(2)


def test_reader_never_passes_the_end():
    reader = Reader(memoryview(b"abc"), "note")
    assert bytes(reader.take(2)) == b"ab"
    with pytest.raises(CodecError, match="note ends at byte 3: 2 expected, 1 found"):
        reader.take(2)
    with pytest.raises(CodecError, match="1 bytes too many after byte 2"):
        reader.end()


def test_checksum_sees_a_flip_in_every_slice():
    data = bytearray(2 * SLICE_BYTES + 5)
    seen = {checksum(memoryview(data))}
    for position in (0, SLICE_BYTES - 1, SLICE_BYTES, 2 * SLICE_BYTES + 4):
        data[position] ^= 1
        seen.add(checksum(memoryview(data)))
        data[position] ^= 1
    assert len(seen) == 5


@pytest.mark.parametrize("cuts", [[], [0, 1, 1], [SLICE_BYTES - 1, SLICE_BYTES + 1], [2 * SLICE_BYTES], [99, 2_999]])
def test_checksum_of_parts_is_that_of_the_whole(cuts):
    data = bytes(range(250)) * 12_000
    running = Checksum()
    for low, high in zip([0, *cuts], [*cuts, len(data)], strict=True):
        running.update(data[low:high])
    assert running.value() == checksum(memoryview(data))


def test_checksum_of_nothing():
    assert Checksum().value() == checksum(memoryview(b""))
