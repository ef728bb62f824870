import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from flserve_app.artifact import Artifact
from flserve_app.client.fetch import Refusal, fetch, seal, with_arrays
from flserve_app.client.held import Held
from flserve_app.client.recipe import Recipe
from flserve_app.client.records import to_artifact, to_record
from flserve_app.client.wire import Delivery, payload_array, take_answer
from flserve_app.codec import decode, encode
from flserve_app.codec.wire import checksum, varint
from flserve_app.errors import TaskError
from tests.client.contexts import artifact, context

OLD, NEW = artifact(0), artifact(1)


@pytest.fixture
def held():
    return Held(context(**{"partition-id": 1}))


def delivery(target=NEW, payload=None, chain=(), **fields):
    carried = tuple(payload_array(each) for each in (*chain, payload) if each is not None)
    named = {"action": "deliver", "model": "m", "version": 1, "target": target and target.digest, "payloads": carried}
    return Delivery(**{**named, **fields})


def test_a_full_payload_is_verified_installed_and_used(held):
    fetched = fetch(delivery(payload=encode(NEW)), held)
    assert fetched.artifact == NEW
    assert fetched.seconds > 0
    assert held.digests() == (NEW.digest,)
    assert held.references()[0].version == 1


def test_a_delta_needs_its_base(held):
    payload = encode(NEW, OLD)
    with pytest.raises(Refusal, match=f"partition-1 does not hold {OLD.digest[:12]}, the payload's base"):
        fetch(delivery(payload=payload), held)
    fetch(delivery(OLD, encode(OLD)), held)
    assert fetch(delivery(payload=payload), held).artifact == NEW


def test_what_is_held_needs_no_payload(held):
    with pytest.raises(Refusal, match="the version it is said to hold"):
        fetch(delivery(), held)
    fetch(delivery(payload=encode(NEW)), held)
    assert fetch(delivery(), held).artifact == NEW


def refused(held, wanted, match):
    fetch(delivery(OLD, encode(OLD)), held)
    with pytest.raises(Refusal, match=match):
        fetch(wanted, held)
    assert held.digests() == (OLD.digest,)
    assert held.load(OLD.digest) == OLD


def test_a_payload_that_leads_elsewhere_is_refused_and_nothing_installed(held):
    other = artifact(2)
    refused(held, delivery(payload=encode(other)), f"payload leads to {other.digest[:12]}, the delivery names")


def test_a_delivery_without_a_digest_is_refused(held):
    refused(held, delivery(payload=encode(NEW), target=""), "the delivery names $")
    refused(held, delivery(target=""), "does not hold")


def test_a_damaged_payload_is_refused(held):
    payload = bytearray(encode(NEW))
    payload[len(payload) // 2] ^= 1
    refused(held, delivery(payload=bytes(payload)), "checksum")


def test_a_payload_that_declares_more_than_the_bound_is_refused_before_it_is_made(held):
    """A payload of 100 bytes that says it is a tensor of 16 TiB."""
    side = 1 << 22
    head = b"FLSV" + bytes((1, 2, 1)) + bytes(32) + varint(side * side) + varint(1)
    structure = varint(1) + b"w" + bytes([9]) + varint(2) + varint(side) + varint(side)
    body = head + structure + bytes([1]) + varint(0)
    refused(held, delivery(payload=body + checksum(body)), f"payload declares {side * side} bytes, at most")


def test_the_handler_gets_the_model_and_its_own_records(held):
    fetched = fetch(delivery(payload=encode(NEW), arrays="model"), held)
    content = with_arrays(RecordDict({"config": ConfigRecord({"lr": 0.1})}), fetched)
    assert list(content) == ["model", "config"]
    assert to_artifact(content["model"]) == NEW


def reply_with(records):
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    return Message(RecordDict(records), reply_to=message)


def sealed(held, records, **fields):
    fetched = fetch(delivery(payload=encode(NEW), **fields), held)
    reply = seal(reply_with(records), fetched, held, partitions=4, train_seconds=1.5)
    return reply.content, take_answer(RecordDict(dict(reply.content)))


def test_an_update_travels_relative_to_what_was_fetched(held):
    metrics = MetricRecord({"loss": 1.0})
    content, answer = sealed(held, {"arrays": to_record(OLD), "metrics": metrics})
    assert content["metrics"] == metrics
    assert "arrays" not in content
    assert (answer.status, answer.identity, answer.partitions) == ("ok", "partition-1", 4)
    assert (answer.base, answer.arrays, answer.held) == (NEW.digest, "arrays", (NEW.digest,))
    assert answer.train_seconds == 1.5
    assert decode(answer.payload.data, NEW) == OLD


def test_the_uplink_codec_is_the_servers_choice(held):
    _, full = sealed(held, {"arrays": to_record(NEW)}, uplink="full")
    _, lossless = sealed(held, {"arrays": to_record(NEW)}, uplink="lossless")
    assert len(lossless.payload.data) < len(full.payload.data)


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"a": to_record(OLD), "b": to_record(OLD)},
        {"a": ArrayRecord({"w": Array("float32", (1,), "custom", b"1234")})},
        {"a": ArrayRecord({"w": Array(np.array(["text"]))})},
    ],
)
def test_a_reply_that_is_no_single_model_stays_as_it_is(held, records):
    content, answer = sealed(held, records)
    assert [key for key in content if key != "flserve"] == list(records)
    assert answer.payload is None
    assert answer.status == "ok"


def test_an_uplink_that_is_not_known_leaves_plain_arrays(held):
    content, answer = sealed(held, {"arrays": to_record(OLD)}, uplink="from-the-future")
    assert to_artifact(content["arrays"]) == OLD
    assert answer.payload is None


def test_an_update_may_have_other_tensors(held):
    other = Artifact({"w": np.zeros((2, 3), dtype=np.float64), "extra": np.ones(4, dtype=np.int8)})
    _, answer = sealed(held, {"arrays": to_record(other)})
    assert decode(answer.payload.data, NEW) == other


def test_payloads_of_a_chain_are_applied_in_order(held):
    middle, last = artifact(2), artifact(3)
    fetch(delivery(OLD, encode(OLD)), held)
    chain = [encode(middle, OLD), encode(NEW, middle)]
    assert fetch(delivery(last, encode(last, NEW), chain=chain), held).artifact == last
    assert held.digests() == (last.digest,)


@pytest.mark.parametrize(
    ("order", "match"),
    [((1, 0), "does not hold"), ((0, 0), "base"), ((0,), "payload leads to"), ((0, 2), "checksum")],
)
def test_a_chain_with_a_wrong_link_is_refused_and_nothing_installed(held, order, match):
    middle = artifact(2)
    links = [encode(middle, OLD), encode(NEW, middle), encode(NEW, middle)[:-1] + b"?"]
    refused(held, delivery(chain=[links[at] for at in order]), match)


RECIPE = Recipe(model_id="m", arguments={}, seed=1, input_shape=(2,), input_dtype="float32", classes=2)


def test_what_a_recipe_names_is_built_and_verified(held):
    built = []

    def build(recipe):
        built.append(recipe)
        return OLD

    assert fetch(delivery(OLD, recipe=RECIPE.to_json()), held, build).artifact == OLD
    assert built == [RECIPE]
    assert held.digests() == (OLD.digest,)


def test_payloads_may_follow_a_recipe(held):
    wanted = delivery(payload=encode(NEW, OLD), recipe=RECIPE.to_json())
    assert fetch(wanted, held, lambda recipe: OLD).artifact == NEW


def test_what_was_built_otherwise_is_refused(held):
    other = artifact(2)
    with pytest.raises(Refusal, match=f"payload leads to {other.digest[:12]}, the delivery names {OLD.digest[:12]}"):
        fetch(delivery(OLD, recipe=RECIPE.to_json()), held, lambda recipe: other)
    with pytest.raises(Refusal, match="base"):
        fetch(delivery(payload=encode(NEW, OLD), recipe=RECIPE.to_json()), held, lambda recipe: other)
    assert held.digests() == ()


def test_a_client_without_a_builder_refuses_recipes(held):
    with pytest.raises(Refusal, match="partition-1 cannot build models from recipes"):
        fetch(delivery(OLD, recipe=RECIPE.to_json()), held)


def test_a_builder_that_fails_and_a_recipe_that_is_none_are_refused(held):
    def fail(recipe):
        raise TaskError("unknown model")

    with pytest.raises(Refusal, match="unknown model"):
        fetch(delivery(OLD, recipe=RECIPE.to_json()), held, fail)
    with pytest.raises(Refusal, match="malformed"):
        fetch(delivery(OLD, recipe="{}"), held, fail)
