"""Aggregates back to the dtypes of the model.

Averaging turns integers into float64, and FedOpt turns everything into it. A version has the dtypes of the
version before: floats are cast, integers and booleans rounded to the nearest value (a plain cast would
truncate), bfloat16 rounded to nearest even. A tensor the version before did not have stays as it is, and one that the
aggregate lacks is no more: so it is without versions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from flserve_app.artifact import Artifact, TensorSpec, bfloat16, dtype_named
from flserve_app.client.records import read_array
from flserve_app.errors import ArtifactError

NDArray = np.ndarray[Any, np.dtype[Any]]


def restore(aggregate: ArrayRecord, like: Artifact) -> Artifact:
    """Return an aggregate as an artifact with the dtypes and the order of `like`.

    Raises:
        ArtifactError: If there is no tensor, an integer tensor is not finite or out of range, or a float tensor
            cannot be cast.
    """
    if not aggregate:
        raise ArtifactError("the aggregate has no tensors")
    names = [*(name for name in like if name in aggregate), *(name for name in aggregate if name not in like)]
    tensors: dict[str, NDArray] = {}
    dtypes: dict[str, str] = {}
    for name in names:
        values = read_array(name, aggregate[name])
        spec = like.specs.get(name)
        tensors[name] = values if spec is None else _cast(values, spec)
        if spec is not None:
            dtypes[name] = spec.dtype
    return Artifact.borrowed(tensors, dtypes=dtypes)


def is_held_by(artifact: Artifact, record: ArrayRecord) -> bool:
    """Whether an artifact that was restored from a record is what it holds, in its order and dtypes."""
    return list(artifact) == list(record) and all(
        read_array(name, array).dtype.newbyteorder("=").name == artifact.specs[name].dtype
        for name, array in record.items()
    )


def _cast(values: NDArray, spec: TensorSpec) -> NDArray:
    dtype = dtype_named(spec.dtype)
    with np.errstate(over="ignore"):  # a model that diverged becomes infinite, as it would in torch
        if spec.dtype == "bfloat16":
            return bfloat16.narrow(np.asarray(values, dtype=np.float32))
        if dtype.kind == "float" or values.dtype == dtype.storage:
            return np.asarray(values).astype(dtype.storage, copy=False)
    return _to_integers(values, spec, dtype.storage)


def _to_integers(values: NDArray, spec: TensorSpec, storage: np.dtype[Any]) -> NDArray:
    rounded = np.asarray(np.rint(values) if values.dtype.kind == "f" else values)
    if not np.all(np.isfinite(rounded)):
        raise ArtifactError(f"the aggregate of {spec.name!r} ({spec.dtype}) is not finite")
    low, high = (0, 1) if storage.kind == "b" else (np.iinfo(storage).min, np.iinfo(storage).max)
    if rounded.size and (int(rounded.min()) < low or int(rounded.max()) > high):
        raise ArtifactError(f"the aggregate of {spec.name!r} is out of the range of {spec.dtype}")
    return rounded.astype(storage)
