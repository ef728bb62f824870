"""The artifact in which changes are rounded, filled block by block over all cores.

A tensor may be filled again with other steps, and is the target's own where it is filled with none. What was kept of a
change is counted while it is rounded, by block and over blocks in their order: it costs no further look at the arrays.
Besides the new tensors there is in memory a few blocks a thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, final

import numpy as np

from flserve_app.artifact import Artifact, byte_view
from flserve_app.artifact.digest import FillingDigest, tree_digests
from flserve_app.artifact.threads import gather
from flserve_app.codec.dither import drawn
from flserve_app.codec.floats import moved
from flserve_app.codec.moves import Block, Moves, nbytes_of
from flserve_app.codec.words import Words, words_of

NDArray = np.ndarray[Any, np.dtype[Any]]
NO_TIES: Mapping[str, str] = MappingProxyType({})


@final
class Filling:
    """What is published in place of a target.

    Args:
        moves: How the target moves from the base.

    Attributes:
        kept: Of each tensor that was filled, the part of the sum of the squares of its changes that was kept: all of
            it less the squares of what was left out; below 0 where rounding led further away.
    """

    def __init__(self, moves: Moves) -> None:
        self._moves = moves
        self._arrays: dict[str, NDArray] = {}
        self._digests: dict[str, str] = {}
        self.kept: dict[str, float] = {}

    def fill(
        self,
        steps: Mapping[str, float],
        edges: Mapping[str, float],
        levels: int,
        dither: int | None = None,
        ties: Mapping[str, str] = NO_TIES,
    ) -> None:
        """Fill tensors, for the first time or again.

        Args:
            steps: The step of each tensor to be rounded.
            edges: Least magnitude of a change that is not rounded to nothing, of each of them.
            levels: Most steps that a value moves.
            dither: Key of the stream to round at random from, whatever the edges; None to round to the nearest.
            ties: Names of tensors that draw the same as another one, with that one's.
        """
        target = self._moves.target
        arrays = {name: np.empty_like(target[name]) for name in steps}
        filling = {name: FillingDigest(byte_view(arrays[name])) for name in steps}

        def fill(block: Block) -> float:
            step = steps[block.name]
            out = words_of(arrays[block.name], block.dtype)[block.span]
            if dither is None:
                kept = _round(block, step, edges[block.name], levels, out)
            else:
                kept = _dithered(block, ties.get(block.name, block.name), step, levels, dither, out)
            size = out.itemsize
            filling[block.name].filled(block.span.start * size, block.span.stop * size)
            return kept

        blocks = self._moves.blocks(steps)
        found = gather(fill, blocks, nbytes_of(blocks))
        self.kept |= dict.fromkeys(steps, 0.0)
        for block, kept in zip(blocks, found, strict=True):
            self.kept[block.name] += kept
        for name, array in arrays.items():
            array.flags.writeable = False
            self._digests[name] = filling[name].value()
        self._arrays |= arrays

    def drop(self, names: Collection[str]) -> None:
        """Take tensors as the target has them."""
        for name in names:
            self._arrays.pop(name, None)
            self._digests.pop(name, None)
            self.kept.pop(name, None)

    def artifact(self) -> Artifact:
        """Return the target with what was filled in its place."""
        target = self._moves.target
        arrays = {name: self._arrays.get(name, target[name]) for name in target}
        exact = [name for name in arrays if name not in self._arrays]
        digests = dict(zip(exact, tree_digests([byte_view(arrays[name]) for name in exact]), strict=True))
        digests |= self._digests
        dtypes = {name: spec.dtype for name, spec in target.specs.items()}
        return Artifact.hashed(arrays, [digests[name] for name in arrays], dtypes=dtypes)


def _round(block: Block, step: float, edge: float, levels: int, out: Words) -> float:
    """Fill `out` with the base's words, moved where the change is at least `edge`; return what is kept."""
    changes = block.changes()
    np.copyto(out, block.base)
    # The edge is compared in the changes' own precision, in which no change lies between it and its rounding.
    places = np.flatnonzero(np.abs(changes) >= changes.dtype.type(edge))
    if not places.size:
        return 0.0
    some = changes[places].astype(np.float64)
    sizes = np.clip(np.rint(np.abs(some) / step), 1, levels)
    counts = np.copysign(sizes, some)
    out[places] = moved(block.base[places], counts.astype(np.int64), step, block.dtype)
    return _kept(some, counts * step)


def _dithered(block: Block, name: str, step: float, levels: int, key: int, out: Words) -> float:
    """Fill `out` with the base's words, moved by the change in steps, rounded up as often as it is above a step."""
    np.copyto(out, block.base)
    changes = block.changes().astype(np.float64)
    counts = changes / step
    counts += drawn(key, name, block.span.start, counts.size)
    counts = np.clip(np.floor(counts, out=counts), -levels, levels)
    places = np.flatnonzero(counts)
    if not places.size:
        return 0.0
    out[places] = moved(block.base[places], counts[places].astype(np.int64), step, block.dtype)
    return _kept(changes[places], counts[places] * step)


def _kept(changes: NDArray, ways: NDArray) -> float:
    # The square of a change less that of what is left of it, as a product: nothing large cancels.
    return float(np.sum(ways * (2 * changes - ways)))
