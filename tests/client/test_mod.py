import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from flserve_app.client import Recipe, building, versioned_mod
from flserve_app.client.records import to_artifact
from flserve_app.client.wire import RECORD, Delivery, payload_array, put_delivery, take_answer
from flserve_app.codec import CODECS, encode
from flserve_app.errors import DeliveryError
from tests.client.contexts import artifact, context

OLD, NEW = artifact(0), artifact(1)


def deliver(kind="train", delivery=None, **records):
    content = RecordDict(records)
    if delivery is None:
        delivery = Delivery(action="deliver", model="m", target=NEW.digest, payloads=(payload_array(encode(NEW)),))
    put_delivery(content, delivery)
    return Message(content, dst_node_id=11, message_type=kind)


def echo(message, context):
    return Message(RecordDict(dict(message.content)), reply_to=message)


def forbidden(message, context):
    raise AssertionError("the handler was called")


@pytest.fixture
def where():
    return context(**{"partition-id": 1, "num-partitions": 6})


@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_the_handler_sees_a_plain_message(where, kind):
    seen = []

    def handler(message, _):
        seen.append(dict(message.content))
        return Message(RecordDict({"metrics": MetricRecord({"a": 1})}), reply_to=message)

    config = ConfigRecord({"lr": 0.1})
    reply = versioned_mod(deliver(kind, config=config), where, handler)
    assert list(seen[0]) == ["arrays", "config"]
    assert to_artifact(seen[0]["arrays"]) == NEW
    answer = take_answer(reply.content)
    assert (answer.status, answer.partitions, answer.held) == ("ok", 6, (NEW.digest,))
    assert list(reply.content) == ["metrics"]


def test_a_greeting_is_answered_without_the_handler(where):
    versioned_mod(deliver(), where, echo)
    reply = versioned_mod(deliver(delivery=Delivery(action="hello", model="m")), where, forbidden)
    answer = take_answer(reply.content)
    assert (answer.status, answer.identity, answer.held) == ("hello", "partition-1", (NEW.digest,))
    assert (answer.partitions, answer.base, answer.payload) == (6, "", None)


def hello(where, mod=versioned_mod, **fields):
    message = deliver(delivery=Delivery(action="hello", model="m", **fields))
    return take_answer(mod(message, where, forbidden).content)


def test_a_greeting_says_what_the_client_takes(where):
    assert set(hello(where).capabilities) == {"chain", "private", "tied", "inline", "beside", "empty", *CODECS}
    takes = hello(where, building(lambda recipe: NEW)).capabilities
    assert set(takes) == {"chain", "private", "tied", "inline", "beside", "recipe", "empty", *CODECS}


def test_a_client_that_can_build_needs_no_payload(where):
    recipe = Recipe(model_id="x", arguments={}, seed=0, input_shape=(), input_dtype="float32", classes=1).to_json()
    message = deliver(delivery=Delivery(action="deliver", model="m", target=NEW.digest, recipe=recipe))
    assert take_answer(building(lambda recipe: NEW)(message, where, echo).content).status == "ok"


def test_a_base_is_what_this_client_holds_under_whatever_name(tmp_path):
    one, other = (context(**{"partition-id": number, "cache-dir": str(tmp_path)}) for number in (1, 2))
    versioned_mod(deliver(), one, echo)
    assert hello(one, base=OLD.digest).held == (NEW.digest,)
    assert hello(one, base=NEW.digest).held == (NEW.digest,)
    assert hello(other, base=NEW.digest).held == (), "another client of the machine fetched it"
    asked = deliver(delivery=Delivery(action="hello", model="mine", base=NEW.digest))
    assert take_answer(versioned_mod(asked, one, forbidden).content).held == (NEW.digest,)
    delta = (payload_array(encode(OLD, NEW)),)
    moved = Delivery(action="deliver", model="mine", target=OLD.digest, payloads=delta)
    assert take_answer(versioned_mod(deliver(delivery=moved), other, echo).content).status == "nack"
    assert take_answer(versioned_mod(deliver(delivery=moved), one, echo).content).status == "ok"


def test_what_a_run_leaves_in_a_temporary_directory_is_not_searched(where):
    versioned_mod(deliver(), where, echo)
    other = context(**{"partition-id": 2})
    assert hello(other, base=NEW.digest).held == ()


def test_a_message_without_a_delivery_passes_as_it_is(where):
    message = Message(RecordDict({"arrays": ArrayRecord()}), dst_node_id=11, message_type="train")
    assert versioned_mod(message, where, lambda same, _: same) is message
    error = Message(Error(code=1, reason="lost"), reply_to=message)
    assert versioned_mod(error, where, lambda same, _: same) is error
    assert len(where.state) == 0


@pytest.mark.parametrize(
    ("delivery", "reason"),
    [
        (Delivery(action="deliver", model="m", target=NEW.digest), "partition-1 does not hold"),
        (Delivery(action="deliver", model="m", target=NEW.digest, payloads=(payload_array(b"x"),)), "payload"),
    ],
)
def test_what_cannot_be_followed_is_refused_without_the_handler(where, delivery, reason):
    answer = take_answer(versioned_mod(deliver(delivery=delivery), where, forbidden).content)
    assert answer.status == "nack"
    assert reason in answer.reason
    assert answer.held == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"protocol": 2}, "delivery protocol is 2, expected 1"), ({"model": 4}, "model is a int, expected a str")],
)
def test_another_protocol_is_refused(where, change, reason):
    message = deliver()
    message.content[RECORD].update(change)
    answer = take_answer(versioned_mod(message, where, forbidden).content)
    assert answer.status == "nack"
    assert reason in answer.reason


def test_a_state_that_was_spoiled_is_refused_not_crashed_on(where):
    where.state["flserve.held"] = ConfigRecord({"m": "nonsense"})
    answer = take_answer(versioned_mod(deliver(delivery=Delivery(action="hello", model="m")), where, echo).content)
    assert answer.held == ()
    assert take_answer(versioned_mod(deliver(), where, echo).content).status == "ok"


def test_a_crash_of_the_app_is_the_apps(where):
    def handler(message, _):
        raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError, match="boom"):
        versioned_mod(deliver(), where, handler)


def test_an_error_reply_of_the_app_passes(where):
    reply = versioned_mod(deliver(), where, lambda message, _: Message(Error(code=9), reply_to=message))
    assert reply.error.code == 9


def test_a_handler_has_to_return_a_message(where):
    with pytest.raises(DeliveryError, match="the app's handler returned a NoneType, expected a Message"):
        versioned_mod(deliver(), where, lambda message, _: None)


def test_partitions_that_are_no_number_are_not_told():
    odd = context(**{"partition-id": 1, "num-partitions": "many"})
    answer = take_answer(versioned_mod(deliver(delivery=Delivery(action="hello", model="m")), odd, echo).content)
    assert answer.partitions == 0


def test_the_servers_content_is_not_changed(where):
    message = deliver(config=ConfigRecord({"lr": 0.1}))
    content = message.content
    before = dict(content)
    versioned_mod(message, where, echo)
    assert dict(content) == before


def test_a_plain_array_of_the_app_beside_the_model_reaches_the_handler(where):
    extra = ArrayRecord({"mask": Array(artifact()["w"])})
    reply = versioned_mod(deliver(extra=extra), where, echo)
    assert reply.content["extra"] == extra
