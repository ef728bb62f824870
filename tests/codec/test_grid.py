from math import ldexp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.artifact import DTYPES, Artifact
from flserve_app.codec import Rounded, decode, encode_rounded, inspect
from flserve_app.codec.coders import MOST_WORDS
from flserve_app.codec.floats import floats_of, moved, nearest_steps, words_of_floats
from flserve_app.codec.grid import (
    CHUNK_WORDS,
    CROSSED,
    DENSE,
    GRID_DELTA,
    PATCHED,
    SPARSE_WORDS,
    WIDE,
)
from flserve_app.codec.grouping import Grouping
from flserve_app.codec.wire import Reader
from flserve_app.errors import CodecError
from tests.codec.examples import bits

FLOATS = ("float32", "float64", "float16", "bfloat16")
SPECIAL = (0.0, -0.0, 1e-45, -1e-40, np.inf, -np.inf, np.nan, 3e38, 1.0, 6e-8, 65504.0)


def words(dtype: str, seed: int, size: int):
    """Words of special and ordinary values, of NaNs with payloads, and of any bits."""
    random = RandomState(seed)
    kinds = random.randint(0, 3, size)
    noise = bits(dtype, (size,), random.bytes(size * DTYPES[dtype].word.itemsize)).view(DTYPES[dtype].word)
    with np.errstate(all="ignore"):
        special = words_of_floats(random.choice(np.array(SPECIAL, "f8"), size).astype(kind_of(dtype)), DTYPES[dtype])
    usual = words_of_floats(random.normal(0, 0.1, size).astype(kind_of(dtype)), DTYPES[dtype])
    return np.choose(kinds, [noise, special, usual]).astype(DTYPES[dtype].word)


def steps_of(least: int, most: int):
    return st.builds(lambda m, e: ldexp(m, e - 2), st.sampled_from([4, 5, 6, 7]), st.integers(least, most))


def kind_of(dtype: str) -> str:
    return "f8" if dtype == "float64" else "f4"


@given(st.sampled_from(FLOATS), st.integers(0, 10**6), steps_of(-100, 100), st.sampled_from([0, 16, 24]))
def test_any_target_comes_back_from_any_base(dtype, seed, step, row):
    base, target = words(dtype, seed, 96), words(dtype, seed + 1, 96)
    random = RandomState(seed)
    kept = random.random_sample(96) < random.choice([0.0, 0.5, 0.95])
    target[kept] = base[kept]
    assert unpacked(dtype, step, row, base, target) == target.tobytes()


@given(st.sampled_from(FLOATS), st.integers(0, 10**6), steps_of(-12, -4), st.sampled_from([0, 16, 24]))
def test_steps_leave_all_else_as_it_is(dtype, seed, step, row):
    base = words(dtype, seed, 96)
    random = RandomState(seed)
    steps = random.randint(-3, 4, 96) * np.isfinite(floats_of(base, DTYPES[dtype])) * random.randint(0, 2, 96)
    target = base.copy()
    target[steps != 0] = moved(base[steps != 0], steps[steps != 0], step, DTYPES[dtype])
    assert unpacked(dtype, step, row, base, target) == target.tobytes()


def unpacked(dtype, step, row, base, target) -> bytes:
    layout = GRID_DELTA.layout(DTYPES[dtype], step, row=row, words=base.size)
    layout = GRID_DELTA.open(memoryview(layout.side), DTYPES[dtype], base.size)
    span, out = slice(0, base.size), np.empty_like(base)
    body = layout.pack(target, base, span)
    if len(body) == out.nbytes:
        return body
    layout.unpack(memoryview(body), base, span, out)
    return out.tobytes()


@pytest.mark.parametrize(("count", "step"), [(3, 2.0**-9), (-1, 7 * 2.0**-9), (2**24 - 1, 2.0**-9), (2**21 - 1, 7.0)])
def test_steps_are_found_again(count, step):
    dtype, base = DTYPES["float32"], np.array([0.0], "<f4").view("<u4")
    target = moved(base, np.array([count]), step, dtype)
    assert nearest_steps(base, target, step, dtype).tolist() == [count]


def test_what_is_off_the_grid_is_near_a_step_or_out_of_reach():
    dtype = DTYPES["float32"]
    base, target, far = (np.array([value], "<f4").view("<u4") for value in (1.0, 1.3, 1e30))
    assert nearest_steps(base, target, 0.125, dtype).tolist() == [2]
    assert nearest_steps(base, far, 0.125, dtype) is None
    assert nearest_steps(base, np.array([np.nan], "<f4").view("<u4"), 0.125, dtype) is None


def test_a_tensor_of_many_chunks_that_moved_in_a_few_places():
    old = RandomState(0).normal(0, 0.1, (2100, 1024)).astype("f4")
    new = old.copy()
    new[3, 5] += 2.0**-6
    new[2099, 1000:1010] -= 2.0**-6
    base, target = Artifact({"w": old}), Artifact({"w": new})
    payload = encode_rounded(Rounded(artifact=target, steps={"w": 2.0**-6}), base)
    assert decode(payload, base) == target
    assert len(payload) < 150
    assert [tensor.op for tensor in inspect(payload).tensors] == ["grid-delta"]


@pytest.mark.parametrize(
    ("row", "scales", "chunk"),
    [
        (0, 0, CHUNK_WORDS),
        (1000, 2000, CHUNK_WORDS // 1000 * 1000),
        (1000, 0, SPARSE_WORDS // 1000 * 1000),
        (5000, 0, SPARSE_WORDS // 5000 * 5000),
        (1 << 17, 0, SPARSE_WORDS),
    ],
)
def test_chunks_are_large_where_places_are_told_by_row_and_column_and_nothing_is_sorted(row, scales, chunk):
    dtype, grouping = DTYPES["float32"], Grouping(row=row, scales=bytes(scales))
    layout = GRID_DELTA.layout(dtype, 2.0**-6, row=row, words=1000 * max(row, 1), grouping=grouping)
    assert layout.chunk_words == chunk
    assert GRID_DELTA.chunk_words(memoryview(layout.side)) == chunk


@pytest.mark.parametrize(("far", "form"), [(40, DENSE), (1 << 17, WIDE)])
def test_a_large_chunk_that_moved_nearly_everywhere_is_paged(far, form):
    dtype, size = DTYPES["float32"], MOST_WORDS + 16
    base = np.zeros(size, "<u4")
    steps = RandomState(5).randint(1, far, size)
    target = moved(base, steps, 2.0**-6, dtype)
    layout, out = GRID_DELTA.layout(dtype, 2.0**-6, row=16, words=size), np.empty_like(base)
    body = layout.pack(target, base, slice(0, size))
    assert body[0] == form
    layout.unpack(memoryview(body), base, slice(0, size), out)
    assert np.array_equal(out, target)


def test_a_tensor_whose_rows_move_by_different_scales_is_sorted():
    random = RandomState(3)
    scales = 2.0 ** random.randint(-3, 4, (256, 1)) * 2.0 ** random.randint(-2, 3, 1024)
    old = random.normal(0, 0.1, (256, 1024)).astype("f4")
    new = (old + np.rint(random.normal(0, 1, old.shape) * scales) * 2.0**-12).astype("f4")
    base, target = Artifact({"w": old}), Artifact({"w": new})
    payload = encode_rounded(Rounded(artifact=target, steps={"w": 2.0**-12}), base)
    assert decode(payload, base) == target
    steps = np.rint((new.astype("f8") - old) * 2.0**12).astype(int)
    counts = np.unique(steps, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / steps.size)).sum() / 8
    assert len(payload) < 0.85 * entropy


def test_a_tensor_whose_rows_move_alike_is_not_sorted():
    random = RandomState(3)
    old = random.normal(0, 0.1, (512, 1024)).astype("f4")
    new = (old + np.rint(random.normal(0, 1, old.shape)) * 2.0**-12).astype("f4")
    base, target = Artifact({"w": old}), Artifact({"w": new})
    payload = encode_rounded(Rounded(artifact=target, steps={"w": 2.0**-12}), base)
    assert decode(payload, base) == target
    steps = np.rint((new.astype("f8") - old) * 2.0**12).astype(int)
    counts = np.unique(steps, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / steps.size)).sum() / 8
    # Sorted, it would have the 1,536 scales besides.
    assert len(payload) < 1.01 * entropy + 400


@pytest.mark.parametrize("shape", [(4, 4096), (1024, 256)])
def test_rows_are_told_where_less_than_a_quarter_moves(shape):
    """Too few rows for scales, or rows that move alike: places and signs are told by row all the same."""
    random = RandomState(3)
    old = random.normal(0, 0.1, shape).astype("f4")
    if shape[0] == 4:
        moving = (random.random_sample(shape[1]) < 0.2) & (random.random_sample(shape) < 0.85)
        signs = 2 * random.randint(0, 2, shape) - 1
    else:
        moving = random.random_sample(shape) < 0.22
        signs = (2 * random.randint(0, 2, (shape[0], 1)) - 1) * np.where(random.random_sample(shape) < 0.97, 1, -1)
    new = (old + moving * signs * 2.0**-12).astype("f4")
    base, target = Artifact({"w": old}), Artifact({"w": new})
    payload = encode_rounded(Rounded(artifact=target, steps={"w": 2.0**-12}), base)
    assert decode(payload, base) == target
    share = moving.mean()
    flat = old.size * -(share * np.log2(share / 2) + (1 - share) * np.log2(1 - share)) / 8
    assert len(payload) < 0.9 * flat


def test_values_off_the_grid_are_patched_where_places_are_told_by_row_and_column():
    dtype, random = DTYPES["float32"], RandomState(3)
    often = (np.arange(64) % 6 == 0)[:, None] & (np.arange(256) % 5 == 0)
    steps = (often & (random.randint(0, 8, often.shape) > 0)).reshape(-1).astype(np.int64)
    base = random.normal(0, 0.1, steps.size).astype("f4").view("<u4")
    target = base.copy()
    target[steps > 0] = moved(base[steps > 0], steps[steps > 0], 2.0**-6, dtype)
    target[::3] += random.randint(0, 9, target[::3].size).astype("<u4")
    layout, out = GRID_DELTA.layout(dtype, 2.0**-6, row=256, words=base.size), np.empty_like(base)
    body = layout.pack(target, base, slice(0, base.size))
    reader = Reader(memoryview(body)[1:])
    assert (body[0], reader.take(reader.varint())[0]) == (PATCHED, CROSSED)
    layout.unpack(memoryview(body), base, slice(0, base.size), out)
    assert np.array_equal(out, target)


def test_a_value_off_the_grid_is_patched():
    old = RandomState(0).normal(0, 0.1, CHUNK_WORDS + 1000).astype("f4")
    new = old.copy()
    new[7] *= 1.7
    new[8] = np.nextafter(new[8], np.float32(1))
    new[9:400] += 2.0**-6
    base, target = Artifact({"w": old}), Artifact({"w": new})
    payload = encode_rounded(Rounded(artifact=target, steps={"w": 2.0**-6}), base)
    assert decode(payload, base) == target
    assert len(payload) < 250


def test_a_chunk_that_no_steps_lead_to_travels_as_it_is():
    old = RandomState(0).normal(0, 0.1, CHUNK_WORDS + 1000).astype("f4")
    new = old.copy()
    new[0] = 1e30
    new[-1] += 2.0**-6
    base, target = Artifact({"w": old}), Artifact({"w": new})
    payload = encode_rounded(Rounded(artifact=target, steps={"w": 2.0**-6}), base)
    assert decode(payload, base) == target
    assert 4 * CHUNK_WORDS < len(payload) < 4 * CHUNK_WORDS + 200


@pytest.mark.parametrize(
    ("side", "dtype", "message"),
    [
        (b"", "float32", "step: no bytes"),
        (bytes((203, 201)), "float32", "step: 7 quarters"),
        (b"\x01\x0f", "float32", "row length is 15"),
        (b"\x01\x10\x00", "float32", "zstd frame cannot be read"),
        (b"\x01\x13", "float32", "64 words are no whole rows of 19"),
        (bytes((202, 1, 15)), "float32", "row length is 15"),
        (b"\x01", "int32", "int32 words, expected floats"),
    ],
)
def test_bad_side_bytes_are_refused(side, dtype, message):
    with pytest.raises(CodecError, match=message):
        GRID_DELTA.open(memoryview(side), DTYPES[dtype], 64)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\x06\0", "form 6"),
        (b"\x04\x02\x04\0", "form 4"),
        (b"\x04\x09\x02", "patched chunk ends"),
        (b"\x04\0\0", "holds no numbers"),
        (b"\x03\0", "form 3"),
        (b"\x05\0", "form 5"),
        (b"\x00\0", "pcodec"),
        (b"\x02", "list ends"),
        (b"\x02" + bytes(300), "of 256 bytes has a body of 301"),
    ],
)
def test_bad_bodies_are_refused(body, message):
    base = np.zeros(64, "<u4")
    layout = GRID_DELTA.layout(DTYPES["float32"], -3, row=0, words=64)
    with pytest.raises(CodecError, match=message):
        layout.unpack(memoryview(body), base, slice(0, 64), np.empty_like(base))


def test_a_base_is_needed():
    layout = GRID_DELTA.layout(DTYPES["float32"], -3, row=0, words=4)
    with pytest.raises(CodecError, match="needs a base"):
        layout.pack(np.zeros(4, "<u4"), None, slice(0, 4))
