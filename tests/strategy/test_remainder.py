import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.errors import StoreError
from flserve_app.strategy.remainder import joined, parted

RESIDUAL = Artifact({"w": np.linspace(-1, 1, 50, dtype="f4"), "b": np.zeros(3, "f2")})
STATE = ("strategy-1", b"what it remembers")


@pytest.mark.parametrize("state", [None, STATE, ("strategy-1", b"")])
@pytest.mark.parametrize("residual", [None, RESIDUAL])
def test_what_was_joined_is_parted(state, residual):
    assert parted(joined(state, residual), "m v3") == (state, residual)


def test_without_a_residual_nothing_is_added():
    assert joined(STATE, None) is STATE
    assert joined(None, None) is None


@pytest.mark.parametrize("cut", [0, 5, 8, 30])
def test_a_state_that_is_cut_off_is_one_sentence(cut):
    kind, data = joined(STATE, RESIDUAL)
    with pytest.raises(StoreError, match="the residual of m v3 is malformed"):
        parted((kind, data[:cut]), "m v3")


def test_a_length_beyond_the_end_is_refused():
    kind, data = joined(STATE, RESIDUAL)
    with pytest.raises(StoreError, match="its first part has"):
        parted((kind, b"\xff" * 8 + data[8:]), "m v3")
