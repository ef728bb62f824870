"""What is handed to a strategy that aggregates by itself, and what is made of replies that it fails on."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from flserve_app.artifact import Artifact
from flserve_app.errors import AggregateError
from flserve_app.strategy.own_aggregation import UNUSUAL, readable, usual, with_those_alike
from tests.fleet import set_identity


def reply(weight=1.0, key="arrays", further=(), metrics=(), **tensors):
    set_identity()
    named = tensors or {"w": np.zeros(2)}
    arrays = ArrayRecord({name: Array(np.asarray(value)) for name, value in named.items()})
    numbers = MetricRecord({**({} if weight is None else {"num-examples": weight}), **dict(metrics)})
    content = RecordDict({key: arrays, "metrics": numbers, **dict(further)})
    return Message(content, dst_node_id=1, message_type="train")


def lying(**attributes):
    found = reply()
    vars(found.content["arrays"]["w"]).update(attributes)
    return found


FINE = {
    "no weight": reply(None),
    "a weight of nothing": reply(0),
    "a list for a weight": reply([1.0, 2.0]),
    "two records": reply(further={"variate": ArrayRecord({"w": Array(np.zeros(9))})}),
    "no record": Message(RecordDict(), dst_node_id=1, message_type="train"),
    "not finite": reply(w=np.asarray(np.nan)),
    "a serialisation of its own": lying(stype="app", data=b"anything"),
}
ODD = {
    "no stream": lying(data=b"nonsense"),
    "another shape than it says": lying(shape=(3,)),
    "another dtype than it says": lying(dtype="int64"),
    "a weight below nothing": reply(-1.0),
    "a weight that is no number": reply(float("nan")),
}


@pytest.mark.parametrize("found", FINE.values(), ids=FINE)
def test_what_can_be_read_is_handed_on(found):
    assert readable([found], "num-examples", finite=False).fine == [found]


@pytest.mark.parametrize("found", ODD.values(), ids=ODD)
def test_what_cannot_is_not(found):
    screened = readable([found], "num-examples", finite=False)
    assert screened.fine == []
    assert screened.odd[0][0] is found


def test_what_is_not_finite_is_left_out_where_it_is_asked_for():
    found = [reply(), reply(w=np.asarray(np.inf))]
    assert readable(found, "num-examples", finite=True).fine == found[:1]


@pytest.mark.parametrize(
    "other",
    [
        reply(key="weights"),
        reply(v=np.zeros(2)),
        reply(w=np.zeros(3)),
        reply(w=np.zeros(2, int)),
        reply(metrics={"loss": 1.0}),
        reply(None),
        FINE["two records"],
    ],
)
def test_a_second_try_is_made_of_those_that_are_alike(other):
    found = [other, reply(2), reply()]
    (screened,) = usual(found, "num-examples")
    assert screened.fine == found[1:]
    assert screened.odd == [(other, UNUSUAL)]


def test_forms_of_as_many_replies_are_tried_the_models_first():
    like = Artifact({"w": np.zeros(2, "f4")})
    part, whole, hostile = reply(a=np.zeros(1)), reply(), reply(metrics={"A": 1.0})
    assert [each.fine for each in usual([part, whole], "num-examples", like)] == [[whole], [part]]
    tried = []

    def ask(replies):
        tried.append(replies)
        replies[0].content = RecordDict()  # whatever it does to replies is undone before the next try
        if hostile in replies:
            raise AggregateError("KeyError: 'loss'")
        return "made"

    found = [hostile, whole]
    made, odd = with_those_alike(ask, found, lambda: usual(found, "num-examples", like))
    assert made == "made"
    assert odd == [(hostile, UNUSUAL)]
    assert tried[0] == found
    assert tried[-1] == [whole]


def test_it_is_not_asked_again_where_all_are_alike():
    def ask(replies):
        tried.append(replies)
        raise AggregateError("always")

    tried, found = [], [reply(), reply()]
    with pytest.raises(AggregateError, match="always"):
        with_those_alike(ask, found, lambda: usual(found, "num-examples"))
    assert len(tried) == 1
