"""The client of flserve's own tasks: a NumPyClient that trains, evaluates and predicts on one partition.

What it computes is a function of the arrays, its data and a seed from (seed, round, partition); one torch
thread, because two add up in another order. What the server asks for is held to the node's site policy
(`client_limits`) first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from flwr.app import Context

from flserve_app.artifact import Artifact
from flserve_app.client import VersionedClient
from flserve_app.compose.client_limits import check_job, check_model
from flserve_app.compose.client_settings import ClientSettings, read_settings
from flserve_app.compose.recipes import build
from flserve_app.errors import ConfigError
from flserve_app.task import client_data, derived_seed, task_data
from flserve_app.task.state import load_into, to_arrays
from flserve_app.task.train import evaluate, predict, train
from flserve_app.text import plain

NDArray = np.ndarray[Any, np.dtype[Any]]
PROXIMAL = "proximal-mu"  # the key of flwr.serverapp.strategy.FedProx


@final
class TaskClient(VersionedClient):
    """A client of a configured task.

    Args:
        context: The client's context; its node needs a `partition-id`.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context, build)
        torch.set_num_threads(1)
        self._node: Mapping[str, Any] = context.node_config
        self._settings: ClientSettings | None = None

    def fit(self, parameters: list[NDArray], config: Mapping[str, Any]) -> tuple[list[NDArray], int, dict[str, Any]]:
        """Train on this client's examples; returns the new arrays, the number of examples and `train_loss`."""
        settings, partition = self._job(config)
        examples, _ = client_data(settings.spec, partition)
        module, names = self._module(settings, parameters)
        seed = derived_seed(settings.spec.seed, "train", _round(config), partition)
        measured = train(
            module,
            examples,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            momentum=settings.momentum,
            seed=seed,
            proximal=_proximal(settings, config),
            optimizer=settings.optimizer,
        )
        trained = to_arrays(module)
        return [trained[name] for name in names], len(examples), {"train_loss": measured["train_loss"]}

    def evaluate(self, parameters: list[NDArray], config: Mapping[str, Any]) -> tuple[float, int, dict[str, Any]]:
        """Evaluate on this client's held-out examples; returns loss, number of examples and `accuracy`."""
        settings, partition = self._job(config)
        _, examples = client_data(settings.spec, partition)
        module, _ = self._module(settings, parameters)
        loss, accuracy = evaluate(module, examples)
        return loss, len(examples), {"accuracy": accuracy}

    def infer(self, parameters: list[NDArray], inputs: NDArray) -> NDArray:
        """Return logits, float32 of shape (n, classes), for inputs of shape (n, *input_shape) in the task's dtype.

        Raises:
            ConfigError: If the client was not told its job yet.
        """
        if self._settings is None:
            raise ConfigError("the client does not know its model: call `with_settings` first")
        module, _ = self._module(self._settings, parameters)
        return predict(module, np.asarray(inputs, dtype=task_data(self._settings.spec).input_dtype))

    def with_settings(self, config: Mapping[str, object]) -> TaskClient:
        """Read the job from a config, so that `predict` knows the model; returns the client."""
        self._job(config)
        return self

    def _job(self, config: Mapping[str, Any]) -> tuple[ClientSettings, int]:
        partition = self._node.get("partition-id")
        if not isinstance(partition, int):
            raise ConfigError("the node has no partition-id: start it with --node-config 'partition-id=0 ...'")
        settings = read_settings(config)
        check_job(settings, self.policy)
        self._settings = settings
        return settings, partition

    def _module(self, settings: ClientSettings, parameters: list[NDArray]) -> tuple[Any, list[str]]:
        check_model(settings, sum(array.nbytes for array in parameters))
        module = settings.model.build(settings.spec)
        names = list(module.state_dict())
        if len(names) != len(parameters):
            raise ConfigError(f"the server sent {len(parameters)} arrays, the model has {len(names)}")
        load_into(module, Artifact.borrowed(dict(zip(names, parameters, strict=True))))
        return module, names


def _round(config: Mapping[str, Any]) -> int:
    found = config.get("server-round", 0)
    if isinstance(found, bool) or not isinstance(found, int):
        raise ConfigError(f"the server sent server-round {plain(repr(found))}, expected a whole number")
    return found


def _proximal(settings: ClientSettings, config: Mapping[str, Any]) -> float:
    """Return mu of the proximal term: what FedProx sends with the round, or else the configuration's."""
    found = config.get(PROXIMAL, settings.proximal)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
        raise ConfigError(f"the server sent {PROXIMAL} {plain(repr(found))}, expected a number of 0 or more")
    return float(found)
