"""The op `grid-delta`: a tensor of floats whose elements moved by whole steps.

Side bytes: the step (`step`); then a varint `row`, of `MIN_ROW` to `MAX_ROW` words, if places may be
coded by row and column, else nothing; then scales of the rows and columns as in `grouping`, if dense chunks are sorted,
else nothing. A chunk has `CHUNK_WORDS` (2**18) words, or as many whole rows as fit in them. With rows but no scales, as
where few words move, it has `SPARSE_WORDS` (2**20): what is learned about columns serves more rows. The target is the
base with q steps added where q is not 0 (`floats.moved`); all other words are the base's, whatever they are. A body is
shorter than its chunk. It is a form byte and

    0  dense    zigzag(q) of all words as u16        `dense`
    1  wide     the same as u32                      `dense`
    2  plain    places as gaps, signs, magnitudes    `sparse`
    3  crossed  the same, places by row and column   `sparse`, `crossing`
    4  patched  varint size and a body of the other forms (or nothing), then what its steps do not give   `patches`
    5  sorted   as 0, like words together            `dense`

A target that steps do not give to the last bit, as after several versions at once, is patched; a chunk with values that
are not finite or too far away travels as its own bytes: the op is exact for any target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from flserve_app.artifact import DType
from flserve_app.codec.coders import MOST_WORDS
from flserve_app.codec.dense import pack_dense, unpack_dense
from flserve_app.codec.floats import Steps, moved, nearest_steps
from flserve_app.codec.grouping import MAX_ROW, MIN_ROW, Grouping, read_grouping
from flserve_app.codec.patches import apply_patches, pack_patches
from flserve_app.codec.rice import Numbers
from flserve_app.codec.sorting import LabelOrder, Labels
from flserve_app.codec.sparse import MOST_SHARE, pack_sparse, unpack_sparse
from flserve_app.codec.step import read_step, step_bytes
from flserve_app.codec.wire import Reader, varint
from flserve_app.codec.words import Words
from flserve_app.errors import CodecError

CHUNK_WORDS = MOST_WORDS
SPARSE_WORDS = 1 << 20
_BLOCK_WORDS = 1 << 16
DENSE, WIDE, PLAIN, CROSSED, PATCHED, SORTED = range(6)
# Shares of a chunk's words: above the first no sparse form is allowed, below the second no dense one is tried.
_SPARSE_BELOW = MOST_SHARE
_DENSE_ABOVE = 0.08


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GridOp:
    """An op that codes steps on a grid.

    Attributes:
        code: Its number in a payload.
        name: Its name in tables.
        uses_base: True: the steps begin at the base's values.
    """

    code: int
    name: str
    uses_base: bool = True

    def chunk_words(self, side: memoryview) -> int:
        """Return how many words a chunk has."""
        row, scales = _read_row(read_step(side)[1])
        return _chunk_words(row, scaled=bool(scales))

    def open(self, side: memoryview, dtype: DType, words: int) -> GridSteps:
        """Return the layout of a tensor of so many words."""
        step, grouped = read_step(side)
        row, scales = _read_row(grouped)
        if dtype.kind != "float":
            raise CodecError(f"op {self.name}: {dtype.name} words, expected floats")
        if row and words % row:
            raise CodecError(f"op {self.name}: {words} words are no whole rows of {row}")
        grouping = read_grouping(grouped, words) if scales else Grouping(row=row)
        return GridSteps(op=self, dtype=dtype, step=step, grouping=grouping)

    def layout(self, dtype: DType, step: float, *, row: int, words: int, grouping: Grouping | None = None) -> GridSteps:
        """Return the layout of a tensor on a grid.

        Args:
            dtype: What the words are: floats.
            step: Of the grid; one that `is_step`.
            row: Words a row.
            words: Words of the tensor.
            grouping: Scales of its rows and columns, if dense chunks are to be sorted.
        """
        crossed = MIN_ROW <= row <= MAX_ROW and words > row
        plain = Grouping(row=row if crossed else 0)
        return GridSteps(op=self, dtype=dtype, step=step, grouping=grouping or plain)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GridSteps:
    """Layout of `grid-delta`: find the steps, take the shortest form.

    Attributes:
        op: The op.
        dtype: What the words are: floats.
        step: The step.
        grouping: Words a row, 0 where places are not coded by row and column; scales, if dense chunks are sorted.
    """

    op: GridOp
    dtype: DType
    step: float
    grouping: Grouping

    @property
    def row(self) -> int:
        """Words a row; 0 where there are none."""
        return self.grouping.row

    @property
    def side(self) -> bytes:
        """Side bytes: step, row and scales."""
        return step_bytes(self.step) + self.grouping.side()

    @property
    def chunk_words(self) -> int:
        """Words a chunk; the last may have fewer."""
        return _chunk_words(self.row, scaled=bool(self.grouping.scales))

    def pack(self, target: Words, base: Words | None, span: slice) -> bytes:
        """Return the body of the words in the span, or the words themselves where no steps lead near them."""
        new, old = target[span], _based(base)[span]
        changed, some, wanted = _changes(new, old)
        if not changed.size:
            return b""
        counts = nearest_steps(some, wanted, self.step, self.dtype)
        if counts is None:
            return new.tobytes()
        places, steps, whole = changed, counts, bool(counts.all())
        if not whole:
            places, steps, some = (each[counts != 0] for each in (changed, counts, some))
        reached = moved(some, steps, self.step, self.dtype)
        stepped = min(self._forms(places, steps, span), key=len) if places.size else b""
        if whole and np.array_equal(reached, wanted):
            return stepped
        patches = pack_patches(new, _with(old, places, reached), places, changed[counts == 0], self.dtype)
        if patches is None:
            return new.tobytes()
        return bytes((PATCHED,)) + varint(len(stepped)) + stepped + patches

    def unpack(self, body: memoryview, base: Words | None, span: slice, out: Words) -> None:
        """Fill the words of the span."""
        old = _based(base)[span]
        out[:] = old
        if not body:
            return
        if len(body) > out.nbytes:
            raise CodecError(f"chunk of {out.nbytes} bytes has a body of {len(body)}")
        if body[0] != PATCHED:
            self._move(body, span, out)
            return
        reader = Reader(body[1:], "patched chunk")
        stepped = reader.take(reader.varint())
        places = self._move(stepped, span, out) if stepped else np.zeros(0, np.int64)
        apply_patches(reader.take(reader.left), np.sort(places), self.dtype, out)

    def _move(self, body: memoryview, span: slice, out: Words) -> Numbers:
        """Move the base's words as a body of steps says; return which (n,), in any order."""
        form, rest = body[0], body[1:]
        order = self._order(span) if form == SORTED else None
        if form in (PLAIN, CROSSED) and (self.row or form == PLAIN):
            parts = iter([unpack_sparse(rest, *self._shape(out.size), crossed=form == CROSSED)])
        elif form in (DENSE, WIDE) or order is not None:
            parts = unpack_dense(rest, out.size, order, wide=form == WIDE)
        else:
            raise CodecError(f"chunk has the form {form}, which its tensor does not allow")
        found = []
        for places, steps in parts:
            if places.size:
                out[places] = moved(out[places], steps, self.step, self.dtype)
            found.append(places)
        return np.concatenate(found)

    def _forms(self, places: Numbers, steps: Steps, span: slice) -> Iterator[bytes]:
        words = span.stop - span.start
        share = places.size / words
        if share < _SPARSE_BELOW:
            body, crossed = pack_sparse(places, steps, *self._shape(words))
            yield bytes((CROSSED if crossed else PLAIN,)) + body
        if share > _DENSE_ABOVE:
            order = self._order(span)
            body, wide = pack_dense(places, steps, words, order)
            yield bytes((WIDE if wide else DENSE if order is None else SORTED,)) + body

    def _order(self, span: slice) -> LabelOrder | None:
        return Labels(self.grouping, self.dtype).order(span, None) if self.grouping.scales else None

    def _shape(self, words: int) -> tuple[int, int]:
        return (words // self.row, self.row) if self.row else (1, words)


def _changes(new: Words, old: Words) -> tuple[Numbers, Words, Words]:
    """Return where words (m,) differ (n,), and what the old and the new ones are there."""
    found = []
    # Block by block: from a near cache the words are read twice in little more time than once.
    for start in range(0, new.size, _BLOCK_WORDS):
        some, others = old[start : start + _BLOCK_WORDS], new[start : start + _BLOCK_WORDS]
        places = np.flatnonzero(some != others)
        found.append((places + start, some[places], others[places]))
    places, some, others = (np.concatenate(each) for each in zip(*found, strict=True))
    return places, some, others


def _with(words: Words, places: Numbers, others: Words) -> Words:
    changed = words.copy()
    changed[places] = others
    return changed


def _based(base: Words | None) -> Words:
    if base is None:
        raise CodecError("op grid-delta needs a base")
    return base


def _chunk_words(row: int, *, scaled: bool) -> int:
    if not row:
        return CHUNK_WORDS
    return (CHUNK_WORDS if scaled else SPARSE_WORDS) // row * row


def _read_row(side: memoryview) -> tuple[int, memoryview]:
    """Return the row length in the side bytes behind the step, 0 if there is none, and the scales behind it."""
    if not side:
        return 0, side
    reader = Reader(side, "op grid-delta")
    row = reader.varint()
    if not MIN_ROW <= row <= MAX_ROW:
        raise CodecError(f"op grid-delta: row length is {row}, expected {MIN_ROW} to {MAX_ROW}")
    return row, reader.take(reader.left)


GRID_DELTA = GridOp(code=7, name="grid-delta")
