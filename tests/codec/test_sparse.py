import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.codec.crossing import Cells, is_uneven
from flserve_app.codec.grid import CROSSED, PLAIN
from flserve_app.codec.sparse import pack_sparse, unpack_sparse
from flserve_app.errors import CodecError
from tests.codec.mutations import mutations


def spotted(seed: int, rows: int, columns: int, share: float):
    """Places and steps of a matrix of which some rows and columns change far more often than others."""
    random = RandomState(seed)
    often = 2.0 ** random.randint(-9, 1, (rows, 1)) * 2.0 ** random.randint(-9, 1, columns)
    places = np.flatnonzero(random.random_sample((rows, columns)) < share * often / often.mean())
    steps = random.randint(1, 4, places.size) * (random.randint(0, 2, rows) * 2 - 1)[places // columns]
    return places, steps


@st.composite
def chunks(draw):
    rows, columns = draw(st.sampled_from([(1, 4), (1, 700), (2, 16), (9, 40), (200, 17), (40, 40)]))
    places, steps = spotted(draw(st.integers(0, 999)), rows, columns, draw(st.sampled_from([0.005, 0.1, 0.2])))
    if not places.size:
        places, steps = np.array([rows * columns - 1]), np.array([draw(st.integers(1, (1 << 24) - 1))])
    some = slice(rows * columns // 4)  # no more may move
    return places[some], steps[some], rows, columns


@pytest.mark.parametrize("crossed", [False, True])
@given(chunk=chunks())
def test_steps_come_back(crossed, chunk):
    places, steps, rows, columns = chunk
    found = unpack_sparse(memoryview(pack_sparse(*chunk, crossed=crossed)[0]), rows, columns, crossed=crossed)
    order = np.argsort(found[0]) if crossed else slice(None)
    assert np.array_equal(found[0][order], places)
    assert np.array_equal(found[1][order], steps)


def test_rows_and_columns_that_change_often_save_bytes():
    uneven = spotted(0, 128, 512, 0.01)
    places = np.sort(RandomState(1).permutation(128 * 512)[: uneven[0].size])
    assert is_uneven(Cells.at(uneven[0], 128, 512))
    assert not is_uneven(Cells.at(places, 128, 512))
    body, crossed = pack_sparse(*uneven, 128, 512)
    assert crossed
    assert len(body) < 0.9 * len(pack_sparse(*uneven, 128, 512, crossed=False)[0])


@given(chunk=chunks())
def test_the_shorter_way_to_tell_the_places_is_taken(chunk):
    places, steps, rows, columns = chunk
    body, crossed = pack_sparse(*chunk)
    assert body == pack_sparse(*chunk, crossed=crossed)[0]
    # Steps that are all alike take the same bits in any order.
    alike = [pack_sparse(places, np.ones_like(steps), rows, columns, crossed=choice) for choice in (None, False)]
    assert alike[0][1] == crossed
    # A byte more: both strings of bits are filled up to whole bytes after what comes behind the places.
    assert len(alike[0][0]) <= len(alike[1][0]) + 1


def test_a_sign_that_prevails_in_a_row_is_told_once():
    places, steps = spotted(0, 64, 256, 0.05)
    mixed = steps * (RandomState(2).randint(0, 2, steps.size) * 2 - 1)
    saved = len(pack_sparse(places, mixed, 64, 256)[0]) - len(pack_sparse(places, steps, 64, 256)[0])
    assert saved > steps.size / 8 - 64 / 8 - 8


@pytest.mark.parametrize("crossed", [False, True])
def test_damaged_bodies_are_read_or_refused_and_never_out_of_bounds(crossed):
    body = pack_sparse(*spotted(3, 12, 40, 0.05), 12, 40, crossed=crossed)[0]
    refused = 0
    for _, damaged in mutations([body], 1500, seed=1):
        try:
            places, steps = unpack_sparse(memoryview(damaged), 12, 40, crossed=crossed)
        except CodecError:
            refused += 1
        else:
            assert places.size == steps.size
            assert places.size == np.unique(places).size
            assert places.min() >= 0
            assert places.max() < 12 * 40
            assert np.abs(steps).max() < 1 << 24
    assert refused > 500


@pytest.mark.parametrize("form", [PLAIN, CROSSED])
def test_a_body_of_more_elements_than_may_move_is_refused(form):
    for size, refused in ((1 << 12, False), ((1 << 12) + 1, True)):
        places, steps = np.sort(RandomState(0).permutation(1 << 14)[:size]), np.ones(size, np.int64)
        body = memoryview(pack_sparse(places, steps, 128, 128, crossed=form == CROSSED)[0])
        if refused:
            with pytest.raises(CodecError, match=r"places, (at most|expected 1 to) 4096"):
                unpack_sparse(body, 128, 128, crossed=form == CROSSED)
        else:
            assert unpack_sparse(body, 128, 128, crossed=form == CROSSED)[0].size == size


@pytest.mark.parametrize("form", [PLAIN, CROSSED])
def test_a_body_of_more_numbers_than_its_elements_have_is_refused(form):
    places, steps = np.arange(0, 1 << 14), np.full(1 << 14, 1 << 20)
    body = pack_sparse(places, steps, 128, 128, crossed=form == CROSSED)[0]
    with pytest.raises(CodecError, match="numbers or more, expected at most"):
        unpack_sparse(memoryview(body), 128, 128, crossed=form == CROSSED)
