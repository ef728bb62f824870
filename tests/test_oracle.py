import pytest

from flserve_app.task import TaskSpec
from tests.oracle import TUTORIAL, plain_fedavg


@pytest.mark.slow
def test_plain_fedavg_reaches_the_accuracy_of_the_tutorial():
    spec = TaskSpec(name="synthetic", num_clients=15, seed=42)
    accuracies = plain_fedavg(spec, "mlp", seed=42, **TUTORIAL)
    assert len(accuracies) == 30
    assert accuracies[0] < 0.3
    assert 0.45 < accuracies[-1] < 0.6
    assert accuracies[:2] == plain_fedavg(spec, "mlp", seed=42, **{**TUTORIAL, "num_rounds": 2})
