"""What changed between two artifacts, tensor by tensor, and what taking a client there costs.

Changes are counted by bits: `-0.0` is not `0.0`, and a NaN equals itself. Magnitudes are taken in float64 over
the places where both values are finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from flserve_app.artifact import Artifact, dtype_named
from flserve_app.artifact.bfloat16 import widen
from flserve_app.codec import encode, inspect

NDArray = np.ndarray[Any, np.dtype[Any]]
Status = Literal["same", "changed", "added", "removed", "replaced"]
DELIVERIES = ("full", "lossless", "lossless-small")
_BLOCK_ITEMS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorChange:
    """What changed in one tensor.

    Attributes:
        name: Its name.
        dtype: Logical dtype after the change (before it, if removed).
        shape: The shape, likewise.
        status: `replaced` means another dtype or shape under the same name.
        changed: Fraction of the items with other bits; None unless both have the tensor in the same form.
        max_abs: Largest absolute change; None likewise.
        rms: Root of the mean squared change; None likewise.
        op: How the lossless payload carries it; None if removed.
        nbytes: Bytes it takes in that payload; None if removed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    status: Status
    changed: float | None = None
    max_abs: float | None = None
    rms: float | None = None
    op: str | None = None
    nbytes: int | None = None


def tensor_changes(before: Artifact, after: Artifact) -> tuple[TensorChange, ...]:
    """Return the change of every tensor: those of `after` in order, then those that were removed."""
    travelling = inspect(encode(after, before, "lossless")).tensors
    changes = []
    for (name, spec), info in zip(after.specs.items(), travelling, strict=True):
        form: dict[str, Any] = {"dtype": spec.dtype, "shape": spec.shape, "op": info.op, "nbytes": info.nbytes}
        if before.specs.get(name) == spec:
            changes.append(TensorChange(name=name, **form, **_measured(spec.dtype, before[name], after[name])))
        else:
            changes.append(TensorChange(name=name, status="replaced" if name in before else "added", **form))
    for name, spec in before.specs.items():
        if name not in after:
            changes.append(TensorChange(name=name, dtype=spec.dtype, shape=spec.shape, status="removed"))
    return tuple(changes)


def delivery_bytes(before: Artifact, after: Artifact) -> MappingProxyType[str, int]:
    """Return the bytes of the payload by each codec for a client that holds `before`."""
    sizes = {codec: len(encode(after, None if codec == "full" else before, codec)) for codec in DELIVERIES}
    return MappingProxyType(sizes)


def _measured(dtype: str, before: NDArray, after: NDArray) -> dict[str, Any]:
    different, largest, squares, finite = 0, 0.0, 0.0, 0
    for old, new in _blocks(before, after):
        different += _different_items(dtype, old, new)
        with np.errstate(all="ignore"):
            change = np.abs(_numbers(dtype, new) - _numbers(dtype, old))
            change = change[np.isfinite(change)]
            largest = max(largest, float(change.max(initial=0.0)))
            squares += float(np.square(change).sum())
        finite += change.size
    return {
        "status": "changed" if different else "same",
        "changed": different / before.size if before.size else 0.0,
        "max_abs": largest,
        "rms": math.sqrt(squares / finite) if finite else 0.0,
    }


def _blocks(before: NDArray, after: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
    old, new = before.reshape(-1), after.reshape(-1)
    for start in range(0, old.size, _BLOCK_ITEMS):
        yield old[start : start + _BLOCK_ITEMS], new[start : start + _BLOCK_ITEMS]


def _different_items(dtype: str, old: NDArray, new: NDArray) -> int:
    kind = dtype_named(dtype)
    different = (old.view(kind.word) != new.view(kind.word)).reshape(-1, kind.words_per_item)
    return int(np.count_nonzero(different.any(axis=1)))


def _numbers(dtype: str, items: NDArray) -> NDArray:
    """Return items as float64, or complex128 where they are complex."""
    values = widen(items) if dtype == "bfloat16" else items
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
