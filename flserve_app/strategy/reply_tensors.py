"""The tensors of one reply, in the model's form.

Flower's strategies take names, dtypes and order from the first reply they are given, and trust what an Array says of
itself. Here one form dictates all of them, as a rule the model's (`reply_form`). Rules:
- A reply has all tensors of the form in their shapes; what it has beside them is left behind.
- A floating tensor is of floats, cast to the model's dtype as a client is given it (bfloat16 as float32); a number
  that only becomes infinite by that is refused.
- An integer tensor is of whole numbers in the range of its dtype, however they are written.
- What an Array says of its dtype and shape is never believed: its stream is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from flserve_app.artifact import TensorSpec, dtype_named
from flserve_app.client.records import read_array, record_of
from flserve_app.client.tensor_array import NUMPY_STYPE, TensorArray
from flserve_app.errors import ArtifactError

NDArray = np.ndarray[Any, np.dtype[Any]]


def rebuilt(record: ArrayRecord, specs: Mapping[str, TensorSpec], *, finite: bool) -> ArrayRecord:
    """Return a record of exactly these tensors, in their order and dtypes.

    Args:
        record: The reply's.
        specs: What is expected, as a rule the model's.
        finite: Whether a floating tensor has to be finite.

    Raises:
        ArtifactError: If a tensor is missing or cannot be one of these.
    """
    if missing := [name for name in specs if name not in record]:
        raise ArtifactError(f"it lacks tensor {missing[0]!r}")
    return record_of({name: _rebuilt(record[name], spec, finite) for name, spec in specs.items()})


def check_streams(record: ArrayRecord, *, finite: bool) -> None:
    """Refuse a record that cannot be read, whoever reads it; one in a serialisation of the app's own is the app's.

    Raises:
        ArtifactError: If an Array is no stream, says something else of itself than its stream, or, if it has to be, is
            not finite.
    """
    for name, array in record.items():
        if array.stype != NUMPY_STYPE:
            continue
        values = read_array(name, array)
        if (array.dtype, tuple(array.shape)) != (str(values.dtype), values.shape):
            raise ArtifactError(
                f"its {name!r} says it is another tensor than its stream, {values.dtype} {values.shape}"
            )
        if finite and values.dtype.kind in "fc" and not np.all(np.isfinite(values)):
            raise ArtifactError(f"its {name!r} is not finite")


def given_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """Return the dtype of a tensor as clients are given it."""
    return np.dtype(np.float32) if spec.dtype == "bfloat16" else dtype_named(spec.dtype).storage


def is_integral(spec: TensorSpec) -> bool:
    """Whether a tensor of the model holds integers or booleans."""
    return dtype_named(spec.dtype).kind != "float"


def within(mean: NDArray, spec: TensorSpec) -> NDArray:
    """Return a mean of an integer tensor with what is out of the range of its dtype brought to the nearest end.

    Of numbers in the range, only rounding and momentum lead out of it. What is not finite stays so.
    """
    low, high = map(float, _range(given_dtype(spec)))
    if mean.dtype.kind != "f" or not np.all(np.isfinite(mean)):
        return mean
    if high > _range(given_dtype(spec))[1]:  # no float is the largest integer of 64 bits: the next is one too many
        high = float(np.nextafter(high, 0.0))
    return np.asarray(np.clip(mean, low, high))


def _rebuilt(array: Array, spec: TensorSpec, finite: bool) -> Array:
    values = read_array(spec.name, array)
    _check(values, spec, finite)
    dtype = given_dtype(spec)
    if values.dtype == dtype and values.flags.c_contiguous and values.flags.aligned:
        return array if isinstance(array, TensorArray) else TensorArray(values)
    with np.errstate(over="ignore"):
        cast = np.array(values, dtype=dtype, order="C")
    if values.dtype.itemsize > dtype.itemsize and dtype.kind in "fc" and np.any(np.isinf(cast) & np.isfinite(values)):
        raise ArtifactError(f"its {spec.name!r} is out of the range of {spec.dtype}")
    return TensorArray(cast)


def _check(values: NDArray, spec: TensorSpec, finite: bool) -> None:
    """Refuse what cannot stand for a tensor of the model."""
    if values.shape != spec.shape:
        raise ArtifactError(f"its {spec.name!r} has shape {values.shape}, expected {spec.shape}")
    dtype = given_dtype(spec)
    kinds = "biuf" if is_integral(spec) else "fc" if dtype.kind == "c" else "f"
    if values.dtype.kind not in kinds:
        raise ArtifactError(f"its {spec.name!r} is {values.dtype}, expected {spec.dtype}")
    if is_integral(spec):
        _check_integers(values, spec, dtype)
        if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
            raise ArtifactError(f"its {spec.name!r} has fractions, expected {spec.dtype}")
    elif finite and not np.all(np.isfinite(values)):
        raise ArtifactError(f"its {spec.name!r} is not finite")


def _check_integers(values: NDArray, spec: TensorSpec, dtype: np.dtype[Any]) -> None:
    if values.dtype == dtype or not values.size:
        return
    low, high = _range(dtype)
    # Python compares a float with an integer exactly, numpy after rounding the integer.
    if not np.all(np.isfinite(values)) or values.min().item() < low or values.max().item() > high:
        raise ArtifactError(f"its {spec.name!r} is not finite or out of the range of {spec.dtype}")


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
