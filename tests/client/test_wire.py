import re
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.client.carried import MOST_INLINE, inlined
from flserve_app.client.fields import MAX_SECONDS
from flserve_app.client.wire import (
    MAX_HELD,
    MAX_REASON,
    PAYLOAD,
    PROTOCOL,
    RECORD,
    Answer,
    Delivery,
    payload_array,
    put_answer,
    put_delivery,
    take_answer,
    take_delivery,
)
from flserve_app.errors import DeliveryError

DIGEST = "ab" * 32
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
texts = st.text(max_size=30)
payloads = st.none() | st.binary(max_size=50).map(payload_array)
seconds = st.floats(min_value=0, max_value=1e6)

deliveries = st.builds(
    Delivery,
    action=st.sampled_from(["hello", "deliver"]),
    model=texts,
    version=st.integers(-1, 2**62),
    target=st.just("") | digests,
    arrays=texts,
    place=st.integers(0, 2**62),
    uplink=texts,
    payloads=st.lists(st.binary(max_size=50).map(payload_array), max_size=4).map(tuple),
    recipe=texts,
    base=st.just("") | digests,
    rounding=texts,
    feedback=texts,
    settled=st.lists(digests, max_size=4).map(tuple),
    owed=st.booleans(),
    afresh=st.booleans(),
    private=st.just("") | digests,
    start=payloads,
    allows=st.lists(st.sampled_from(["tied", "plain"]), unique=True).map(tuple),
)
answers = st.builds(
    Answer,
    status=st.sampled_from(["hello", "ok", "nack"]),
    identity=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", fullmatch=True),
    partitions=st.integers(0, 2**62),
    held=st.lists(digests, max_size=5).map(tuple),
    capabilities=st.lists(st.from_regex(r"[a-z0-9][a-z0-9.-]{0,31}", fullmatch=True), max_size=5).map(tuple),
    reason=st.lists(st.from_regex(r"[!-~]{1,20}", fullmatch=True), max_size=5).map(" ".join),
    private=st.just("") | digests,
    base=st.just("") | digests,
    arrays=texts,
    payload=payloads,
    fetch_seconds=seconds,
    train_seconds=seconds,
    encode_seconds=seconds,
)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | texts | st.binary(max_size=40)
values = scalars.filter(lambda value: value is not None) | st.lists(st.binary(min_size=0, max_size=40), max_size=70)


@given(deliveries)
def test_deliveries_come_back_as_they_were(delivery):
    content = RecordDict()
    put_delivery(content, delivery)
    assert take_delivery(content) == delivery
    assert not content


@given(answers)
def test_answers_come_back_as_they_were(answer):
    content = RecordDict()
    put_answer(content, answer)
    assert take_answer(content) == answer
    assert not content


def test_what_belongs_to_the_app_is_left_alone():
    content = RecordDict({"metrics": MetricRecord({"loss": 1.0})})
    put_answer(content, Answer(status="ok", identity="a", payload=payload_array(b"x")))
    take_answer(content)
    assert list(content) == ["metrics"]
    assert take_delivery(content) is None
    assert take_answer(content) is None


def test_unknown_keys_are_ignored():
    content = RecordDict()
    put_delivery(content, Delivery(action="hello", model="m"))
    content[RECORD]["rollout"] = "canary"
    assert take_delivery(content) == Delivery(action="hello", model="m")


def test_held_and_reason_are_bounded_when_written():
    content = RecordDict()
    put_answer(content, Answer(status="nack", identity="a", held=(DIGEST,) * 100, reason="x" * 1000))
    answer = take_answer(content)
    assert len(answer.held) == MAX_HELD
    assert len(answer.reason) == MAX_REASON


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "action",
                "model",
                "version",
                "target",
                "arrays",
                "uplink",
                "recipe",
                "base",
                "rounding",
                "feedback",
                "settled",
                "owed",
                "afresh",
                "private",
            ]
        ),
        values,
    )
)
def test_malformed_deliveries_are_refused_and_nothing_else_happens(record):
    check(take_delivery, record)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "status",
                "identity",
                "partitions",
                "held",
                "takes",
                "reason",
                "private",
                "base",
                "arrays",
                "fetch_s",
                "train_s",
                "encode_s",
            ]
        ),
        values,
    )
)
def test_malformed_answers_are_refused_and_nothing_else_happens(record):
    check(take_answer, record)


def check(take, record):
    content = RecordDict({RECORD: ConfigRecord({"protocol": PROTOCOL, **record})})
    with suppress(DeliveryError):
        found = take(content)
        assert "\n" not in getattr(found, "reason", "") + getattr(found, "identity", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": 2}, "delivery protocol is 2, expected 1"),
        ({"status": "fine"}, "status is 'fine', expected 'hello', 'ok' or 'nack'"),
        ({"status": 1}, "status is a int, expected a str"),
        ({"identity": ""}, "identity '' is not 1 to 128"),
        ({"identity": "a\nb"}, "identity 'a b' is not 1 to 128"),
        ({"identity": "-x"}, "identity '-x' is not 1 to 128 letters"),
        ({"identity": "a\x1b[2J"}, "identity 'a' is not 1 to 128"),
        ({"partitions": 1 << 70}, "partitions has more than 64 bits"),
        ({"identity": "x" * 129}, "is not 1 to 128 letters"),
        ({"partitions": True}, "partitions is a bool, expected an int"),
        ({"partitions": float("inf")}, "partitions is a float, expected an int"),
        ({"train_s": "long"}, "train_s is a str, expected a number"),
        ({"base": b"short"}, "base is not a digest of 32 bytes"),
        ({"base": "ab"}, "base is not a digest of 32 bytes"),
        ({"held": b"x"}, "held is not a list of at most 64 digests"),
        ({"held": [b"x" * 32] * 65}, "held is not a list of at most 64 digests"),
        ({"held": [b"x"]}, "held holds something else than digests"),
        ({"takes": "chain"}, "takes is not a list of at most 64 names"),
        ({"takes": ["x"] * 65}, "takes is not a list of at most 64 names"),
        ({"takes": ["Chain"]}, "takes holds something else than plain names"),
        ({"takes": [1]}, "takes holds something else than plain names"),
    ],
)
def test_each_field_of_an_answer_is_checked(change, message):
    content = RecordDict()
    put_answer(content, Answer(status="ok", identity="partition-1"))
    content[RECORD].update(change)
    with pytest.raises(DeliveryError, match=re.escape(message)):
        take_answer(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settled": [b"x"]}, "settled holds something else than digests of 32 bytes"),
        ({"settled": "ab"}, "settled is not a list of at most 64 digests"),
        ({"owed": 1}, "owed is a int, expected a bool"),
        ({"afresh": "yes"}, "afresh is a str, expected a bool"),
        ({"feedback": b"{}"}, "feedback is a bytes, expected a str"),
    ],
)
def test_what_is_said_of_earlier_updates_is_checked(change, message):
    content = RecordDict()
    put_delivery(content, Delivery(action="deliver", model="m"))
    assert not set(change) & set(content[RECORD]), "nothing to say costs nothing"
    content[RECORD].update(change)
    with pytest.raises(DeliveryError, match=re.escape(message)):
        take_delivery(content)


def test_an_unknown_action_is_refused():
    content = RecordDict({RECORD: ConfigRecord({"protocol": PROTOCOL, "action": "erase"})})
    with pytest.raises(DeliveryError, match="action is 'erase', expected 'hello' or 'deliver'"):
        take_delivery(content)


def test_a_reason_stays_in_one_line():
    content = RecordDict()
    put_answer(content, Answer(status="nack", identity="a", reason="first\nsecond\r\x1b[2J third\u202e"))
    assert take_answer(content).reason == "first second third"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({RECORD: MetricRecord({"a": 1})}, "record 'flserve' is a MetricRecord, expected a ConfigRecord"),
        ({PAYLOAD: MetricRecord({"a": 1})}, "is not an ArrayRecord with arrays 'payload', "),
        (
            {PAYLOAD: ArrayRecord({"other": payload_array(b"")})},
            "is not an ArrayRecord with arrays 'payload', 'payload.1', ...",
        ),
        ({PAYLOAD: ArrayRecord({"payload": Array(np.zeros(2))})}, "payload is serialised as 'numpy.ndarray'"),
    ],
)
def test_records_of_another_kind_are_refused(records, message):
    content = RecordDict()
    put_delivery(content, Delivery(action="deliver", model="m", target=DIGEST))
    content.update(records)
    with pytest.raises(DeliveryError, match=re.escape(message)):
        take_delivery(content)


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (0.25, 0.25),
        (3, 3.0),
        (-1e9, 0.0),
        (float("nan"), 0.0),
        (float("inf"), MAX_SECONDS),
        (float("-inf"), 0.0),
        (1 << 62, MAX_SECONDS),
        (10**400, MAX_SECONDS),
    ],
)
@pytest.mark.parametrize("key", ["fetch_s", "train_s", "encode_s"])
def test_a_duration_is_one_whatever_is_said(key, said, taken):
    record = ConfigRecord({"protocol": 1, "status": "ok", "identity": "a", key: said})
    answer = take_answer(RecordDict({RECORD: record}))
    found = {"fetch_s": answer.fetch_seconds, "train_s": answer.train_seconds, "encode_s": answer.encode_seconds}
    assert found == {"fetch_s": 0.0, "train_s": 0.0, "encode_s": 0.0, key: taken}


@pytest.mark.parametrize(
    "write",
    [
        lambda content: put_delivery(content, Delivery(action="hello", model="m")),
        lambda content: put_delivery(content, Delivery(action="deliver", model="m", target=DIGEST)),
        lambda content: put_answer(content, Answer(status="hello", identity="a")),
    ],
    ids=["greeting", "delivery", "answer"],
)
def test_flower_can_count_the_bytes_of_what_is_said(write):
    """Its `count_bytes` fails on a value of no bytes, and with it every mod in front that logs sizes."""
    content = RecordDict()
    write(content)
    assert sum(record.count_bytes() for record in content.values()) > 0


@given(deliveries.filter(lambda delivery: delivery.payloads and delivery.start is None))
def test_payloads_inline_come_back_as_they_were(delivery):
    content = RecordDict()
    put_delivery(content, delivery)
    lean = inlined(content)
    assert PAYLOAD in content, "the content itself stays as it is"
    assert PAYLOAD not in lean
    assert take_delivery(lean) == delivery


def test_what_cannot_go_inline_does_not():
    for delivery in (
        Delivery(action="deliver", model="m"),
        Delivery(action="deliver", model="m", payloads=(payload_array(b"x"),), start=payload_array(b"y")),
        Delivery(action="deliver", model="m", payloads=(payload_array(bytes(MOST_INLINE + 1)),)),
    ):
        content = RecordDict()
        put_delivery(content, delivery)
        assert inlined(content) is None
    assert inlined(RecordDict()) is None


@pytest.mark.parametrize(
    "inline",
    [[], b"x", "x", 7, ["x"], [7], [b""] * 257, [bytes(MOST_INLINE), b"x"], [0.5]],
)
def test_what_is_no_list_of_payloads_is_refused(inline):
    content = RecordDict()
    put_delivery(content, Delivery(action="deliver", model="m"))
    content[RECORD]["inline"] = inline
    with pytest.raises(DeliveryError, match="inline is not 1 to 256 payloads"):
        take_delivery(content)


def test_payloads_are_in_one_place():
    content = RecordDict()
    put_delivery(content, Delivery(action="deliver", model="m", payloads=(payload_array(b"x"),)))
    content[RECORD]["inline"] = [b"y"]
    with pytest.raises(DeliveryError, match="without a record"):
        take_delivery(content)


def test_an_answer_has_one_payload_inline_at_most():
    content = RecordDict()
    put_answer(content, Answer(status="ok", identity="a", payload=payload_array(b"x")))
    lean = inlined(content)
    assert take_answer(RecordDict(dict(lean))).payload.data == b"x"
    lean[RECORD]["inline"] = [b"x", b"y"]
    with pytest.raises(DeliveryError, match="2 payloads"):
        take_answer(lean)
