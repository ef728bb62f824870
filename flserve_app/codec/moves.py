"""What changes between two artifacts, read block by block over all cores.

Only the tensors that may be rounded are looked at (`rounding` says which). What is summed is summed in float64 by
block, and over blocks in their order. There is in memory a few blocks a thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, isfinite
from types import MappingProxyType

import numpy as np

from flserve_app.artifact import Artifact, DType, dtype_named
from flserve_app.artifact.threads import gather
from flserve_app.codec.floats import Floats, floats_of
from flserve_app.codec.words import Words, words_of

# Of float32 or float64: smaller ones make threads wait for each other's turns in the interpreter, more often than they
# spare the far caches.
_BLOCK_BYTES = 1 << 19
NO_TIES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far the values of a tensor, or of a block of it, move.

    Attributes:
        count: How many they are.
        squares: Sum of the squares of all changes.
        change: Largest magnitude of a change; not finite if a value is not.
        value: Largest magnitude of a value of the base.
    """

    count: int
    squares: float
    change: float
    value: float

    @property
    def sigma(self) -> float:
        """Root mean square of the changes."""
        return float(np.sqrt(self.squares / self.count))


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Words of one tensor in a span, of target and base."""

    name: str
    dtype: DType
    span: slice
    target: Words
    base: Words

    def changes(self) -> Floats:
        """Return the changes (n,), float32 or float64."""
        with np.errstate(all="ignore"):
            changes: Floats = floats_of(self.target, self.dtype) - floats_of(self.base, self.dtype)
        return changes

    def extent(self) -> Extent:
        """Return how far the values move."""
        changes, values = self.changes(), floats_of(self.base, self.dtype)
        with np.errstate(all="ignore"):
            return Extent(
                count=changes.size,
                squares=float(np.sum(changes * changes, dtype=np.float64)),
                change=_largest(changes),
                value=_largest(values),
            )

    def kept(self, least: float) -> tuple[float, int]:
        """Return the sum of the magnitudes of at least `least`, and how many they are."""
        sizes = np.abs(self.changes())
        some = sizes[sizes >= least]
        return float(np.sum(some, dtype=np.float64)), some.size


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """The tensors of a target that may be rounded, and how far they move from the base.

    Attributes:
        target: The target.
        base: The base.
        extents: Of each tensor that may be rounded, in order.
    """

    target: Artifact
    base: Artifact
    extents: Mapping[str, Extent]

    @classmethod
    def between(cls, target: Artifact, base: Artifact, names: Collection[str]) -> Moves:
        """Return the moves of those among the named tensors whose values and changes are all finite."""
        blocks = list(_blocks(target, base, names))
        found = gather(Block.extent, blocks, nbytes_of(blocks))
        by_name: dict[str, list[Extent]] = {name: [] for name in names}
        for block, extent in zip(blocks, found, strict=True):
            by_name[block.name].append(extent)
        joined = {name: _joined(extents) for name, extents in by_name.items() if extents}
        finite = {n: e for n, e in joined.items() if isfinite(e.change) and isfinite(e.value) and isfinite(e.squares)}
        return cls(target, base, finite)

    @property
    def sigma(self) -> float:
        """Root mean square of all changes; 0 if there are none."""
        count = sum(extent.count for extent in self.extents.values())
        squares = sum(extent.squares for extent in self.extents.values())
        return float(np.sqrt(squares / count)) if count else 0.0

    def sample(self, most: int) -> Floats:
        """Return the magnitudes of all changes, or of about `most` of them, evenly spread: (n,), a new array."""
        total = sum(extent.count for extent in self.extents.values())

        def some(name: str) -> Floats:
            spec = self.target.specs[name]
            stride = _stride(-(-total // most), spec.shape[-1] if spec.shape else 1)
            dtype = dtype_named(spec.dtype)
            words = (words_of(artifact[name], dtype)[::stride] for artifact in (self.target, self.base))
            target, base = (floats_of(np.ascontiguousarray(each), dtype) for each in words)
            return np.abs(target - base)

        nbytes = sum(self.target.specs[name].nbytes for name in self.extents)
        return np.concatenate([np.zeros(0, np.float32), *gather(some, list(self.extents), nbytes)])

    def kept_mean(self, name: str, least: float) -> float:
        """Return the mean magnitude of a tensor's changes of at least `least`; 0 if there are none."""
        blocks = list(_blocks(self.target, self.base, [name]))
        found = gather(lambda block: block.kept(least), blocks, nbytes_of(blocks))
        count = sum(count for _, count in found)
        return sum(total for total, _ in found) / count if count else 0.0

    def of(self, names: Collection[str]) -> Moves:
        """Return the moves of some of the tensors."""
        return replace(self, extents={name: self.extents[name] for name in self.extents if name in names})

    def blocks(self, names: Collection[str]) -> list[Block]:
        """Return the named tensors in blocks, in their order."""
        return list(_blocks(self.target, self.base, names))


def _blocks(target: Artifact, base: Artifact, names: Collection[str]) -> Iterator[Block]:
    for name in names:
        dtype = dtype_named(target.specs[name].dtype)
        new, old = words_of(target[name], dtype), words_of(base[name], dtype)
        size = _BLOCK_BYTES // max(4, new.itemsize)
        for start in range(0, new.size, size):
            span = slice(start, min(start + size, new.size))
            yield Block(name, dtype, span, new[span], old[span])


def nbytes_of(blocks: Sequence[Block]) -> int:
    """Return how many bytes of the target blocks are of."""
    return sum(block.target.nbytes for block in blocks)


def _joined(extents: Sequence[Extent]) -> Extent:
    return Extent(
        count=sum(extent.count for extent in extents),
        squares=sum(extent.squares for extent in extents),
        change=float(np.max([extent.change for extent in extents])),
        value=float(np.max([extent.value for extent in extents])),
    )


def _largest(values: Floats) -> float:
    # Not by way of magnitudes, which would be another array; a NaN comes through both.
    return float(np.maximum(values.max(), -values.min()))


def _stride(stride: int, row: int) -> int:
    # Coprime to the rows, so as not to see the same columns again and again.
    while gcd(stride, row) > 1 and row > 1:
        stride += 1
    return stride
