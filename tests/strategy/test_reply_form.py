"""What two replies or more, and most, share is their form; else it is the model's."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from flserve_app.artifact import Artifact, bfloat16
from flserve_app.strategy.reply_form import form_of
from tests.fleet import set_identity

MODEL = Artifact({"a": np.zeros(2, "f4"), "b": np.zeros(3, "f4"), "n": np.asarray(0, "i8")})


def reply(**tensors):
    set_identity()
    arrays = ArrayRecord({name: Array(np.asarray(value)) for name, value in tensors.items()})
    return Message(RecordDict({"arrays": arrays}), dst_node_id=1, message_type="train")


def model(**others):
    return reply(**{name: MODEL[name] for name in MODEL} | others)


def part():
    return reply(n=np.asarray(1), a=np.ones(2, "f4"))


def crooked():
    found = part()
    found.content["arrays"]["a"].__dict__["data"] = b"nonsense"
    return found


def form(*replies, like=MODEL):
    return [(spec.name, spec.dtype, spec.shape) for spec in form_of(replies, like).values()]


WHOLE = [("a", "float32", (2,)), ("b", "float32", (3,)), ("n", "int64", ())]


@pytest.mark.parametrize(
    "replies",
    [
        (),
        (model(), model(), part()),
        (model(), part()),
        (part(),),
        (reply(x=np.zeros(2)),),
        (part(), part(), model(), crooked()),
        (part(), reply(b=np.zeros(3)), model(x=1.0)),
        (model(a=np.zeros(2, "f8")), model(a=np.zeros(2, "f2"))),
        (crooked(), crooked(), crooked()),
        (reply(), reply(), model()),
    ],
)
def test_it_is_the_models_unless_more_than_half_share_another(replies):
    assert form(*replies) == WHOLE


def test_it_is_theirs_if_they_do_in_the_models_order_and_dtypes():
    assert form(part(), part(), model()) == [WHOLE[0], WHOLE[2]]
    assert form(part(), reply(a=np.ones(2, "f8"), n=np.asarray(1.0))) == [WHOLE[0], WHOLE[2]]


def test_further_tensors_come_last_as_they_are_sent():
    more = reply(z=np.zeros(1, "f2"), n=np.asarray(0), y=np.zeros(4, "i4"), a=np.zeros((2, 1)))
    assert form(more, more) == [
        ("a", "float64", (2, 1)),
        ("n", "int64", ()),
        ("z", "float16", (1,)),
        ("y", "int32", (4,)),
    ]


def test_bfloat16_stays_the_models():
    like = Artifact({"a": bfloat16.narrow(np.zeros(2, "f4")), "b": np.zeros(1, "f4")}, dtypes={"a": "bfloat16"})
    assert form(*2 * [reply(a=np.zeros(2, "f4"))], like=like) == [("a", "bfloat16", (2,))]
