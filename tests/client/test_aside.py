"""The state that an app's handler sees is the one that it wrote."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from flserve_app.client import versioned_mod
from flserve_app.client.aside import OWN, put_aside, records_of
from flserve_app.client.held import Held
from flserve_app.client.reference import Reference
from tests.client.contexts import artifact, context
from tests.client.test_client import Linear
from tests.client.test_client import message as to_linear
from tests.client.test_mod import NEW, deliver

NOTE = ConfigRecord({"n": 1})


@pytest.fixture
def where():
    return context(**{"partition-id": 1})


def answered(message):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)


def plain():
    return Message(RecordDict({"config": ConfigRecord()}), dst_node_id=11, message_type="query")


@pytest.mark.parametrize("second", [deliver, plain], ids=["delivery", "plain message"])
def test_a_handler_finds_its_own_records_alone(where, second):
    found = []

    def handler(message, context):
        found.append(list(context.state))
        context.state["note"] = NOTE
        return answered(message)

    versioned_mod(deliver(), where, handler)
    versioned_mod(second(), where, handler)
    assert found == [[], ["note"]]
    assert Held(where).digests("m") == (NEW.digest,)
    assert where.state["note"] == NOTE


def replace_it(context):
    context.state = RecordDict({"note": NOTE})


def clear_it(context):
    context.state.clear()
    context.state["note"] = NOTE


@pytest.mark.parametrize("change", [replace_it, clear_it])
def test_what_the_app_does_to_its_state_counts_and_what_is_held_stays(where, change):
    where.state["before"] = NOTE

    def handler(message, context):
        change(context)
        return answered(message)

    versioned_mod(deliver(), where, handler)
    assert [name for name in where.state if name not in OWN] == ["note"]
    assert Held(where).load(NEW.digest) == NEW


def test_a_handler_that_kept_hold_of_the_state_writes_to_it(where):
    kept = where.state

    def handler(message, context):
        kept["note"] = NOTE
        return answered(message)

    versioned_mod(deliver(), where, handler)
    assert where.state is kept
    assert kept["note"] == NOTE


def test_what_is_held_stays_where_a_handler_fails(where):
    def fails(message, context):
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        versioned_mod(deliver(), where, fails)
    assert Held(where).digests("m") == (NEW.digest,)
    assert records_of(where) is where.state


def test_a_client_may_predict_while_it_trains(where):
    outputs, states = [], []

    class Predicting(Linear):
        def fit(self, parameters, config):
            outputs.append(self.predict(np.zeros((1, 2), np.float32)))
            states.append(list(where.state))
            return super().fit(parameters, config)

    Predicting(where).handle_train(to_linear())
    assert np.array_equal(outputs[0], [[10.0, 20.0]])
    assert states == [[]]


def test_a_block_within_a_block_changes_nothing(where):
    Held(where).install(_reference(), artifact(0))
    with put_aside(where):
        with put_aside(where):
            assert not where.state
        assert not where.state
        assert records_of(where)
    assert records_of(where) is where.state


def _reference():
    return Reference(model="m", version=1, digest=artifact(0).digest)
