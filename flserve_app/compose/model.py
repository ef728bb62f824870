"""A model as server and clients are told of it: a name, arguments and a seed.

Every client process loads this, so nothing here knows the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flserve_app.task import TaskSpec, task_data
from flserve_app.task.models import build_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model kind with its arguments, ready to be built anywhere.

    Attributes:
        name: Model kind.
        arguments: All its arguments.
        seed: Seed of the initial weights.
    """

    name: str
    arguments: dict[str, Any]
    seed: int

    def build(self, spec: TaskSpec) -> Any:
        """Return the torch module for a task."""
        task = task_data(spec)
        return build_model(
            self.name,
            input_shape=task.input_shape,
            classes=len(task.classes),
            seed=self.seed,
            input_dtype=task.input_dtype,
            **self.arguments,
        )
