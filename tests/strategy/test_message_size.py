import copy
import hashlib
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from flserve_app.client import object_size
from flserve_app.client.wire import PAYLOAD, payload_array
from flserve_app.strategy.message_size import message_bytes
from tests.fleet import set_identity


def message(**records):
    set_identity()
    return Message(RecordDict(records), dst_node_id=1, message_type="train")


def pushed(item, found=None):
    """Return the bytes of the objects Flower would push: all that are reached, each once."""
    found = {} if found is None else found
    for child in (item.children or {}).values():
        pushed(child, found)
    found[item.object_id] = len(item.deflate())
    return found


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"config": ConfigRecord({"a": 1, "b": [1.0, 2.0], "c": b"xyz"})},
        {"arrays": ArrayRecord({"w": Array(np.zeros((3, 4))), "b": Array(np.ones(1))})},
        {"arrays": ArrayRecord({"w": Array(np.zeros(3)), "same": Array(np.zeros(3))})},
        {"payload": ArrayRecord({"payload": payload_array(b"x" * 1000)})},
        {"large": ArrayRecord({"payload": payload_array(bytes(range(256)) * 50_000)})},
        {PAYLOAD: ArrayRecord({"payload": payload_array(b"x" * 1000)})},
        {PAYLOAD: ArrayRecord({"payload": payload_array(b"")})},
        {PAYLOAD: ArrayRecord({"payload": payload_array(bytes(range(256)) * 50_000)})},
        {"config": ConfigRecord({"a": 1}), PAYLOAD: ArrayRecord({"payload": payload_array(bytes(11_000_000))})},
        {PAYLOAD: ArrayRecord({"other": payload_array(b"x")})},
        {PAYLOAD: ConfigRecord({"a": 1})},
    ],
)
def test_it_is_the_bytes_of_all_objects_flower_pushes(records):
    assert message_bytes(message(**records)) == sum(pushed(message(**records)).values())


@pytest.mark.parametrize("chunks", [10, 40])
def test_chunks_that_look_alike_are_hashed_once_each_and_never_compared_in_pairs(monkeypatch, chunks):
    monkeypatch.setattr(object_size, "CHUNK_BYTES", 4096)
    hashed = []
    monkeypatch.setattr(object_size.hashlib, "sha256", lambda real=hashlib.sha256: hashed.append(1) or real())
    data = bytearray(chunks * 4096)
    for at in range(chunks):
        data[(at + 1) * 4096 - 1] = at + 1
    size = object_size.array_bytes(payload_array(bytes(data)))
    assert len(hashed) == chunks
    assert size > chunks * 4096
    hashed.clear()
    object_size.array_bytes(payload_array(np.random.default_rng(0).bytes(chunks * 4096)))
    assert not hashed, "honest chunks need not be hashed"


def test_an_error_has_a_size_too():
    reply = Message(Error(code=2, reason="boom"), reply_to=message())
    assert message_bytes(reply) == sum(pushed(reply).values())


def test_a_measured_message_can_be_pickled_even_with_equal_arrays():
    """As BatchNorm has: its weights and variances are ones, its biases and means zeros."""
    measured = message(arrays=ArrayRecord({name: Array(np.ones(5)) for name in ("weight", "running_var")}))
    size = message_bytes(measured)
    assert len(pickle.dumps(measured)) > 0
    assert message_bytes(copy.deepcopy(measured)) == size
