import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flserve_app.client.records import record_of, to_artifact
from flserve_app.strategy.in_place import Artifacts, Snapshot, take_over


def record(**values):
    return record_of({name: Array(np.full(2, value, np.float32)) for name, value in values.items()})


CHANGES = {
    "another Array": lambda found: found.__setitem__("a", Array(np.zeros(2))),
    "one less": lambda found: found.pop("a"),
    "one more": lambda found: found.update(record(c=1)),
    "another order": lambda found: found.update({"a": found.pop("a")}),
    "an Array with other bytes": lambda found: vars(found["a"]).update(data=Array(np.ones(2)).data),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen(change):
    found = record(a=1, b=2)
    snapshot = Snapshot(found)
    assert snapshot.is_of(found)
    assert snapshot.is_of(record_of(dict(found)))
    change(found)
    assert not snapshot.is_of(found)


def test_an_artifact_is_made_once_and_forgotten_with_the_next_version():
    first, other = record(a=1), record(a=2)
    newest = to_artifact(first)
    known = Artifacts()
    known.begin(first, newest)
    assert known.of(first, newest) is newest
    made = known.of(other, newest)
    assert known.of(other, newest) is made
    assert known.get(made.digest) is made
    assert known.of(record(a=1), newest) is newest
    known.begin(other, made)
    assert known.get(made.digest) is None


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["a", "b"], ["n", "a", "m", "b"]),
        (["b"], ["n", "m", "b"]),
        (["a", "b", "c"], ["n", "a", "m", "b", "c"]),
        ([], ["n", "m"]),
    ],
)
def test_what_a_record_says_nothing_about_keeps_its_place(changed, expected):
    into = record(n=0, a=1, m=2, b=3)
    wanted = record(**dict.fromkeys(changed, 9))
    take_over(wanted, into, kept={"n", "m"})
    assert list(into) == expected
    assert all(into[name] is array for name, array in wanted.items())


def test_what_did_not_change_is_left_alone():
    into = record(a=1, b=2)
    before = dict(into)
    take_over(record_of(before), into)
    assert dict(into) == before
    assert isinstance(into, ArrayRecord)
