"""From a spec to a client's examples.

Clients run in processes that live for many rounds, so what a spec determines is computed once a process and
kept: the second call for the same client costs a look-up. Where each message gets a fresh process, who has which
rows is read from disk (see `kept`): the libraries that deal them out take longer to import than a round does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from types import MappingProxyType

import numpy as np

from flserve_app.errors import TaskError
from flserve_app.task.chars import load_chars
from flserve_app.task.dataset import Examples, Task
from flserve_app.task.digits import load_digits
from flserve_app.task.hub import load_hub
from flserve_app.task.kept import Arrays, kept
from flserve_app.task.mnist import load_mnist5k
from flserve_app.task.partition import Rows, partition
from flserve_app.task.seeds import stream
from flserve_app.task.source import HubSource
from flserve_app.task.spec import TaskSpec
from flserve_app.task.synthetic import load_synthetic

LOADERS: Mapping[str, Callable[[TaskSpec], Task]] = MappingProxyType(
    {
        "digits": load_digits,
        "synthetic": load_synthetic,
        "mnist5k": load_mnist5k,
        "hub": load_hub,
        "chars": load_chars,
    }
)


def load_task(
    name: str,
    *,
    seed: int,
    num_clients: int,
    n: int = 200,
    dim: int = 32,
    classes: int = 10,
    hub: HubSource | None = None,
) -> Task:
    """Return a task; a pure function of its arguments, cached per process.

    Args:
        name: A key of `LOADERS`.
        seed: Decides data and test split.
        num_clients: Number of clients that share the training examples.
        n: Examples a client has (`synthetic` only).
        dim: Length of an input (`synthetic`), characters in a window (`chars`).
        classes: Number of classes (`synthetic` only).
        hub: Where the images come from (`hub` only).

    Raises:
        TaskError: If the name is unknown or a value is out of its range.
        MissingExtra: If the package that ships the data is not installed.
    """
    return _loaded(TaskSpec(name=name, seed=seed, num_clients=num_clients, n=n, dim=dim, classes=classes, hub=hub))


def task_data(spec: TaskSpec) -> Task:
    """Return the task that a spec names; how it is dealt out makes no difference."""
    plain = TaskSpec()
    return _loaded(
        replace(spec, scheme=plain.scheme, alpha=plain.alpha, min_size=plain.min_size, val_fraction=plain.val_fraction)
    )


def test_data(spec: TaskSpec) -> Examples:
    """Return the held-out examples of the task."""
    return task_data(spec).test


@lru_cache(maxsize=1024)
def client_data(spec: TaskSpec, partition_id: int) -> tuple[Examples, Examples]:
    """Return one client's training and validation examples.

    With `val_fraction` 0 both are all of its examples; otherwise they are disjoint and neither is empty.

    Raises:
        TaskError: If there is no such partition, or it has too few examples to split.
    """
    if not 0 <= partition_id < spec.num_clients:
        raise TaskError(f"partition {partition_id} does not exist: the task has {spec.num_clients}")
    # Copied out of the whole, so that a client's process may drop the rest from its caches.
    own = task_data(spec).train.take(_partitions(spec)[partition_id])
    if spec.val_fraction == 0:
        return own, own
    if len(own) < 2:
        raise TaskError(f"partition {partition_id} has {len(own)} example: too few to hold some out")
    order = stream(spec.seed, "validation", partition_id).permutation(len(own))
    held_out = min(max(1, round(spec.val_fraction * len(own))), len(own) - 1)
    return own.take(order[held_out:]), own.take(order[:held_out])


@lru_cache(maxsize=4)
def _loaded(spec: TaskSpec) -> Task:
    try:
        loader = LOADERS[spec.name]
    except KeyError:
        raise TaskError(f"unknown task {spec.name!r}; known: {', '.join(LOADERS)}") from None
    return loader(spec)


@lru_cache(maxsize=4)
def _partitions(spec: TaskSpec) -> list[Rows]:
    labels = task_data(spec).train.labels
    # All that decides the result, with the libraries whose random streams may change between versions.
    facts = {
        "partition": spec.scheme,
        "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        "num_partitions": spec.num_clients,
        "alpha": float(spec.alpha),
        "seed": spec.seed,
        "min_size": spec.min_size,
        "versions": [version("flwr-datasets"), np.__version__],
    }
    dealt = kept(facts, lambda: _dealt(spec, labels))
    return np.split(dealt["rows"], np.cumsum(dealt["sizes"])[:-1])


def _dealt(spec: TaskSpec, labels: Rows) -> Arrays:
    parts = partition(
        labels,
        scheme=spec.scheme,
        num_partitions=spec.num_clients,
        alpha=spec.alpha,
        seed=spec.seed,
        min_size=spec.min_size,
    )
    return {"rows": np.concatenate(parts), "sizes": np.array([len(part) for part in parts])}
