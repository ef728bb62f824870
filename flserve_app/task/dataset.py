"""Labelled examples and the task they make up.

Values: their arrays are read-only, because processes cache and share them between clients. Inputs are float32
where they are measurements, int64 where they are numbers of tokens, which are classes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flserve_app.errors import TaskError

Inputs = npt.NDArray[np.float32] | npt.NDArray[np.int64]
INPUT_DTYPES = ("float32", "int64")


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Inputs with their labels; build one with `Examples.of`.

    Attributes:
        inputs: float32 or int64, shape (n, *input_shape).
        labels: int64, shape (n,).

    Raises:
        TaskError: If a dtype or the number of rows is not as stated.
    """

    inputs: Inputs
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse values that are not as stated."""
        if self.inputs.dtype not in INPUT_DTYPES or self.labels.dtype != np.int64:
            raise TaskError(
                f"examples are float32 or int64, and int64, found {self.inputs.dtype} and {self.labels.dtype}"
            )
        if self.labels.ndim != 1 or self.inputs.ndim < 2 or len(self.inputs) != len(self.labels):
            raise TaskError(f"inputs of shape {self.inputs.shape} do not fit labels of shape {self.labels.shape}")

    @classmethod
    def of(cls, inputs: npt.ArrayLike, labels: npt.ArrayLike, *, dtype: npt.DTypeLike = np.float32) -> Examples:
        """Return examples that own read-only copies of two array-likes, cast to `dtype` and int64."""
        own_inputs = np.array(inputs, dtype=dtype, order="C")
        own_labels = np.array(labels, dtype=np.int64, order="C")
        own_inputs.flags.writeable = own_labels.flags.writeable = False
        return cls(own_inputs, own_labels)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64]) -> Examples:
        """Return the examples at these row numbers, int64 of shape (k,), in that order."""
        return Examples.of(self.inputs[rows], self.labels[rows], dtype=self.inputs.dtype)

    def hold_out(self, order: npt.NDArray[np.int64], fraction: float) -> tuple[Examples, Examples]:
        """Return the examples to train on and, from the start of `order`, the share that is held out."""
        held_out = round(fraction * len(self))
        return self.take(order[held_out:]), self.take(order[:held_out])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """Data to learn from, with what it takes to use the model afterwards.

    Attributes:
        name: Task name.
        input_shape: Shape of one input, without the batch dimension.
        classes: Class names; a label is an index into them, and so is a token.
        train: All clients' examples.
        test: Held-out examples; no client trains on them.
        preprocessing: How raw input becomes model input, as JSON-able values: `x * scale + offset` where both are
            given.

    Raises:
        TaskError: If the examples do not fit each other, the shape and the classes.
    """

    name: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    train: Examples
    test: Examples
    preprocessing: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse values that are not as stated."""
        # Checked here once, because torch finds a bad label only in the middle of training.
        for examples in (self.train, self.test):
            if examples.inputs.shape[1:] != self.input_shape:
                raise TaskError(f"task {self.name!r}: inputs are {examples.inputs.shape[1:]}, not {self.input_shape}")
            if examples.inputs.dtype != self.train.inputs.dtype:
                raise TaskError(f"task {self.name!r}: inputs are {self.train.inputs.dtype} to train on, not to test")
            if not self._within_classes(examples.labels):
                raise TaskError(f"task {self.name!r}: a label is outside of the {len(self.classes)} classes")
            if self.input_dtype == "int64" and not self._within_classes(examples.inputs):
                raise TaskError(f"task {self.name!r}: a token is outside of the {len(self.classes)} classes")

    @property
    def input_dtype(self) -> str:
        """`float32` or `int64`."""
        return str(self.train.inputs.dtype)

    def _within_classes(self, numbers: npt.NDArray[Any]) -> bool:
        return numbers.size == 0 or bool(0 <= numbers.min() <= numbers.max() < len(self.classes))
