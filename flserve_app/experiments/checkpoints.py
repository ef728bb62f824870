"""Two consecutive checkpoints of a late federated round, to measure codecs on; and what a client made of the first.

Plain FedAvg in one process: 10 clients with Dirichlet(0.5) shares of real images, 5 a round, 2 local epochs, SGD
0.05, batch 32; a CNN of 1.3 M parameters on the digits, of 1.7 M on MNIST. A pure function of its arguments on
one machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from flserve_app.artifact import Artifact
from flserve_app.artifact.bfloat16 import narrow
from flserve_app.errors import TaskError
from flserve_app.task import TaskSpec, client_data, stream, task_data
from flserve_app.task.models import build_model
from flserve_app.task.state import load_into, to_artifact
from flserve_app.task.train import train

_CLIENTS = 10
_PER_ROUND = 5
WIDTHS = MappingProxyType({"digits": 64, "mnist5k": 32})


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Two versions of one model.

    Attributes:
        dtype: Logical dtype of all tensors.
        base: The earlier one.
        target: The later one.
    """

    dtype: str
    base: Artifact
    target: Artifact


def federated_checkpoints(*, rounds: int, seed: int, task: str = "digits", width: int | None = None) -> Checkpoints:
    """Return the global models (float32) after `rounds` rounds and after one more.

    Args:
        rounds: Federated rounds before the last.
        seed: Of the data, the initial weights and the training.
        task: Name of the images, in `WIDTHS`.
        width: Channels of the CNN's first layer; None for the task's of `WIDTHS`.

    Raises:
        TaskError: If they are others.
        MissingExtra: If the package that ships them is not installed.
    """
    spec, module = _job(task, seed, width)
    base = target = to_artifact(module)
    with _one_thread():
        for number in range(rounds + 1):
            base, target = target, _next(module, target, spec, number)
    return Checkpoints(dtype="float32", base=base, target=target)


def client_checkpoints(
    base: Artifact, *, rounds: int, seed: int, task: str = "digits", width: int | None = None
) -> Checkpoints:
    """Return what the first client of the last round started from, and what it trained of it.

    Args:
        base: The earlier one of the checkpoints that the other arguments lead to.
        rounds: As of `federated_checkpoints`; so are seed, task and width.
        seed: Of the data and the training.
        task: Name of the images.
        width: Channels of the CNN's first layer.

    Raises:
        TaskError: If there are no checkpoints of the task.
        MissingExtra: If the package that ships the images is not installed.
    """
    spec, module = _job(task, seed, width)
    with _one_thread():
        target, _ = _trained(module, base, spec, rounds, _chosen(spec, rounds)[0])
    return Checkpoints(dtype="float32", base=base, target=target)


def as_bfloat16(pair: Checkpoints) -> Checkpoints:
    """Return the same checkpoints rounded to bfloat16."""
    return Checkpoints(dtype="bfloat16", base=_rounded(pair.base), target=_rounded(pair.target))


def _job(task: str, seed: int, width: int | None) -> tuple[TaskSpec, nn.Module]:
    if task not in WIDTHS:
        raise TaskError(f"no checkpoints of task {task!r}; there are: {', '.join(WIDTHS)}")
    spec = TaskSpec(name=task, seed=seed, num_clients=_CLIENTS, scheme="dirichlet", alpha=0.5)
    data = task_data(spec)
    channels = WIDTHS[task] if width is None else width
    return spec, build_model("cnn", input_shape=data.input_shape, classes=len(data.classes), seed=seed, width=channels)


def _chosen(spec: TaskSpec, number: int) -> list[int]:
    chosen: list[int] = stream(spec.seed, "clients", number).permutation(_CLIENTS)[:_PER_ROUND].tolist()
    return chosen


def _next(module: nn.Module, current: Artifact, spec: TaskSpec, number: int) -> Artifact:
    """Return the mean of the chosen clients' models, weighted by their examples."""
    sums = {name: np.zeros(array.shape, np.float64) for name, array in current.items()}
    total = 0
    for client in _chosen(spec, number):
        trained, examples = _trained(module, current, spec, number, client)
        for name, array in trained.items():
            sums[name] += array * float(examples)
        total += examples
    return Artifact({name: (value / total).astype(np.float32) for name, value in sums.items()})


def _trained(module: nn.Module, current: Artifact, spec: TaskSpec, number: int, client: int) -> tuple[Artifact, int]:
    """Return a client's model and how many examples it has."""
    examples, _ = client_data(spec, client)
    load_into(module, current)
    train(module, examples, epochs=2, batch_size=32, lr=0.05, seed=spec.seed + 1000 * number + client)
    return to_artifact(module), len(examples)


def _rounded(artifact: Artifact) -> Artifact:
    return Artifact(
        {name: narrow(array) for name, array in artifact.items()}, dtypes=dict.fromkeys(artifact, "bfloat16")
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one thread: another number of them gives other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
