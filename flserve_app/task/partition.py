"""Who gets which rows.

A partition is a pure function of the labels and its arguments: disjoint row numbers that together are all
rows. The dealing itself is done by flwr-datasets, which Flower apps use; it sees row numbers and labels, never
the examples, and needs no network.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from flserve_app.errors import TaskError
from flserve_app.task.seeds import derived_seed, stream
from flserve_app.task.spec import SCHEMES

Rows = npt.NDArray[np.int64]


def partition(
    labels: npt.NDArray[np.int64],
    *,
    scheme: str,
    num_partitions: int,
    alpha: float,
    seed: int,
    min_size: int = 1,
) -> list[Rows]:
    """Deal rows out to partitions.

    `iid` shuffles the rows and cuts them into parts whose sizes differ by one at most. `dirichlet` draws for
    each class the shares of the partitions from Dirichlet(alpha) (Yurochkin et al., arXiv:1905.12022).

    Args:
        labels: int64, shape (n,): one label a row.
        scheme: `iid` or `dirichlet`.
        num_partitions: Number of parts.
        alpha: Concentration of the Dirichlet distribution; `iid` ignores it.
        seed: Decides everything random.
        min_size: Fewest rows a partition may have.

    Returns:
        One int64 array of row numbers a partition, in shuffled order.

    Raises:
        TaskError: If the scheme is unknown, or no partition with `min_size` rows in each part was found.
    """
    if scheme not in SCHEMES:
        raise TaskError(f"unknown partition scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    if num_partitions < 1 or num_partitions * max(min_size, 1) > len(labels):
        raise TaskError(
            f"{len(labels)} rows do not make {num_partitions} partitions of {min_size} rows or more: take fewer clients"
        )
    partitioner = _partitioner(scheme, num_partitions, float(alpha), min_size, derived_seed(seed, "partition"))
    # Shuffled beforehand, because the IID partitioner cuts the rows as they come.
    rows = stream(seed, "rows").permutation(len(labels)).astype(np.int64)
    try:
        return _dealt(partitioner, rows, labels[rows])
    except ValueError as error:
        raise TaskError(
            f"no {scheme} partition (alpha {alpha}) gives each of {num_partitions} clients {min_size} of "
            f"{len(labels)} rows or more: raise alpha, or take fewer clients or a smaller min_size"
        ) from error


def _partitioner(scheme: str, num_partitions: int, alpha: float, min_size: int, seed: int) -> Any:
    # Imported here: it takes more than a second, and only who deals needs it.
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner

    if scheme == "iid":
        return IidPartitioner(num_partitions=num_partitions)
    return DirichletPartitioner(
        num_partitions=num_partitions, partition_by="label", alpha=alpha, min_partition_size=min_size, seed=seed
    )


def _dealt(partitioner: Any, rows: Rows, labels: npt.NDArray[np.int64]) -> list[Rows]:
    from datasets import Dataset

    with warnings.catch_warnings():
        # It warns at each draw with a partition that is too small; the last one is an error.
        warnings.simplefilter("ignore", UserWarning)
        partitioner.dataset = Dataset.from_dict({"row": rows, "label": labels})
        parts = [partitioner.load_partition(part) for part in range(partitioner.num_partitions)]
    return [np.asarray(part["row"][:], dtype=np.int64) for part in parts]
