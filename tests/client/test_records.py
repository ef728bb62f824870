from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flserve_app.artifact import DTYPES, Artifact, bfloat16
from flserve_app.client.records import read_array, to_artifact, to_record
from flserve_app.errors import ArtifactError

PLAIN = [dtype.storage for dtype in DTYPES.values() if dtype.name != "bfloat16"]
arrays = hnp.arrays(st.sampled_from(PLAIN), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@given(st.lists(arrays, max_size=4))
def test_artifacts_come_back_from_records(found):
    artifact = Artifact({f"t{at}": array for at, array in enumerate(found)})
    record = to_record(artifact)
    assert to_artifact(record) == artifact
    for name, array in record.items():
        loaded = array.numpy()  # as Flower itself reads it
        assert loaded.dtype == artifact[name].dtype
        assert loaded.tobytes() == artifact[name].tobytes()


@given(arrays)
def test_flowers_own_arrays_are_read_as_flower_reads_them(value):
    for array in (value, np.asfortranarray(value), value.astype(value.dtype.newbyteorder(">"))):
        read = read_array("t", Array(array))
        assert read.dtype == array.dtype
        assert read.shape == array.shape
        assert np.array_equal(read, array, equal_nan=value.dtype.kind in "fc")
        assert not read.flags.writeable


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
def test_a_malformed_stream_is_refused_and_nothing_else_happens(noise, at, byte):
    whole = bytearray(Array(np.arange(6, dtype=np.float32).reshape(2, 3)).data)
    whole[at % len(whole)] = byte
    for data in (noise, bytes(whole), bytes(whole[:at])):
        array = Array("float32", (2, 3), "numpy.ndarray", data)
        with suppress(ArtifactError):
            assert read_array("t", array).nbytes <= len(data)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            Array("float32", (1,), "flserve.payload", b"1234"),
            "serialised as 'flserve.payload', expected 'numpy.ndarray'",
        ),
        (Array("float32", (1,), "numpy.ndarray", b"1234"), "not a well-formed .npy stream"),
    ],
)
def test_what_is_no_numpy_stream_is_refused(array, message):
    with pytest.raises(ArtifactError, match=message):
        read_array("t", array)


def test_object_arrays_are_never_read():
    from io import BytesIO

    stream = BytesIO()
    np.save(stream, np.asarray([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="object arrays are not allowed"):
        read_array("t", Array("object", (1,), "numpy.ndarray", stream.getvalue()))


def test_reading_copies_nothing():
    array = Array(np.arange(1000, dtype=np.float32))
    read = read_array("t", array)
    assert np.shares_memory(read, np.frombuffer(array.data, dtype=np.uint8))
    assert np.shares_memory(to_artifact(ArrayRecord({"t": array}))["t"], read)


def test_bfloat16_is_float32_in_a_record_and_itself_in_an_artifact():
    bits = np.array([0x3F80, 0x7FC1, 0x8000, 0xFF80], dtype=np.uint16)
    held = Artifact({"w": bits}, dtypes={"w": "bfloat16"})
    record = to_record(held)
    assert record["w"].numpy().dtype == np.float32
    assert to_artifact(record, like=held) == held
    assert to_artifact(record).specs["w"].dtype == "float32"


def test_nothing_is_rounded_to_bfloat16_that_is_not():
    held = Artifact({"w": np.zeros(2, dtype=np.uint16)}, dtypes={"w": "bfloat16"})
    values = np.array([1.0, 1.0 + 2**-20], dtype=np.float32)
    assert not bfloat16.is_exact(values)
    found = to_artifact(ArrayRecord({"w": Array(values)}), like=held)
    assert found.specs["w"].dtype == "float32"
    assert np.array_equal(found["w"], values)
    reshaped = to_artifact(ArrayRecord({"w": Array(np.zeros((1, 2), dtype=np.float32))}), like=held)
    assert reshaped.specs["w"].dtype == "float32"
