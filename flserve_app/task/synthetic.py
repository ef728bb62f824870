"""The tutorial's task: standard normal noise with a bump where the class says.

An input of class y is noise, with 2.0 added on coordinate `y % dim`. The classes overlap: with ten
of them, each on a coordinate of its own, the best possible accuracy is 0.674.
"""

from __future__ import annotations

import numpy as np

from flserve_app.task.dataset import Examples, Task
from flserve_app.task.seeds import stream
from flserve_app.task.spec import TaskSpec

BUMP = 2.0


def load_synthetic(spec: TaskSpec) -> Task:
    """Return `n * num_clients` training and `n` test examples, inputs of shape (dim,)."""
    return Task(
        name="synthetic",
        input_shape=(spec.dim,),
        classes=tuple(f"class {label}" for label in range(spec.classes)),
        train=_draw(spec, spec.n * spec.num_clients, "train"),
        test=_draw(spec, spec.n, "test"),
        preprocessing={"raw": "real numbers", "scale": 1.0, "offset": 0.0},
    )


def _draw(spec: TaskSpec, rows: int, part: str) -> Examples:
    random = stream(spec.seed, "synthetic", part)
    labels = random.randint(0, spec.classes, size=rows, dtype=np.int64)
    inputs = random.standard_normal((rows, spec.dim))
    inputs[np.arange(rows), labels % spec.dim] += BUMP
    return Examples.of(inputs, labels)
