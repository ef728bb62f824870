import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.codec.rice import (
    MOST_SIZED,
    RiceReader,
    RiceWriter,
    best_parameter,
    best_parameters,
    cheapest,
    gaps,
)
from flserve_app.codec.wire import varint
from flserve_app.errors import CodecError

NUMBERS = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 5000)), max_size=40).map(
    lambda each: np.array(each, np.int64)
)


def reading(writer: RiceWriter, most: int = 10_000) -> RiceReader:
    return RiceReader(memoryview(writer.body()), most)


@given(st.lists(st.integers(0, (1 << 24) - 1), min_size=1, max_size=20))
def test_single_numbers_come_back(numbers):
    writer = RiceWriter()
    for number in numbers:
        writer.number(number)
    reader = reading(writer)
    assert [reader.number() for _ in numbers] == numbers
    reader.end()


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_lists_subsets_and_bits_come_back_in_order(lists):
    writer = RiceWriter()
    writer.number(len(lists))
    for numbers in lists:
        writer.listed(numbers)
        writer.subset(np.unique(numbers), 5001)
        writer.flags(numbers % 2 == 1)
    reader = reading(writer, 1 << 20)
    assert reader.number() == len(lists)
    for numbers in lists:
        assert np.array_equal(reader.listed(numbers.size, 5001), numbers)
        assert np.array_equal(reader.subset(5001), np.unique(numbers))
        assert np.array_equal(reader.flags(numbers.size), numbers % 2 == 1)
    reader.end()


@given(st.lists(st.one_of(st.integers(1, 5), st.integers(1, MOST_SIZED)), max_size=40))
def test_sized_numbers_come_back(numbers):
    writer = RiceWriter()
    writer.number(0)
    writer.sized(np.array(numbers, np.int64))
    reader = reading(writer)
    assert reader.number() == 0
    assert reader.sized(len(numbers)).tolist() == numbers
    reader.end()


def test_a_large_number_among_small_ones_costs_little_when_sized():
    numbers = np.array([1] * 100 + [MOST_SIZED])
    writer = RiceWriter()
    writer.sized(numbers)
    assert len(writer.body()) < 30


@given(NUMBERS.filter(len), st.data())
def test_each_number_may_have_a_parameter_of_its_own(numbers, data):
    parameters = np.array(data.draw(st.lists(st.integers(0, 14), min_size=numbers.size, max_size=numbers.size)))
    writer = RiceWriter()
    writer.coded(numbers, parameters)
    reader = reading(writer, 1 << 20)
    assert np.array_equal(reader.coded(parameters), numbers)
    reader.end()


@given(st.lists(NUMBERS.filter(len), min_size=1, max_size=6))
def test_parameters_of_many_lists_are_those_of_each(lists):
    starts = np.cumsum([0, *map(len, lists)])[:-1]
    assert best_parameters(np.concatenate(lists), starts).tolist() == [best_parameter(each) for each in lists]


def test_places_of_one_in_a_hundred_take_little_more_than_their_entropy():
    places = np.flatnonzero(np.random.RandomState(0).random_sample(200_000) < 0.01)
    share = places.size / 200_000
    entropy = -200_000 * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert cheapest(gaps(places))[1] < 1.04 * entropy


def body(first: bytes, second: bytes = b"") -> memoryview:
    return memoryview(varint(len(first)) + first + second)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (memoryview(b""), "list ends at byte 0"),
        (memoryview(b"\x05\x80"), "5 expected, 1 found"),
        (body(b""), "holds no numbers, expected at least 1"),
        (body(b"\0\0"), "holds no numbers"),
        (body(b"\xff\xff"), "holds 16 numbers or more, expected at most 8"),
        (body(b"\x80\x00"), "a byte of quotients too many"),
    ],
)
def test_bad_bodies_are_refused(wrong, message):
    with pytest.raises(CodecError, match=message):
        RiceReader(wrong, 8)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda reader: reader.flags(9), "ends at bit 8, expected 9"),
        (lambda reader: reader.listed(3, 10), "holds 2 numbers, expected 4"),
        (lambda reader: reader.listed(1, 0), "holds the number 0, expected less than 0"),
        (lambda reader: reader.coded(np.array([4, 5])), "ends at bit 8, expected 9"),
        (lambda reader: reader.coded(np.array([-1])), "parameters from -1 to -1"),
        (lambda reader: reader.coded(np.array([25])), "parameters from 25 to 25"),
        (lambda reader: reader.end(), "2 numbers and 8 bits too many"),
    ],
)
def test_reading_past_the_end_is_refused(read, message):
    with pytest.raises(CodecError, match=message):
        read(RiceReader(body(b"\xc0", b"\0"), 8))


def test_numbers_parameters_and_choices_are_bounded():
    with pytest.raises(CodecError, match="number of 25 bits"):
        RiceReader(body(b"\0\0\0\x40"), 8).number()
    with pytest.raises(CodecError, match="choice of 2"):
        RiceReader(body(b"\x20", b"\0"), 8).flag()
    writer = RiceWriter()
    writer.subset(np.array([0, 3]), 4)
    with pytest.raises(CodecError, match="names place 3 of 3"):
        reading(writer).subset(3)


def test_bits_that_fill_up_the_last_byte_are_zeros():
    reader = RiceReader(body(b"\x80", b"\x01"), 8)
    reader.number()
    with pytest.raises(CodecError, match="8 bits too many"):
        reader.end()
    reader.flags(4)
    with pytest.raises(CodecError, match="4 bits too many"):
        reader.end()
