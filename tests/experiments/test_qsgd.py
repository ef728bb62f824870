import numpy as np
import pytest

from flserve_app.experiments.frontier import nmse_of
from flserve_app.experiments.qsgd import qsgd
from tests.experiments.changes import heavy_tailed


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_value_is_at_most_a_level_off(bits):
    change = heavy_tailed()
    for nearest, levels in ((False, 1), (True, 0.5)):
        peer = qsgd(bits=bits, bucket=90, nearest=nearest)
        found = peer.decode(peer.encode(change), change)
        off = np.abs(found["weight"] - change["weight"])
        level = np.abs(change["weight"]).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        assert (off <= levels * level * (1 + 1e-5)).all()
        assert off.max() > 0


def test_rounding_at_random_has_no_bias_and_the_nearest_less_error():
    same = {"w": np.tile(np.array([1, 0.3], "f4"), 50_000)}
    at_random, nearest = qsgd(bits=2), qsgd(bits=2, nearest=True)
    found = at_random.decode(at_random.encode(same), same)["w"]
    assert found[1::2].mean() == pytest.approx(0.3, abs=0.01)
    assert set(np.unique(found)) == {0, 1}
    assert (nearest.decode(nearest.encode(same), same)["w"][1::2] == 0).all()
    change = heavy_tailed()
    errors = [nmse_of(peer.decode(peer.encode(change), change), change) for peer in (at_random, nearest)]
    assert errors[1] < errors[0]


def test_scales_and_levels_are_all_that_is_sent():
    noise = {"w": np.random.RandomState(0).uniform(-1, 1, 51_200).astype("f4")}
    sent = qsgd(bits=4).encode(noise)
    assert 100 * 4 + 51_200 * 3.8 / 8 < sent.nbytes <= 100 * 4 + 51_200 * 4 / 8 + 3
    assert sent.nbytes == len(sent.content)


def test_nothing_stays_nothing():
    nothing = {"w": np.zeros(1000, "f4")}
    peer = qsgd(bits=4)
    np.testing.assert_array_equal(peer.decode(peer.encode(nothing), nothing)["w"], 0)
