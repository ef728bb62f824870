"""The artifact: named tensors with an identity.

An artifact never changes: its arrays are read-only, C-contiguous and little-endian, and it owns them. Two
artifacts are the same if and only if their digests are: names, order, logical dtypes, shapes and every bit.
No IO happens here, and no arithmetic on floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self, final

import numpy as np

from flserve_app.artifact.digest import tree_digests
from flserve_app.artifact.dtypes import DTYPES, dtype_named
from flserve_app.artifact.manifest import Manifest, TensorSpec, check_specs
from flserve_app.errors import ArtifactError

NDArray = np.ndarray[Any, np.dtype[Any]]


@final
class Artifact(Mapping[str, NDArray]):
    """Named tensors: an ordered, immutable mapping from name to read-only ndarray.

    Args:
        tensors: Arrays of any layout and byte order, or numpy scalars. They are copied unless they are
            immutable already.
        dtypes: Logical dtypes that numpy cannot express: `{"weight": "bfloat16"}` for an array of uint16
            that holds bfloat16 bits. (An array whose numpy dtype is named `bfloat16` needs no entry.)

    Raises:
        ArtifactError: If a name, dtype or shape is not allowed; object arrays never are.
    """

    def __init__(self, tensors: Mapping[str, Any], *, dtypes: Mapping[str, str] | None = None) -> None:
        self._take(tensors, dict(dtypes or {}), borrow=False)

    def _take(self, tensors: Mapping[str, Any], logical: dict[str, str], *, borrow: bool) -> None:
        if strange := [name for name in logical if name not in tensors]:
            raise ArtifactError(f"dtypes names {strange[0]!r}, which is not among the tensors")
        arrays: dict[str, NDArray] = {}
        specs = []
        for name, value in tensors.items():
            array, dtype = _stored(name, np.asarray(value), logical.get(name), borrow=borrow)
            specs.append(TensorSpec(name, dtype, array.shape))
            arrays[name] = array
        check_specs(specs)
        self._specs = MappingProxyType({spec.name: spec for spec in specs})
        self._arrays = arrays

    @classmethod
    def borrowed(cls, tensors: Mapping[str, Any], *, dtypes: Mapping[str, str] | None = None) -> Self:
        """Return an artifact over memory of others, without a copy where the layout allows.

        Args:
            tensors: As of the class; nobody may write to them as long as the artifact is in use.
            dtypes: As of the class.

        Raises:
            ArtifactError: As the class.
        """
        artifact = cls.__new__(cls)
        artifact._take(tensors, dict(dtypes or {}), borrow=True)
        return artifact

    @classmethod
    def hashed(cls, tensors: Mapping[str, Any], digests: Sequence[str], *, dtypes: Mapping[str, str]) -> Self:
        """Return an artifact whose tensors' digests its maker computed while it made them.

        Args:
            tensors: Arrays that nobody can write to, in the layout an artifact keeps.
            digests: Their tree digests in order; they are not computed again.
            dtypes: As of the class.
        """
        artifact = cls(tensors, dtypes=dtypes)
        artifact.__dict__["manifest"] = Manifest(tuple(artifact.specs.values()), tuple(digests))
        return artifact

    def __getitem__(self, name: str) -> NDArray:
        """Return the read-only array with this name, in its storage dtype."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in order."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        """Whether the other is an artifact with the same digest."""
        return isinstance(other, Artifact) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash of the digest."""
        return hash(self.digest)

    def __repr__(self) -> str:
        """Short form for messages: count, size and digest."""
        return f"Artifact({len(self)} tensors, {self.nbytes} bytes, {self.digest[:12]})"

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Name to spec, in order; the logical dtypes are here."""
        return self._specs

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors' data."""
        return sum(array.nbytes for array in self._arrays.values())

    @property
    def is_hashed(self) -> bool:
        """Whether the tensors' digests are known, so that asking for them costs nothing."""
        return "manifest" in self.__dict__

    @cached_property
    def manifest(self) -> Manifest:
        """Specs and digests of all tensors; computed once."""
        digests = tree_digests([byte_view(array) for array in self._arrays.values()])
        return Manifest(tuple(self._specs.values()), tuple(digests))

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 that identifies the content."""
        return self.manifest.digest


def byte_view(array: NDArray) -> memoryview:
    """Return the bytes of a C-contiguous array without copying them."""
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _stored(name: str, array: NDArray, logical: str | None, *, borrow: bool) -> tuple[NDArray, str]:
    """Return the array as the artifact keeps it, and its logical dtype."""
    own = array.dtype.newbyteorder("=").name if array.dtype.kind != "O" else "object"
    dtype_name = logical if logical is not None else own
    if own == "object" or dtype_name not in DTYPES:
        raise ArtifactError(
            f"tensor {name!r}: dtype {dtype_name!r} cannot be in an artifact; allowed: {', '.join(DTYPES)}"
        )
    storage = dtype_named(dtype_name).storage
    if own == "bfloat16" and dtype_name == "bfloat16":
        array = array.view(np.uint16)
    elif array.dtype.newbyteorder("<") != storage:
        raise ArtifactError(f"tensor {name!r}: {dtype_name} is held as {storage.name}, found an array of {own}")
    stored = np.asarray(array, dtype=storage, order="C")
    if stored is array and not _is_immutable(array):
        # A view, so that the flag below is not the owner's.
        stored = array.view() if borrow else array.copy(order="C")
    stored.flags.writeable = False
    return stored, dtype_name


def _is_immutable(array: NDArray) -> bool:
    """Whether nobody can write to the array's memory: it and all it is a view of are read-only."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None or isinstance(owner, bytes)
