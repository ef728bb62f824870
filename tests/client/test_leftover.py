import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flserve_app.artifact import Artifact
from flserve_app.client.held import STATE_BYTES, Held
from flserve_app.client.leftover import MOST_PENDING, Leftover, Pending, leftover_of, structure_of
from tests.client.contexts import context

MODEL = Artifact({"w": np.zeros((4, 5), "f4"), "b": np.zeros(5, "f4"), "n": np.array(1, "i8")})
ONE, TWO = "a1" * 32, "b2" * 32


def part(value, names=("w", "b")):
    return Artifact({name: np.full(MODEL.specs[name].shape, value, "f4") for name in names})


def value(artifact, name="w"):
    return 0.0 if artifact is None or name not in artifact else float(artifact[name].flat[0])


def told(leftover, *updates, owed=False):
    return leftover.settled(updates, owed=owed)


def test_an_update_that_was_aggregated_leaves_its_rest():
    after = Leftover(residual=part(1)).sent(ONE, part(2))
    assert after.residual is None
    assert value(told(after, ONE).residual) == 2
    assert told(after, ONE).pending == ()


def test_an_update_that_was_not_gives_back_what_it_took():
    after = Leftover(residual=part(1)).sent(ONE, part(2))
    for updates in ((), (TWO,)):
        assert value(told(after, *updates).residual) == 1
        assert told(after, *updates).pending == ()


def test_an_update_that_may_still_be_used_stays_pending():
    after = told(Leftover(residual=part(1)).sent(ONE, part(2)), owed=True)
    assert after.residual is None
    later = after.sent(TWO, part(4))
    assert value(told(later, TWO, owed=True).residual) == 4
    assert value(told(later, ONE, TWO).residual) == 6
    assert value(told(later, TWO).residual) == 5
    assert value(told(later).residual) == 1


def test_rests_of_other_tensors_are_kept_beside_each_other():
    later = Leftover().sent(ONE, part(1, ["w"])).sent(TWO, part(2))
    both = told(later, ONE, TWO).residual
    assert (value(both), value(both, "b")) == (3, 2)
    assert told(Leftover().sent(ONE, None), ONE).residual is None


def test_the_oldest_of_too_many_are_forgotten():
    left = Leftover(residual=part(9))
    for number in range(MOST_PENDING + 1):
        left = left.sent(f"{number:064x}", part(number))
    assert len(left.pending) == MOST_PENDING
    assert left.pending[0].update == f"{1:064x}"
    assert told(left).residual is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["aggregated", "lost", "late", "too late"]), st.integers(1, 3)), max_size=12))
def test_nothing_is_lost_and_nothing_counted_twice(fates):
    """Each update learns 1 and sends half of what it wants to: what arrived and what is left is what was learned."""
    left, sent, sums = Leftover(), [], {}
    for number in range(len(fates) + 4):
        # A server knows what it aggregated so far, and that it owes an answer to what may still come.
        settled = [name for name, fate, due in sent if fate in ("aggregated", "late") and due <= number]
        owed = any(fate in ("late", "too late") and due > number for _, fate, due in sent)
        left = left.settled(settled, owed=owed)
        if number < len(fates) and len(left.pending) < MOST_PENDING:
            fate, after = fates[number]
            wanted = 1 + value(left.residual)
            left = left.sent(f"{number:064x}", part(wanted / 2))
            sent.append((f"{number:064x}", fate, number + (1 if fate in ("aggregated", "lost") else after)))
            sums[fate] = [total + more for total, more in zip(sums.get(fate, (0, 0)), (1, wanted / 2), strict=True)]
    learned, arrived = (sum(sums[fate][at] for fate in sums if fate in ("aggregated", "late")) for at in (0, 1))
    assert left.pending == ()
    assert arrived + value(left.residual) == pytest.approx(learned, abs=1e-5)


def some():
    left = Leftover(residual=part(1)).sent(ONE, part(2)).sent(TWO, None)
    return Leftover(residual=part(3), pending=left.pending)


def stored(left=None, model=MODEL):
    return b"".join((left or some()).to_bytes(structure_of(model)))


def test_bytes_come_back():
    found = leftover_of(stored(), MODEL)
    assert found.residual == part(3)
    assert [each.update for each in found.pending] == [ONE, TWO]
    first, second = found.pending
    assert (first.carried, first.rest) == (part(1), part(2))
    assert (second.carried, second.rest) == (None, None)
    assert leftover_of(None, MODEL).residual is None


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.zeros((5, 4), "f4"), "b": np.zeros(5, "f4"), "n": np.array(1, "i8")},
        {"w": np.zeros((4, 5), "f8"), "b": np.zeros(5, "f4"), "n": np.array(1, "i8")},
        {"v": np.zeros((4, 5), "f4"), "b": np.zeros(5, "f4"), "n": np.array(1, "i8")},
        {"w": np.zeros((4, 5), "f4"), "b": np.zeros(5, "f4")},
    ],
)
def test_of_another_structure_nothing_is_left(other):
    found = leftover_of(stored(), Artifact(other))
    assert found.residual is None
    assert found.pending == ()


def test_other_values_are_no_other_structure():
    other = Artifact({name: values + values.dtype.type(1) for name, values in MODEL.items()})
    assert leftover_of(stored(), other).residual == part(3)


def test_what_does_not_verify_is_as_good_as_absent():
    whole = stored()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        for data in (bytes(damaged), whole[:at]):
            found = leftover_of(data, MODEL)
            assert (found.residual, found.pending) == (None, ())


def test_what_is_larger_than_the_model_is_not_read():
    large = Artifact({"w": np.zeros((400, 5), "f4")})
    found = leftover_of(stored(Leftover(pending=(Pending(update=ONE, carried=None, rest=large),))), MODEL)
    assert found.pending == ()


@pytest.mark.parametrize("place", ["state", "directory"])
def test_it_is_kept_where_the_version_is(tmp_path, place):
    config = {"partition-id": 1} | ({"cache-dir": str(tmp_path / "cache")} if place == "directory" else {})
    where = context(**config)
    held = Held(where)
    assert held.beside("m", MODEL.nbytes) is None
    held.put_beside("m", MODEL.nbytes, some().to_bytes(structure_of(MODEL)))
    held.put_beside("other", MODEL.nbytes, Leftover().to_bytes(structure_of(MODEL)))
    again = Held(context(state=where.state, **config))
    assert leftover_of(again.beside("m", MODEL.nbytes), MODEL).residual == part(3)
    assert leftover_of(again.beside("other", MODEL.nbytes), MODEL).residual is None
    assert Held(context(**config | {"partition-id": 2})).beside("m", MODEL.nbytes) is None
    assert again.references() == ()


def test_a_directory_that_cannot_be_written_keeps_nothing_and_says_nothing(tmp_path, caplog):
    (tmp_path / "cache").write_text("in the way")
    held = Held(context(**{"partition-id": 1, "cache-dir": str(tmp_path / "cache")}))
    held.put_beside("m", 2 * STATE_BYTES, [b"some"])
    assert held.beside("m", 2 * STATE_BYTES) is None
    assert not caplog.records
