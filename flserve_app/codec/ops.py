"""How one tensor may travel: the ops, by code.

| code | name | content |
|---|---|---|
| 0 | same | nothing: the base's tensor with this name |
| 1 | raw | the tensor's bytes |
| 2 | planes | residuals to nothing, byte planes and zstd |
| 3 | bins | residuals to nothing, sorted by label, pcodec |
| 4 | planes-delta | residuals to the base's words, byte planes and zstd |
| 5 | bins-delta | residuals to the base's words, sorted by label, pcodec |
| 6 | | an earlier form of 7, in no release |
| 7 | grid-delta | floats: whole steps from the base's values (`grid`) |
| 8 | tied | place (varint) of an earlier tensor of the target that has the same dtype, shape and bytes (`ties`) |

Residuals are defined in `words`, sorting and its side bytes in `sorting` and `grouping`, bodies in `coders`; runs have
at least `LABEL_RUN` (8,192) words. Planes are not sorted and have no side bytes. A chunk has `CHUNK_WORDS` (262,144)
words or, with scales or rows in its side bytes, as many whole rows as fit in them; more in `grid`, where few move.

Codes are part of the payload format: they may be added to, never changed or used again. An op of 2 to 7
lays a tensor out in chunks and has side bytes that all chunks share. A new op is one more `Op` in `OPS`: its
`open` gives a `Layout` that packs and unpacks a chunk on any thread. Ops are exact; a codec that rounds
does so before it encodes (what it rounds to is then the target, for everybody).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, final

import numpy as np

from flserve_app.artifact import DType
from flserve_app.codec.coders import Bins, Coder, Planes
from flserve_app.codec.grid import CHUNK_WORDS, GRID_DELTA
from flserve_app.codec.grouping import MIN_ROW, Grouping, read_grouping, read_row
from flserve_app.codec.sorting import Labels
from flserve_app.codec.words import Words, residual, restore
from flserve_app.errors import CodecError


class Layout(Protocol):
    """One tensor as one op lays it out."""

    @property
    def op(self) -> Op:
        """The op."""

    @property
    def side(self) -> bytes:
        """Side bytes, from which `op.open` makes this layout again."""

    @property
    def chunk_words(self) -> int:
        """Words a chunk; the last may have fewer."""

    def pack(self, target: Words, base: Words | None, span: slice) -> bytes:
        """Return the body of the words in the span of a tensor; empty if they are the base's."""

    def unpack(self, body: memoryview, base: Words | None, span: slice, out: Words) -> None:
        """Fill `out`, the words of the span, from a body.

        Raises:
            CodecError: If the body is not as the format says.
        """


class Op(Protocol):
    """One way for a tensor to travel; a value without state."""

    @property
    def code(self) -> int:
        """Its number in a payload."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    @property
    def uses_base(self) -> bool:
        """Whether it needs the base's tensor."""

    def chunk_words(self, side: memoryview) -> int:
        """Return how many words a chunk has, from the side bytes; reads no more of them than it must."""

    def open(self, side: memoryview, dtype: DType, words: int) -> Layout:
        """Return the layout of a tensor of so many words.

        Raises:
            CodecError: If the side bytes are not as the format says.
        """


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualOp:
    """An op that codes residuals.

    Attributes:
        code: Its number in a payload.
        name: Its name in tables.
        uses_base: Whether residuals are taken to the base's words, or to nothing.
        coder: What makes bytes of them.
        sorts: Whether they are sorted first; else there are no side bytes.
    """

    code: int
    name: str
    uses_base: bool
    coder: Coder
    sorts: bool

    def chunk_words(self, side: memoryview) -> int:
        """Return how many words a chunk has."""
        return self.words_of_rows(read_row(side))

    def words_of_rows(self, row: int) -> int:
        """Return how many words a chunk has whose rows have `row` words."""
        return CHUNK_WORDS if row < MIN_ROW else CHUNK_WORDS // row * row

    def open(self, side: memoryview, dtype: DType, words: int) -> Layout:
        """Return the layout of a tensor of so many words."""
        if side and not self.sorts:
            raise CodecError(f"op {self.name}: {len(side)} side bytes, expected none")
        return self.layout(dtype, read_grouping(side, words))

    def layout(self, dtype: DType, grouping: Grouping) -> Layout:
        """Return the layout with a grouping."""
        return Residuals(op=self, dtype=dtype, grouping=grouping, sorter=Labels(grouping, dtype))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Residuals:
    """Layout of the residual ops: difference, sort, code."""

    op: ResidualOp
    dtype: DType
    grouping: Grouping
    sorter: Labels

    @property
    def side(self) -> bytes:
        """Side bytes of the grouping."""
        return self.grouping.side()

    @property
    def chunk_words(self) -> int:
        """Words a chunk; the last may have fewer."""
        return self.op.words_of_rows(self.grouping.row)

    def pack(self, target: Words, base: Words | None, span: slice) -> bytes:
        """Return the body of the words in the span."""
        held = self._held(base, span)
        words = residual(target[span], held, self.dtype)
        # The first word alone spares nearly every chunk that did move the pass over all.
        if held is not None and words[0] == 0 and not words.any():
            return b""
        order = self.sorter.order(span, held)
        if order is None:
            return self.op.coder.pack(words, [slice(0, words.size)])
        return self.op.coder.pack(order.sort(words), order.runs(LABEL_RUN))

    def unpack(self, body: memoryview, base: Words | None, span: slice, out: Words) -> None:
        """Fill the words of the span."""
        held = self._held(base, span)
        if not body and held is not None:
            out[:] = held
            return
        words = np.empty_like(out)
        order = self.sorter.order(span, held)
        if order is None:
            self.op.coder.unpack(body, [words])
        else:
            self.op.coder.unpack(body, [words[run] for run in order.runs(LABEL_RUN)])
            words = order.unsort(words)
        restore(words, held, self.dtype, out)

    def _held(self, base: Words | None, span: slice) -> Words | None:
        return base[span] if base is not None and self.op.uses_base else None


LABEL_RUN = 1 << 13
SAME = 0
RAW = 1
TIED = 8
PLANES = ResidualOp(code=2, name="planes", uses_base=False, coder=Planes(), sorts=False)
BINS = ResidualOp(code=3, name="bins", uses_base=False, coder=Bins(), sorts=True)
PLANES_DELTA = ResidualOp(code=4, name="planes-delta", uses_base=True, coder=Planes(), sorts=False)
BINS_DELTA = ResidualOp(code=5, name="bins-delta", uses_base=True, coder=Bins(), sorts=True)
_ALL: tuple[Op, ...] = (PLANES, BINS, PLANES_DELTA, BINS_DELTA, GRID_DELTA)
OPS: Mapping[int, Op] = MappingProxyType({op.code: op for op in _ALL})
NAMES: Mapping[int, str] = MappingProxyType(
    {SAME: "same", RAW: "raw", **{op.code: op.name for op in _ALL}, TIED: "tied"}
)
