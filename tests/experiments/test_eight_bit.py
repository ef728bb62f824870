"""The 8-bit baseline: what arrives, what it costs, and that its run is the product's otherwise."""

import numpy as np
import pytest
from numpy.random import RandomState

from flserve_app.compose.apps import make_client_app
from flserve_app.compose.job import run_job
from flserve_app.experiments.eight_bit import MESSAGE_DOWN, MESSAGE_UP, eight_bits, payload_bytes, run_eight_bit
from flserve_app.experiments.engine import federate
from tests.compose.jobs import composed


def test_changes_arrive_to_half_a_step_of_their_largest():
    base = {"w": RandomState(0).normal(size=(40, 7)).astype("f4"), "n": np.array(3), "same": np.ones(4, "f4")}
    target = {
        "w": base["w"] + RandomState(1).normal(0, 0.1, (40, 7)).astype("f4"),
        "n": np.array(9),
        "same": base["same"],
    }
    found = eight_bits(target, base)
    change = np.abs(target["w"] - base["w"])
    assert 0 < np.abs(found["w"] - target["w"]).max() <= change.max() / 127 / 2 * 1.001
    assert found["w"].dtype == np.float32
    assert found["n"] == 9
    assert np.array_equal(found["same"], base["same"])
    assert payload_bytes(target) == 40 * 7 + 4 + 8 + 4 + 4


@pytest.mark.slow
def test_without_rounding_it_is_a_run_of_the_product(tmp_path):
    config = composed("strategy.clients_per_round=2", "codec=full", "uplink=full", rounds=3)
    rows = []
    federate("inprocess", lambda grid: run_job(grid, config, tmp_path, rows.append), make_client_app(), 3)
    models = []
    curve = run_eight_bit(config.app, 3, lambda target, base: models.append(target) or target)
    assert curve.accuracy == tuple(row.accuracy for row in rows[1:])
    full, small = sum(array.nbytes for array in models[0].values()), payload_bytes(models[0])
    # Three rounds of two clients: each of the two or three that took part got the whole model once.
    assert curve.payload[-1] in [12 * small + firsts * (full - small) for firsts in (2, 3)]
    assert curve.message[-1] - curve.payload[-1] == 6 * (MESSAGE_DOWN + MESSAGE_UP)


@pytest.mark.slow
def test_it_learns(tmp_path):
    config = composed("train.lr=0.1", "task.n=60", rounds=6)
    curve = run_eight_bit(config.app, 3)
    exact = run_eight_bit(config.app, 3, lambda target, base: target)
    assert curve.accuracy[-1] == pytest.approx(exact.accuracy[-1], abs=0.1)
