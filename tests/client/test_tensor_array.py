import copy
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from flserve_app.artifact import Artifact
from flserve_app.client.records import read_array, to_record
from flserve_app.client.tensor_array import TensorArray, serialised_bytes

VALUES = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array(7, np.int64),
    np.zeros((0, 4), np.float16),
    np.array([True, False]),
    np.arange(4, dtype=np.complex64),
]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: f"{values.dtype}{values.shape}")
def test_it_is_what_flowers_own_array_is(values):
    ours, flowers = TensorArray(values), Array(values)
    assert serialised_bytes(ours) == serialised_bytes(flowers) == len(flowers.data)
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (
        flowers.dtype,
        flowers.shape,
        flowers.stype,
        flowers.data,
    )
    assert ours == flowers
    assert flowers == ours
    assert ours == TensorArray(values)
    assert ours != Array(np.ones(9))
    assert np.array_equal(ours.numpy(), values)


def test_it_travels_as_flowers_own_array():
    ours = RecordDict({"arrays": ArrayRecord({"w": TensorArray(VALUES[0])})})
    flowers = RecordDict({"arrays": ArrayRecord({"w": Array(VALUES[0])})})
    assert ours.object_id == flowers.object_id
    assert get_all_nested_objects(ours).keys() == get_all_nested_objects(flowers).keys()


@pytest.mark.parametrize("through", [copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))])  # noqa: S301
def test_a_copy_is_flowers_own_array(through):
    copied = through(RecordDict({"arrays": ArrayRecord({"w": TensorArray(VALUES[0])})}))
    assert type(copied["arrays"]["w"]) is Array
    assert copied["arrays"]["w"] == Array(VALUES[0])


def test_what_an_app_gets_may_be_written_to_and_the_version_stays():
    ours = TensorArray(VALUES[0])
    got = ours.numpy()
    got += 1
    assert np.array_equal(ours.numpy(), VALUES[0])


def test_it_is_read_in_place():
    assert read_array("w", TensorArray(VALUES[0])) is VALUES[0]


def test_a_record_of_an_artifact_serialises_nothing():
    artifact = Artifact({"w": VALUES[0], "n": VALUES[1]})
    record = RecordDict({"arrays": to_record(artifact)})["arrays"]
    for name, array in record.items():
        assert type(array) is TensorArray
        assert array.values is artifact[name]
    assert record == ArrayRecord({name: Array(values) for name, values in artifact.items()})
