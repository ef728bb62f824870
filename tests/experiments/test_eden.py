import numpy as np
import pytest
from numpy.random import RandomState

from flserve_app.experiments.eden import eden, lloyd_max, rotated
from flserve_app.experiments.frontier import nmse_of
from tests.experiments.changes import heavy_tailed

# Distortion of the Lloyd-Max quantiser of N(0, 1): Max, IRE Trans. Inf. Theory 6, 1960, table I.
DISTORTION = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}


def test_centroids_are_those_of_max():
    assert lloyd_max(1) == pytest.approx((-0.7979, 0.7979), abs=1e-4)
    assert lloyd_max(2) == pytest.approx((-1.510, -0.4528, 0.4528, 1.510), abs=1e-3)


@pytest.mark.parametrize("bits", DISTORTION)
def test_error_is_that_of_normal_values_whatever_the_change(bits):
    few = RandomState(3).standard_t(2, 70_000).astype("f4")
    for change in ({"w": few}, {"w": np.zeros(70_000, "f4") + np.float32(3)}, heavy_tailed()):
        peer = eden(bits=bits)
        sent = peer.encode(change)
        assert nmse_of(peer.decode(sent, change), change) == pytest.approx(DISTORTION[bits], rel=0.12)
        count = sum(array.size for array in change.values())
        assert sent.nbytes <= (count + 1024) * bits / 8 + 100


def test_coded_steps_do_better_than_centroids_at_three_bits_and_worse_rates_cost_less():
    change = {"w": RandomState(4).normal(size=65_536).astype("f4")}
    sizes = {step: rotated(step=step).encode(change).nbytes for step in (0.25, 0.5, 1, 2)}
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    peer = rotated(step=0.6)
    sent = peer.encode(change)
    assert nmse_of(peer.decode(sent, change), change) < DISTORTION[3]
    assert sent.nbytes < 65_536 * 3 / 8


@pytest.mark.parametrize("size", [1, 3, 1023, 1024, 1500, 5000])
def test_any_size_comes_back_in_its_shape(size):
    change = {"a": RandomState(size).normal(size=(size, 1)).astype("f4"), "b": np.ones((), "f4")}
    peer = eden(bits=4)
    found = peer.decode(peer.encode(change), change)
    assert {name: array.shape for name, array in found.items()} == {"a": (size, 1), "b": ()}
    assert nmse_of(found, change) < 0.1


def test_nothing_stays_nothing():
    nothing = {"w": np.zeros(1500, "f4")}
    for peer in (eden(bits=1), eden(bits=3), rotated(step=1)):
        np.testing.assert_array_equal(peer.decode(peer.encode(nothing), nothing)["w"], 0)
