"""What an artifact consists of, without its data.

The manifest lists the tensors in order; order is part of the identity, because a list of ndarrays (as a
NumPyClient sees a model) is read by position. Its canonical form is ASCII JSON without white space:
`{"format":1,"tensors":[[name,dtype,[dims],digest],...]}`. The artifact's digest is SHA-256 over that.
Bounds (names, ranks, counts) hold for every manifest, wherever it came from.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from flserve_app.artifact.dtypes import dtype_named
from flserve_app.errors import ArtifactError

MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 1024
MAX_RANK = 32
MAX_TENSOR_BYTES = 1 << 46


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, logical dtype and shape of one tensor.

    Attributes:
        name: Non-empty, at most `MAX_NAME_BYTES` of UTF-8.
        dtype: Logical dtype name, a key of `DTYPES`.
        shape: Dimensions; `()` for a scalar.

    Raises:
        ArtifactError: If a bound does not hold.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check the bounds."""
        dtype_named(self.dtype)
        _check_name(self.name)
        if len(self.shape) > MAX_RANK:
            raise ArtifactError(f"tensor {self.name!r}: rank is {len(self.shape)}, at most {MAX_RANK} is allowed")
        extent = dtype_named(self.dtype).storage.itemsize
        for dim in self.shape:
            if dim < 0:
                raise ArtifactError(f"tensor {self.name!r}: shape {self.shape} has a negative dimension")
            # An empty tensor counts as if its zeros were ones: numpy cannot hold a shape that large either.
            extent *= dim or 1
        if extent > MAX_TENSOR_BYTES:
            raise ArtifactError(f"tensor {self.name!r}: {extent} bytes, at most {MAX_TENSOR_BYTES} are allowed")

    @property
    def size(self) -> int:
        """Number of items."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.size * dtype_named(self.dtype).storage.itemsize


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise ArtifactError(f"a tensor's name must be a non-empty string, found {name!r}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise ArtifactError(f"tensor name {name!r} is not valid Unicode") from None
    if length > MAX_NAME_BYTES:
        raise ArtifactError(f"tensor name {name[:40]!r}... is {length} bytes, at most {MAX_NAME_BYTES} are allowed")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Specs of all tensors in order, with the digest of each.

    Attributes:
        specs: One a tensor; names are unique.
        digests: Tree digest (hex) of each tensor, in the same order.
    """

    specs: tuple[TensorSpec, ...]
    digests: tuple[str, ...]

    def canonical(self) -> bytes:
        """Return the bytes that the artifact's digest is taken over."""
        tensors = [
            [spec.name, spec.dtype, list(spec.shape), digest]
            for spec, digest in zip(self.specs, self.digests, strict=True)
        ]
        return json.dumps({"format": 1, "tensors": tensors}, separators=(",", ":")).encode("ascii")

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical form."""
        return hashlib.sha256(self.canonical()).hexdigest()


def check_specs(specs: Sequence[TensorSpec]) -> None:
    """Check what holds for a sequence of specs as a whole.

    Raises:
        ArtifactError: If there are too many, or a name stands twice.
    """
    if len(specs) > MAX_TENSORS:
        raise ArtifactError(f"{len(specs)} tensors, at most {MAX_TENSORS} are allowed")
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise ArtifactError(f"tensor name {spec.name!r} stands twice")
        seen.add(spec.name)
