"""A change of a small model, to test peers with."""

import numpy as np
from numpy.random import RandomState

from flserve_app.artifact import Artifact
from flserve_app.experiments.checkpoints import Checkpoints


def heavy_tailed(seed: int = 0) -> dict[str, np.ndarray]:
    """A weight whose rows move by different scales, and its bias."""
    random = RandomState(seed)
    rows = 2.0 ** random.randint(-4, 1, (120, 1))
    weight = random.normal(0, 1e-3, (120, 90)) * rows
    return {"weight": weight.astype("f4"), "bias": random.normal(0, 1e-3, 120).astype("f4")}


def update(seed: int = 0) -> Checkpoints:
    """A base, and the target that such a change makes of it."""
    change = heavy_tailed(seed)
    base = {name: RandomState(9).normal(0, 0.1, array.shape).astype("f4") for name, array in change.items()}
    target = {name: base[name] + change[name] for name in base}
    return Checkpoints(dtype="float32", base=Artifact(base), target=Artifact(target))
