"""The default task: 1,797 real hand-written digits of 8x8 pixels, which scikit-learn ships.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from flserve_app.task.dataset import Examples, Task
from flserve_app.task.packaged import packaged_table
from flserve_app.task.seeds import stream
from flserve_app.task.spec import TaskSpec

TEST_FRACTION = 0.2
_LEVELS = 16.0


def load_digits(spec: TaskSpec) -> Task:
    """Return the digits, scaled to [0, 1], inputs of shape (1, 8, 8); the seed picks the 20 % for the test."""
    table = packaged_table(
        "sklearn", "datasets/data/digits.csv.gz", columns=8 * 8 + 1, advice="pip install scikit-learn"
    )
    everything = Examples.of((table[:, :-1] / _LEVELS).reshape(-1, 1, 8, 8), table[:, -1])
    train, test = everything.hold_out(stream(spec.seed, "digits").permutation(len(everything)), TEST_FRACTION)
    return Task(
        name="digits",
        input_shape=(1, 8, 8),
        classes=tuple(str(digit) for digit in range(10)),
        train=train,
        test=test,
        preprocessing={"raw": "grey levels 0 to 16, 8x8 pixels, ink is high", "scale": 1 / _LEVELS, "offset": 0.0},
    )
