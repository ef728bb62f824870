"""Further records beside the model: read, verified and held like models of their own."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from flserve_app.client.beside import BESIDE, BESIDE_PAYLOAD, MOST_BESIDE, Beside, fetch_beside, name_beside, put_beside
from flserve_app.client.held import Held
from flserve_app.client.policy import SitePolicy
from flserve_app.client.records import to_artifact
from flserve_app.client.wire import Delivery, payload_array
from flserve_app.codec import encode
from flserve_app.errors import DeliveryError
from tests.client.contexts import artifact, context

OLD, NEW = artifact(0), artifact(1)
DELIVERY = Delivery(action="deliver", model="m", federation="ab" * 32)


@pytest.fixture
def held():
    return Held(context(**{"partition-id": 1}))


def message(*found):
    content = RecordDict({"config": ConfigRecord({"lr": 0.1}), "c": ArrayRecord(), "arrays": ArrayRecord()})
    put_beside(content, found)
    return content


def beside(target, base=None, key="c", payload=True):
    data = payload_array(encode(target, base)) if payload else None
    return Beside(key=key, target=target.digest, version=3, payload=data)


def test_a_record_comes_back_in_its_place_and_is_held_under_its_own_name(held):
    content = fetch_beside(message(beside(OLD)), DELIVERY, held)
    assert list(content) == ["config", "c", "arrays"]
    assert to_artifact(content["c"]) == OLD
    assert held.digests(name_beside("m", "c"), DELIVERY.federation) == (OLD.digest,)
    assert held.digests("m", DELIVERY.federation) == ()
    assert held.references()[-1].version == 3
    content = fetch_beside(message(beside(NEW, OLD)), DELIVERY, held)
    assert to_artifact(content["c"]) == NEW
    assert held.digests() == (NEW.digest,)
    assert to_artifact(fetch_beside(message(beside(NEW, payload=False)), DELIVERY, held)["c"]) == NEW


def test_without_any_the_message_is_as_it_was(held):
    content = message()
    assert BESIDE not in content
    assert fetch_beside(content, DELIVERY, held) == content


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (beside(NEW, OLD), "does not hold"),
        (beside(NEW, payload=False), "does not hold"),
        (Beside(key="c", target=NEW.digest, version=0, payload=payload_array(encode(OLD))), "the delivery names"),
        (Beside(key="c", target=NEW.digest, version=0, payload=payload_array(b"nonsense")), "payload"),
        (beside(NEW, key="x\x1b[2J"), "no ArrayRecord of the message"),
        (beside(NEW, key="config"), "no ArrayRecord of the message"),
        (Beside(key="c", target=NEW.digest, version=0, payload=Array("u1", (1,), "numpy.ndarray", b"")), "serialised"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_nothing_is_held(held, wanted, reason):
    content = message(wanted)
    if wanted.key == "config":
        content["config"] = ConfigRecord()
    with pytest.raises(DeliveryError, match=reason):
        fetch_beside(content, DELIVERY, held)
    assert held.digests() == ()


ODD = {
    "no config": {BESIDE: ArrayRecord()},
    "a config for payloads": {BESIDE_PAYLOAD: ConfigRecord()},
    "no keys": {BESIDE: ConfigRecord({"versions": [1], "targets": [b"1" * 32]})},
    "a key less": {BESIDE: ConfigRecord({"keys": ["c"], "versions": [1, 2], "targets": [b"1" * 32] * 2})},
    "a short digest": {BESIDE: ConfigRecord({"keys": ["c"], "versions": [1], "targets": [b"1"]})},
    "a version of text": {BESIDE: ConfigRecord({"keys": ["c"], "versions": ["1"], "targets": [b"1" * 32]})},
    "too many": {
        BESIDE: ConfigRecord({"keys": ["c"] * 17, "versions": [1] * 17, "targets": [b"1" * 32] * (MOST_BESIDE + 1)})
    },
    "another payload": {BESIDE_PAYLOAD: ArrayRecord({"7": payload_array(b"1")})},
}


@pytest.mark.parametrize("records", ODD.values(), ids=ODD)
def test_odd_records_are_refused(held, records):
    with pytest.raises(DeliveryError, match=r"flserve"):
        fetch_beside(RecordDict({**message(beside(NEW)), **records}), DELIVERY, held)


def test_the_nodes_policy_bounds_them_like_models():
    held = Held(context(**{"partition-id": 1}), SitePolicy(max_model_bytes=8))
    with pytest.raises(DeliveryError, match="at most 8"):
        fetch_beside(message(beside(NEW)), DELIVERY, held)
