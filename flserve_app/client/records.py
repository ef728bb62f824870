"""Flower's ArrayRecord to artifact and back.

Neither direction copies: a record made from an artifact looks at its tensors (`tensor_array`), and an Array's
bytes never change, so an artifact may look at them in place. bfloat16, which Flower's Array cannot carry, is
float32 in a record and bfloat16 in an artifact; the artifact a record is read `like` says which tensors that holds
for.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from tokenize import TokenError
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from flserve_app.artifact import Artifact, TensorSpec, bfloat16
from flserve_app.client.tensor_array import NUMPY_STYPE, TensorArray
from flserve_app.errors import ArtifactError

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
        raise ArtifactError(f"array {name!r}: serialised as {array.stype!r}, expected {NUMPY_STYPE!r}")
    head = BytesIO(array.data[:65536])
    try:
        version = np.lib.format.read_magic(head)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(head)
        if dtype.hasobject:
            raise ArtifactError(f"array {name!r}: object arrays are not allowed")
        flat = np.frombuffer(array.data, dtype=dtype, offset=head.tell())
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError, OverflowError, TokenError) as error:
        raise ArtifactError(f"array {name!r}: not a well-formed .npy stream ({error})") from error
