"""Everything that decides who trains on which examples.

A spec is a small hashable value: it travels in a config, and whoever holds it derives the same data. It
comes from outside, so its sizes are bounded here before anything is allocated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flserve_app.errors import TaskError
from flserve_app.task.source import HubSource

MAX_CLIENTS = 1 << 20
MAX_VALUES = 1 << 30
SCHEMES = ("iid", "dirichlet")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A task and how its training examples are dealt out.

    Attributes:
        name: Task name, such as `digits`.
        seed: Decides the data, the test split, the partition and the validation split.
        num_clients: Number of partitions.
        n: Training examples a client has, and examples in the test set (`synthetic` only).
        dim: Length of an input (`synthetic`), characters in a window (`chars`).
        classes: Number of classes (`synthetic` only).
        scheme: `iid` or `dirichlet`.
        alpha: Concentration of the Dirichlet distribution: small means that clients see few classes.
        min_size: Fewest examples a partition may have.
        val_fraction: Share of its examples a client keeps for evaluation; 0 evaluates on the training examples.
        hub: Where the images come from (`hub` only).

    Raises:
        TaskError: If a value is out of its range.
    """

    name: str = "digits"
    seed: int = 0
    num_clients: int = 10
    n: int = 200
    dim: int = 32
    classes: int = 10
    scheme: str = "iid"
    alpha: float = 0.5
    min_size: int = 1
    val_fraction: float = 0.0
    hub: HubSource | None = None

    def __post_init__(self) -> None:
        """Refuse values that are not as stated."""
        for field in ("num_clients", "n", "dim", "min_size"):
            _check_at_least(field, getattr(self, field), 1)
        _check_at_least("classes", self.classes, 2)
        if self.num_clients > MAX_CLIENTS:
            raise TaskError(f"num_clients is {self.num_clients}, at most {MAX_CLIENTS} are allowed")
        if self.num_clients * self.n * self.dim > MAX_VALUES:
            raise TaskError(f"num_clients * n * dim is over {MAX_VALUES}, the largest data set that is made")
        if self.scheme not in SCHEMES:
            raise TaskError(f"unknown partition scheme {self.scheme!r}; known: {', '.join(SCHEMES)}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise TaskError(f"alpha must be a finite number above 0, found {self.alpha}")
        if not 0.0 <= self.val_fraction < 1.0:
            raise TaskError(f"val_fraction must be in [0, 1), found {self.val_fraction}")


def _check_at_least(field: str, value: int, least: int) -> None:
    if value < least:
        raise TaskError(f"{field} must be at least {least}, found {value}")
