"""Artifacts that drift like the checkpoints of a training."""

import numpy as np

from flserve_app.artifact import Artifact


def drifting(count: int, *, size: int = 2000, seed: int = 0) -> list[Artifact]:
    stream = np.random.RandomState(seed)
    weight = stream.standard_normal(size).astype(np.float32)
    made = []
    for step in range(count):
        made.append(Artifact({"weight": weight, "steps": np.array(step)}))
        weight = weight + np.float32(1e-3) * stream.standard_normal(size).astype(np.float32)
    return made


def unrelated(seed: int, *, size: int = 500) -> Artifact:
    return Artifact({"weight": np.random.RandomState(seed).standard_normal(size).astype(np.float32)})
