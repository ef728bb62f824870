"""From a spec to a client's examples.

Clients run in processes that live for many rounds, so what a spec determines is computed once a process and
kept: the second call for the same client costs a look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

from flserve_app.errors import TaskError
from flserve_app.task.dataset import Examples, Task
from flserve_app.task.digits import load_digits
from flserve_app.task.partition import Rows, partition
from flserve_app.task.seeds import stream
from flserve_app.task.spec import TaskSpec
from flserve_app.task.synthetic import load_synthetic

LOADERS: Mapping[str, Callable[[TaskSpec], Task]] = MappingProxyType(
    {"digits": load_digits, "synthetic": load_synthetic}
)


def load_task(name: str, *, seed: int, num_clients: int, n: int = 200, dim: int = 32, classes: int = 10) -> Task:
    """Return a task; a pure function of its arguments, cached per process.

    Args:
        name: A key of `LOADERS`.
        seed: Decides data and test split.
        num_clients: Number of clients that share the training examples.
        n: Examples a client has (`synthetic` only).
        dim: Length of an input (`synthetic` only).
        classes: Number of classes (`synthetic` only).

    Raises:
        TaskError: If the name is unknown or a value is out of its range.
    """
    return _loaded(TaskSpec(name=name, seed=seed, num_clients=num_clients, n=n, dim=dim, classes=classes))


def task_data(spec: TaskSpec) -> Task:
    """Return the task that a spec names; how it is dealt out makes no difference."""
    return load_task(
        spec.name, seed=spec.seed, num_clients=spec.num_clients, n=spec.n, dim=spec.dim, classes=spec.classes
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
    return partition(
        task_data(spec).train.labels,
        scheme=spec.scheme,
        num_partitions=spec.num_clients,
        alpha=spec.alpha,
        seed=spec.seed,
        min_size=spec.min_size,
    )
