"""From a configuration to the parts of a run: the one place that knows every part.

Pure construction: nothing here runs a round. The strategy is made in `strategies`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import final

from flwr.app import ArrayRecord, MetricRecord

from flserve_app.artifact import Artifact
from flserve_app.client.records import to_artifact
from flserve_app.compose.model import Model
from flserve_app.config import AppConfig
from flserve_app.task import HubSource, TaskSpec, task_data
from flserve_app.task.models import initial_artifact, model_arguments
from flserve_app.task.state import load_into
from flserve_app.task.train import evaluate

FEWEST_PARTITIONS = 1


def task_spec(config: AppConfig, num_clients: int | None) -> TaskSpec:
    """Return the task of a configuration, dealt out to `num_clients`."""
    task = config.task
    return TaskSpec(
        name=task.name,
        seed=config.seed,
        num_clients=num_clients or FEWEST_PARTITIONS,
        n=task.n,
        dim=task.dim,
        classes=task.classes,
        scheme=task.partition,
        alpha=task.alpha,
        val_fraction=task.val_fraction,
        hub=HubSource(**asdict(task.hub)) if task.name == "hub" else None,
    )


def model_of(config: AppConfig) -> Model:
    """Return the model of a configuration."""
    return Model(
        name=config.model.name,
        arguments=model_arguments(config.model.name, config.model.arguments),
        seed=config.seed,
    )


@final
class CentralEvaluation:
    """Evaluates a version on the task's held-out examples.

    Args:
        model: The model.
        spec: The task.
    """

    def __init__(self, model: Model, spec: TaskSpec) -> None:
        self._module = model.build(spec)
        self._initial: Artifact = initial_artifact(self._module)
        self._test = task_data(spec).test

    @property
    def initial(self) -> Artifact:
        """The model's initial weights."""
        return self._initial

    def __call__(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Return `loss` (mean cross entropy) and `accuracy` (0 to 1) of the arrays."""
        load_into(self._module, to_artifact(arrays, like=self._initial))
        loss, accuracy = evaluate(self._module, self._test)
        return MetricRecord({"loss": loss, "accuracy": accuracy})
