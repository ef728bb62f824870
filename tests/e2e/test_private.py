"""Private tensors on real SuperNodes: kept in the nodes' caches, over a restart and from run to run."""

import json

import numpy as np
import pytest

from flserve_app import client_app
from flserve_app.client.private import read_private
from flserve_app.compose.job import run_job
from flserve_app.config import load
from flserve_app.registry import Registry
from tests.e2e.flower import Flower
from tests.fleet import FleetGrid

pytestmark = pytest.mark.slow

OVERRIDES = [
    "experiment=tutorial",
    "num_clients=2",
    "strategy.clients_per_round=2",
    "strategy.clients_per_evaluation=2",
    "roles=[{*bias: private}]",
]


def test_supernodes_keep_their_private_tensors_over_restarts_and_runs(tmp_path):
    store, job = tmp_path / "shared", " ".join([*OVERRIDES[:-1], "'roles=[{*bias: private}]'"])
    caches = [tmp_path / f"cache-{number}" for number in range(2)]
    with Flower(tmp_path / "flower", simulation=False) as flower:
        for number, cache in enumerate(caches):
            flower.start_node(number, 2, cache=cache)
        flower.run("--run-config", f'overrides="{job} num_rounds=2 store={store} hydra.run.dir=first"')
        flower.stop("supernode-1")
        flower.start_node(1, 2, cache=caches[1])
        flower.run("--run-config", f'overrides="{job} num_rounds=3 store={store} resume=true hydra.run.dir=second"')
        logs = [(flower.folder / f"supernode-{number}.log").read_text() for number in range(2)]
        second = json.loads((flower.folder / "second" / "summary.json").read_text())

    whole = run_job(
        FleetGrid(app=client_app.app, size=2), load([*OVERRIDES, "num_rounds=3"]), tmp_path / "whole", lambda row: None
    )
    assert second["final_digest"] == whole["final_digest"]
    assert second["failures"] == 0
    kept = []
    for cache, log in zip(caches, logs, strict=True):
        (path,) = cache.rglob("*.private")
        kept.append(read_private(path.read_bytes())[1].values)
        assert log.count("private tensors of synthetic-mlp: they begin with the initial values") <= 1
    assert all(name.endswith("bias") for name in kept[0])
    assert not any(np.array_equal(kept[0][name], kept[1][name]) for name in kept[0])
    with Registry.open(store) as registry:
        shared = registry.load(second["final_digest"])
    assert not set(shared) & set(kept[0])
    files = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert not any(value.tobytes() in files for values in kept for value in values.values())
