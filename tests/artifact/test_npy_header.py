"""Headers of .npy streams: what numpy writes is read as numpy reads it; anything else is refused, and costs nothing."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.artifact.npy_header import LONGEST, read_npy_header
from flserve_app.errors import ArtifactError

DTYPES = st.sampled_from(["?", "i1", "<i2", ">i4", "u1", ">u2", "u8", "<f2", ">f4", "<c8", ">c16", "S3", "<U2"])


def headed(text, version=(1, 0)):
    data = text.encode("latin-1")
    return b"\x93NUMPY" + bytes(version) + len(data).to_bytes(2 if version == (1, 0) else 4, "little") + data


@given(DTYPES, st.lists(st.integers(0, 9), max_size=4), st.booleans(), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_what_numpy_writes_is_read_as_numpy_reads_it(dtype, shape, fortran, version):
    values = np.zeros(shape, dtype, order="F" if fortran else "C")
    stream = BytesIO()
    np.lib.format.write_array(stream, values, version)
    header = read_npy_header(stream.getvalue())
    stream.seek(8)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    assert (header.shape, header.fortran, header.dtype) == read(stream)
    assert header.offset == stream.tell()


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 5)}",
        '{"shape":(8,5,),"fortran_order":False,"descr":"<f4",}',
        "  {  'descr'  :  '<f4'  ,  'fortran_order'  :  False  ,  'shape'  :  (  8  ,  5  )  }  \n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (8L, 5L), }",
    ],
)
def test_other_writers_are_read_too(text):
    header = read_npy_header(headed(text))
    assert (header.shape, header.dtype, header.fortran) == ((8, 5), np.float32, False)


@given(st.binary(max_size=80) | st.text("{}()[],:'\"-0123456789L <f4descrshapefortran_orderTrueFalse", max_size=80))
def test_noise_is_refused_and_nothing_else_happens(noise):
    for stream in (noise if isinstance(noise, bytes) else headed(noise),):
        with pytest.raises(ArtifactError):
            read_npy_header(stream)


@given(st.integers(0, 70), st.integers(0, 127))
def test_a_byte_that_is_another_gives_a_header_or_a_refusal(at, byte):
    whole = bytearray(headed("{'descr': '<f4', 'fortran_order': False, 'shape': (8, 5), }"))
    whole[at % len(whole)] = byte
    try:
        header = read_npy_header(bytes(whole))
    except ArtifactError:
        return
    assert header.dtype.kind in "biufcSU"
    assert all(dim >= 0 for dim in header.shape)


@pytest.mark.parametrize(
    "text", ["(" * LONGEST, "{" * 3000, "-" * 4000, "{'shape': (" + "9," * 1900 + ")}", " " * 4096]
)
def test_what_exhausts_a_parser_is_read_in_no_time(text):
    with pytest.raises(ArtifactError) as caught:
        read_npy_header(headed(text))
    assert len(str(caught.value)) < 300
