import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import fixedclipping_mod

from flserve_app.client.integers import floats_only, is_integer, join, split
from tests.fleet import set_identity


def record(**values):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


MIXED = {"a": np.ones(2, np.float32), "n": np.int64(3), "b": np.zeros(1, np.float64), "flag": np.asarray(True)}


@pytest.mark.parametrize(
    ("dtype", "integer"),
    [("int64", True), ("uint8", True), ("bool", True), ("float16", False), ("float64", False), ("complex64", False)],
)
def test_integers_are_told_by_their_dtype(dtype, integer):
    assert is_integer(Array(np.zeros(2, dtype))) is integer


def test_what_is_split_is_joined_in_its_place():
    mixed = record(**MIXED)
    floats, integers = split(mixed)
    assert (list(floats), list(integers)) == (["a", "b"], ["n", "flag"])
    assert list(join(floats, integers, list(mixed))) == list(mixed)
    assert list(join(floats, {**integers, "later": Array(np.zeros(1))}, list(mixed)))[-1] == "later"


def test_a_record_of_floats_alone_is_handed_on_as_it_is():
    floats = record(a=1.0)
    assert split(floats) == (floats, {})
    assert split(floats)[0] is floats


def context():
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def message(**values):
    set_identity()
    content = RecordDict({"arrays": record(**values), "config": ConfigRecord({"clipping_norm": 1.0})})
    sent = Message(content, dst_node_id=1, message_type="train")
    sent.metadata.__dict__["_message_id"] = "m1"
    return sent


def trained(seen):
    def handler(given, _):
        seen.append(list(given.content["arrays"]))
        moved = {
            name: Array(np.asarray(array.numpy() + np.asarray(100 if is_integer(array) else 3).astype(array.dtype)))
            for name, array in given.content["arrays"].items()
            if array.dtype != "bool"
        }
        if "flag" in given.content["arrays"]:
            moved["flag"] = Array(np.asarray(False))
        moved = {name: moved[name] for name in given.content["arrays"]}
        content = RecordDict({"arrays": ArrayRecord(moved), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=given)

    return handler


def test_the_app_sees_all_tensors_and_the_mod_floats_alone():
    seen = []
    reply = floats_only(fixedclipping_mod)(message(**MIXED), context(), trained(seen))
    found = {name: array.numpy() for name, array in reply.content["arrays"].items()}
    assert seen == [["a", "n", "b", "flag"]]
    assert list(found) == list(MIXED)
    assert found["n"] == 103
    assert found["flag"] == np.asarray(False)
    update = [found["a"] - 1, found["b"]]
    assert np.sqrt(sum(float((part**2).sum()) for part in update)) == pytest.approx(1.0)


def test_without_the_wrapper_the_counter_takes_the_norm():
    bare = fixedclipping_mod(message(a=np.zeros(2, np.float32), n=np.int64(3)), context(), trained([]))
    assert np.abs(bare.content["arrays"]["a"].numpy()).max() < 0.05
    kept = floats_only(fixedclipping_mod)(message(a=np.zeros(2, np.float32), n=np.int64(3)), context(), trained([]))
    assert np.abs(kept.content["arrays"]["a"].numpy()).max() == pytest.approx(np.sqrt(0.5))


def test_a_message_without_integers_or_content_passes_as_it_is():
    passed = []

    def mod(given, _, call_next):
        passed.append(given)
        return call_next(given, _)

    plain = message(a=np.zeros(2, np.float32))
    reply = floats_only(mod)(plain, context(), trained([]))
    assert passed[0] is plain
    assert list(reply.content["arrays"]) == ["a"]


def test_an_error_of_the_app_stays_one():
    def failing(given, _):
        return Message(Error(code=2, reason="boom"), reply_to=given)

    reply = floats_only(fixedclipping_mod)(message(**MIXED), context(), failing)
    assert reply.has_error()
