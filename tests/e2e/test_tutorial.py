"""The reference case against an independent FedAvg: the same data, model and seeds, no flserve in it."""

import statistics

import pytest

from flserve_app.client_app import app
from flserve_app.compose.job import run_job
from flserve_app.config import load
from flserve_app.task import TaskSpec
from tests.fleet import FleetGrid
from tests.oracle import TUTORIAL, plain_fedavg

pytestmark = pytest.mark.slow

SEEDS = range(1, 7)
MARGIN = 0.03


def test_tutorial_reaches_the_accuracy_of_plain_fedavg_over_six_seeds(tmp_path):
    ours, plain = [], []
    for seed in SEEDS:
        composed = load(["experiment=tutorial", f"seed={seed}"])
        summary = run_job(FleetGrid(app=app, size=15), composed, tmp_path / str(seed), lambda row: None)
        assert summary["versions"] == 31
        ours.append(summary["final_accuracy"])
        plain.append(
            plain_fedavg(TaskSpec(name="synthetic", num_clients=15, seed=seed), "mlp", seed=seed, **TUTORIAL)[-1]
        )
    assert abs(statistics.mean(ours) - statistics.mean(plain)) <= MARGIN, (ours, plain)
