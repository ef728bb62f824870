"""Error feedback: what rounding leaves out is kept, and added to what is to be sent next.

On the server it is the residual of the published version (EF21-P: Gruntkowska et al., arXiv:2209.15218), on a
client that of its update (EF-SGD: Karimireddy et al., arXiv:1901.09847). Rules:
- A residual has tensors only for what was rounded, in the tensor's own dtype.
- It fades, and its norm is bounded by that of the move it belongs to: one that grows without bound would send
  a model where no client ever was.
- What is not finite is not kept, and added nowhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flserve_app.artifact import Artifact, dtype_named
from flserve_app.errors import CodecError

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """How much of a residual is carried on.

    Attributes:
        decay: Share of it that is added next time, 0 (no feedback) to 1 (all).
        cap: Its largest norm, as a multiple of the norm of the move that it was left out of.

    Raises:
        CodecError: If a value is out of its range.
    """

    decay: float = 1.0
    cap: float = 10.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.decay <= 1:
            raise CodecError(f"feedback: decay is {self.decay}, expected 0 to 1")
        if not (math.isfinite(self.cap) and self.cap > 0):
            raise CodecError(f"feedback: cap is {self.cap}, expected a number above 0")

    def to_json(self) -> str:
        """Return the settings as a JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Feedback:
        """Return the settings that `to_json` wrote.

        Raises:
            CodecError: If they are not such.
        """
        try:
            values: Any = json.loads(text)
            return cls(**values)
        except (TypeError, ValueError, RecursionError) as error:
            raise CodecError(f"feedback: not settings: {text[:100]!r}: {error}") from error


def with_residual(target: Artifact, residual: Artifact | None) -> Artifact:
    """Return the target with a residual added to the tensors it has; one of another shape or dtype is left out."""
    if residual is None:
        return target
    tensors: dict[str, NDArray] = dict(target)
    for name, left in residual.items():
        if name in target and target.specs[name] == residual.specs[name]:
            tensors[name] = _sum(target[name], left)
    return Artifact.borrowed(tensors, dtypes={name: spec.dtype for name, spec in target.specs.items()})


def both(one: Artifact | None, other: Artifact | None) -> Artifact | None:
    """Return the sum of two residuals; where they differ in a tensor's form, the first's stays."""
    if one is None or other is None:
        return other if one is None else one
    return Artifact.borrowed({**other, **with_residual(one, other)})


def residual_of(
    wanted: Artifact, rounded: Artifact, base: Artifact, names: Collection[str], feedback: Feedback
) -> Artifact | None:
    """Return what rounding left out and is carried on; None if nothing is.

    Args:
        wanted: What was to be sent.
        rounded: What was sent instead.
        base: What both are relative to.
        names: The tensors that were rounded, floats of numpy's own.
        feedback: How much is carried on.
    """
    if feedback.decay == 0:
        return None
    left = {name: _difference(wanted[name], rounded[name]) for name in wanted if name in names}
    size = _norm(left.values())
    if not size:
        return None
    most = feedback.cap * _norm(_difference(wanted[name], base[name]) for name in left)
    factor = feedback.decay * min(1.0, most / size)
    if factor == 0:
        return None
    return Artifact.borrowed({name: (values * values.dtype.type(factor)) for name, values in left.items()})


def _sum(values: NDArray, left: NDArray) -> NDArray:
    with np.errstate(over="ignore", invalid="ignore"):
        total = values + left
    return np.where(np.isfinite(total), total, values)


def _difference(values: NDArray, others: NDArray) -> NDArray:
    if dtype_named(values.dtype.name).kind != "float":
        raise CodecError(f"feedback: a residual of {values.dtype.name} cannot be kept")
    with np.errstate(over="ignore", invalid="ignore"):
        left = values - others
    return np.where(np.isfinite(left), left, left.dtype.type(0))


def _norm(parts: Any) -> float:
    return math.sqrt(math.fsum(float(np.sum(np.square(part, dtype=np.float64))) for part in parts))
