"""Contexts and small artifacts for the client's tests."""

import numpy as np
from flwr.app import Context, RecordDict

from flserve_app.artifact import Artifact


def context(node_id=11, run_id=5, state=None, **node_config):
    return Context(
        run_id=run_id,
        node_id=node_id,
        node_config=node_config,
        state=RecordDict() if state is None else state,
        run_config={},
    )


def artifact(seed=0, size=50):
    draw = np.random.default_rng(seed)
    return Artifact(
        {"w": draw.normal(size=size).astype(np.float32), "n": np.asarray(seed, dtype=np.int64)},
    )
