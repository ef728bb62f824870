import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.codec.frames import compress, decompress, squeeze, unsqueeze
from flserve_app.errors import CodecError


@given(st.binary(max_size=300) | st.integers(0, 3000).map(bytes))
def test_squeezed_data_come_back_and_are_never_longer(data):
    body = squeeze(data)
    assert len(body) <= len(data)
    assert bytes(unsqueeze(memoryview(bytes(body)), len(data))) == data


@pytest.mark.parametrize("size", [0, 999, 1001, 1 << 40])
def test_frame_of_another_size_is_refused(size):
    with pytest.raises(CodecError, match="declares 1000 bytes"):
        decompress(memoryview(compress(bytes(1000))), size)


@pytest.mark.parametrize("tail", [b"x", compress(bytes(1000))])
def test_data_after_the_frame_are_refused(tail):
    with pytest.raises(CodecError):
        decompress(memoryview(compress(bytes(1000)) + tail), 1000)


def test_cut_frame_is_refused():
    frame = compress(bytes(range(256)) * 4)
    for size in range(len(frame)):
        with pytest.raises(CodecError):
            decompress(memoryview(frame[:size]), 1024)
