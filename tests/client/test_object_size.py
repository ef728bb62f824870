"""What Flower carries of a model, counted without serialising it."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from flserve_app.artifact import Artifact
from flserve_app.client import object_size
from flserve_app.client.object_size import carried_bytes, object_bytes, record_bytes
from flserve_app.client.records import to_artifact, to_record
from flserve_app.client.wire import payload_array
from flserve_app.codec.ties import ties_of

DRAW = np.random.default_rng(0)
EMBEDDING = DRAW.normal(size=(200, 16)).astype("f4")


def carried(record):
    return sum(len(each.deflate()) for each in get_all_nested_objects(record).values())


MODELS = {
    "nothing": {},
    "three numbers": {"w": np.ones(3, "f4")},
    "tied": {"wte": EMBEDDING, "h": EMBEDDING[:3], "lm_head": EMBEDDING},
    "tied thrice": dict.fromkeys(["shared", "encoder", "decoder", "head"], EMBEDDING),
    "zeros": {"a": np.zeros(50), "b": np.zeros(50, "f4"), "c": np.zeros((5, 10)), "d": np.zeros(50)},
    "empty": {"a": np.zeros((0, 3)), "b": np.zeros((0, 3)), "s": np.int64(3), "t": np.int64(3), "é": np.float16(1)},
    "chunks": {"z": np.zeros(4000), "y": np.zeros(5000), "r": DRAW.normal(size=3000), "again": np.zeros(4000)},
}


@pytest.mark.parametrize("chunk", [1 << 12, 5 << 20])
@pytest.mark.parametrize("name", MODELS)
def test_a_record_is_counted_as_flower_carries_it(monkeypatch, name, chunk):
    monkeypatch.setattr(object_size, "CHUNK_BYTES", chunk)
    monkeypatch.setattr("flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", chunk)
    plain = ArrayRecord({key: Array(np.asarray(value)) for key, value in MODELS[name].items()})
    artifact = to_artifact(plain)
    ours = to_record(artifact)
    expected = carried(plain)
    assert record_bytes(plain) == record_bytes(ours) == record_bytes(ours, ties_of(artifact)) == expected
    assert object_bytes(plain) == expected


def test_bfloat16_is_counted_as_the_float32_that_travels():
    bits = DRAW.integers(0, 1 << 14, (8, 8)).astype("u2")
    artifact = Artifact({"w": bits, "tied": bits}, dtypes=dict.fromkeys(["w", "tied"], "bfloat16"))
    record = to_record(artifact)
    assert record_bytes(record, ties_of(artifact)) == carried(record)


def test_ties_spare_hashing(monkeypatch):
    artifact = Artifact({"a": EMBEDDING, "b": EMBEDDING})
    ties = ties_of(artifact)
    monkeypatch.setattr(object_size, "_digest", lambda chunk: pytest.fail("hashed"))
    assert record_bytes(to_record(artifact), ties) < 2 * EMBEDDING.nbytes


def test_a_content_is_counted_without_its_arrays_being_hashed(monkeypatch):
    tied = to_record(Artifact({"a": EMBEDDING, "b": EMBEDDING + 1}))
    payload = ArrayRecord({"payload": payload_array(b"x" * 100)})
    contents = [
        RecordDict(),
        RecordDict({"config": ConfigRecord({"a": 1}), "metrics": MetricRecord({"b": 1.0})}),
        RecordDict({"arrays": tied}),
        RecordDict({"arrays": tied, "more": to_record(Artifact({"c": EMBEDDING[:9]})), "config": ConfigRecord()}),
        RecordDict({"flserve": ConfigRecord({"a": b"x"}), "flserve.payload": payload}),
        RecordDict({"empty": ArrayRecord()}),
    ]
    expected = [carried(each) for each in contents]
    monkeypatch.setattr(object_size, "_digest", lambda chunk: pytest.fail("hashed"))
    assert [carried_bytes(each) for each in contents] == expected
    assert carried_bytes(contents[2], {"arrays": 0}) == expected[2] - carried(tied)
