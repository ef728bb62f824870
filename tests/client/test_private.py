import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from flserve_app.artifact import Artifact
from flserve_app.client.layout import layout_of
from flserve_app.client.private import (
    Private,
    kept_key,
    kept_private,
    layout_bytes,
    read_layout,
    read_private,
    withhold,
)
from flserve_app.client.records import to_record
from flserve_app.errors import ArtifactError, DeliveryError, FlserveError

HISTORY = "0123456789abcdef" * 2
MODEL = Artifact(
    {
        "w": np.arange(6, dtype="f4").reshape(2, 3),
        "half": np.array([0x3F80, 0x4000], "<u2"),
        "n": np.array(7, "i8"),
        "stat": np.array([np.nan, -0.0], "f8"),
    },
    dtypes={"half": "bfloat16"},
)
LAYOUT = layout_of(MODEL, {"half", "n", "stat"}, HISTORY)
PRIVATE = Private(layout=LAYOUT, values=LAYOUT.parted(MODEL)[1])
BYTES = b"".join(PRIVATE.to_bytes())


def record(**arrays):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})


def test_it_comes_back_from_its_bytes():
    layout, private = read_private(BYTES)
    assert (layout, private.values) == (LAYOUT, PRIVATE.values)
    assert private.whole(LAYOUT.parted(MODEL)[0]) == MODEL
    assert kept_private(BYTES, LAYOUT.key).values == PRIVATE.values
    assert kept_key(BYTES) == LAYOUT.key


def test_a_layout_alone_has_no_values():
    alone = b"".join(layout_bytes(LAYOUT))
    assert read_private(alone) == (LAYOUT, None)
    assert read_layout(alone) == LAYOUT
    assert kept_private(alone, LAYOUT.key) is None


def test_what_is_of_another_history_does_not_count():
    other = layout_of(MODEL, LAYOUT.names, HISTORY[::-1])
    assert other.start == LAYOUT.start
    assert kept_private(BYTES, other.key) is None
    assert kept_private(None, LAYOUT.key) is None
    assert kept_key(None) == ""


@settings(max_examples=100)
@given(st.integers(0, len(BYTES) - 1), st.integers(1, 255))
def test_a_byte_that_changed_is_found(at, by):
    damaged = BYTES[:at] + bytes([BYTES[at] ^ by]) + BYTES[at + 1 :]
    assert kept_private(damaged, LAYOUT.key) is None
    with pytest.raises(FlserveError):
        read_private(damaged)


@given(st.integers(0, len(BYTES) - 1))
def test_what_was_cut_short_does_not_count(length):
    assert kept_private(BYTES[:length], LAYOUT.key) is None


def test_no_more_is_decoded_than_the_layout_says():
    small = layout_of(Artifact({"a": np.zeros(1, "f4")}), {"a"}, HISTORY)
    bomb = Private(layout=small, values=Artifact({"a": np.zeros(1 << 20, "f4")}))
    with pytest.raises(FlserveError):
        read_private(b"".join(bomb.to_bytes()))
    other = Private(layout=small, values=Artifact({"b": np.zeros(1, "f4")}))
    with pytest.raises(DeliveryError, match="not those that the head names"):
        read_private(b"".join(other.to_bytes()))


def test_a_reply_is_left_without_private_tensors_and_their_values_are_kept():
    content = RecordDict({"arrays": to_record(MODEL)})
    content["arrays"]["stat"] = Array(np.array([1.0, 2.0]))
    content["arrays"]["n"] = Array(np.array(8))
    after = withhold(content, PRIVATE, "arrays")
    assert list(content["arrays"]) == ["w"]
    assert (after.values["stat"].tolist(), int(after.values["n"])) == ([1.0, 2.0], 8)
    assert after.values["half"].tolist() == PRIVATE.values["half"].tolist()
    assert after.layout is LAYOUT
    assert after.values.specs == PRIVATE.values.specs


def test_they_are_taken_out_of_every_record():
    content = RecordDict({"arrays": record(w=1.0, n=8), "control": record(w=2.0, n=9, half=np.ones(2, "f4"))})
    after = withhold(content, PRIVATE, "arrays")
    assert [list(found) for found in content.array_records.values()] == [["w"], ["w"]]
    assert int(after.values["n"]) == 8
    content = RecordDict({"one": record(n=8), "two": record(n=9)})
    assert withhold(content, PRIVATE, "arrays") is PRIVATE
    assert [list(found) for found in content.array_records.values()] == [[], []]


def test_the_only_record_may_have_another_name():
    content = RecordDict({"new": record(w=1.0, n=8)})
    assert int(withhold(content, PRIVATE, "arrays").values["n"]) == 8


def test_a_reply_without_them_leaves_them_as_they_were():
    content = RecordDict({"arrays": record(w=1.0)})
    assert withhold(content, PRIVATE, "arrays") is PRIVATE
    assert withhold(RecordDict(), PRIVATE, "arrays") is PRIVATE


def test_values_come_back_in_the_dtype_of_the_model():
    after = PRIVATE.trained(record(half=np.array([1.001, 2.0], "f4"), stat=np.array([1, 2], "f4"), n=np.array(3.0)))
    assert after.values["half"].tolist() == [0x3F80, 0x4000]
    assert after.values["stat"].dtype == np.float64
    assert (after.values["n"].dtype, int(after.values["n"])) == (np.int64, 3)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"n": np.array([7])}, r"'n' came back with shape \(1,\), expected \(\)"),
        ({"n": np.array(7.5)}, "'n' came back with values that int64 cannot hold"),
        ({"n": np.array(np.nan)}, "'n' came back with values that int64 cannot hold"),
        ({"stat": np.array([1j, 2])}, "'stat' came back as complex128, expected float64"),
        ({"half": np.array([1j, 2])}, "'half' came back as complex128, expected bfloat16"),
    ],
)
def test_values_that_do_not_fit_are_refused(arrays, said):
    with pytest.raises((ArtifactError, DeliveryError), match=said):
        PRIVATE.trained(record(**arrays))
