"""Finished runs survive what interrupts a bench."""

import pytest

from flserve_app.errors import StoreError
from flserve_app.experiments.byte_curve import Curve
from flserve_app.experiments.kept_runs import KeptRuns, key_of

CURVE = Curve(accuracy=(0.1, 0.2), payload=(1, 3), message=(10, 30))


def test_a_run_is_found_again_by_its_key(tmp_path):
    KeptRuns(tmp_path / "new" / "folder").add("k", CURVE, seed=3)
    again = KeptRuns(tmp_path / "new" / "folder")
    assert again.find("k") == CURVE
    assert again.find("other") is None


def test_a_line_that_was_cut_off_is_dropped_and_the_next_run_stands_by_itself(tmp_path):
    kept = KeptRuns(tmp_path)
    kept.add("one", CURVE)
    kept.add("two", CURVE)
    kept.path.write_bytes(kept.path.read_bytes()[:-9])
    again = KeptRuns(tmp_path)
    assert (again.find("one"), again.find("two")) == (CURVE, None)
    again.add("three", CURVE)
    assert KeptRuns(tmp_path).find("three") == CURVE


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "k", "accuracy": 1}', "\xff"])
def test_any_other_line_is_an_error(tmp_path, line):
    kept = KeptRuns(tmp_path)
    kept.add("one", CURVE)
    with kept.path.open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    with pytest.raises(StoreError, match=r"runs\.jsonl(, line 2: expected a run| cannot be read)"):
        KeptRuns(tmp_path)


def test_a_key_tells_configurations_apart_and_not_their_order():
    key = key_of({"seed": 1, "codec": {"name": "grid"}}, "job")
    assert key == key_of({"codec": {"name": "grid"}, "seed": 1}, "job")
    assert len({key, key_of({"seed": 2, "codec": {"name": "grid"}}, "job"), key_of({"seed": 1}, "8-bit")}) == 3
