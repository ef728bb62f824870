"""Flower's ArrayRecord to artifact and back.

Neither direction copies: a record made from an artifact looks at its tensors (`tensor_array`), and an Array's
bytes never change, so an artifact may look at them in place. bfloat16, which Flower's Array cannot carry, is
float32 in a record and bfloat16 in an artifact; the artifact a record is read `like` says which tensors that holds
for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from flserve_app.artifact import Artifact, TensorSpec, bfloat16
from flserve_app.artifact.npy_header import read_npy_header
from flserve_app.client.tensor_array import NUMPY_STYPE, TensorArray
from flserve_app.errors import ArtifactError
from flserve_app.text import plain

NDArray = np.ndarray[Any, np.dtype[Any]]


def to_record(artifact: Artifact) -> ArrayRecord:
    """Return the artifact as the ArrayRecord an app works with: numpy arrays under their names, in order."""
    return record_of(
        {
            name: TensorArray(bfloat16.widen(artifact[name]) if spec.dtype == "bfloat16" else artifact[name])
            for name, spec in artifact.specs.items()
        }
    )


def record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return a record of these very Arrays."""
    record = ArrayRecord()
    # One by one: Flower's constructor makes plain Arrays of all, and serialises them for it.
    for name, array in arrays.items():
        record[name] = array
    return record


def to_artifact(record: ArrayRecord, like: Artifact | None = None) -> Artifact:
    """Return the tensors of a record as an artifact.

    Args:
        record: Arrays of any numpy dtype an artifact may hold.
        like: Where a tensor of the same name and shape is bfloat16 here and the record has float32 values
            that are all bfloat16 values, the artifact has bfloat16 too. Nothing is ever rounded.

    Raises:
        ArtifactError: If an array is not numpy-serialised, is malformed, or has a dtype no artifact holds.
    """
    specs: Mapping[str, TensorSpec] = like.specs if like is not None else {}
    tensors: dict[str, NDArray] = {}
    dtypes: dict[str, str] = {}
    for name, array in record.items():
        value = read_array(name, array)
        spec = specs.get(name)
        if (
            spec is not None
            and spec.dtype == "bfloat16"
            and spec.shape == value.shape
            and value.dtype == np.float32
            and bfloat16.is_exact(value)
        ):
            value = bfloat16.narrow(value)
            dtypes[name] = "bfloat16"
        tensors[name] = value
    return Artifact.borrowed(tensors, dtypes=dtypes)


def read_array(name: str, array: Array) -> NDArray:
    """Return a read-only view of an Array's numpy data (any dtype, any byte order).

    Raises:
        ArtifactError: If it is not a well-formed .npy stream of a plain dtype.
    """
    if isinstance(array, TensorArray):
        return array.values
    if array.stype != NUMPY_STYPE:
        raise ArtifactError(f"array {name!r}: serialised as {plain(array.stype, 40)!r}, expected {NUMPY_STYPE!r}")
    try:
        header = read_npy_header(array.data)
        flat = np.frombuffer(array.data, dtype=header.dtype, offset=header.offset)
        if flat.size != math.prod(header.shape):
            raise ArtifactError(f"{flat.size} numbers follow, expected those of shape {header.shape}")
        return flat.reshape(header.shape, order="F" if header.fortran else "C")
    except (ArtifactError, ValueError, TypeError, OverflowError) as error:
        raise ArtifactError(f"array {name!r}: not a well-formed .npy stream ({error})") from error
