"""Where the changes of a matrix are, told by row and column: some rows and columns change far more often than others.

First comes, of every row, the class of how many places it has: 0 for none, else 1 + bit length of (count - 1). Rows
with places are taken by falling class, in batches of growing size (`_ladder`). Within a batch each column has a
class of its own, from the C columns' counts c in all earlier batches, of n places in sum:

    e with 2**(e - 1) <= (8 c + 2**s) C / (8 n + 2**s C) < 2**e

(one float64 division of integers, so the same anywhere), where s, 0 to 10, says how little is to be made of few counts.

Row class + column class is the label of a cell, which goes with the log2 of how likely it is. All cells of a label
are lined up, batch after batch, row after row, columns by class and then by number; the places among them are coded
as gaps, with one Rice parameter a label. Nothing is ever done cell by cell: where a cell stands in its line is computed
from the number of columns of each class. (The idea of context splitting; compare adaptive binary coders of sparse
matrices, which go through the cells one by one.)

As numbers (`rice`): the list of the row classes; `number` s; `number` of the lowest label + 64, `number` of labels
after it; list of how many places each label has; of each label with places the parameter, as a list of zigzag
differences to the one before (the first to 0); then the gaps of each label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import log2

import numpy as np

from flserve_app.codec.rice import MOST_PARAMETER, Numbers, RiceReader, RiceWriter, best_parameters, bounded, gaps
from flserve_app.errors import CodecError

_BIAS = 64
_LABELS = 2 * _BIAS
_LABEL_BITS = 40  # of a key, for the place in the label's line
_SLOW = 32  # rows from which on a batch doubles what was taken
_FIRST = 32  # of all rows, one in so many makes the first batch
_MOST_CAUTION = 10
_ROW_BITS = 2  # about what the class of a row takes


def is_uneven(found: Numbers, rows: int, columns: int) -> bool:
    """Whether places (n,) are spread over a matrix so unevenly that it may pay to tell them by row and column."""
    row, column = np.divmod(found, columns)
    spread = _beyond_chance(np.bincount(row, minlength=rows)), _beyond_chance(np.bincount(column, minlength=columns))
    return found.size * sum(log2(1 + each) for each in spread) > _ROW_BITS * rows


def write_crossing(writer: RiceWriter, found: Numbers, rows: int, columns: int) -> None:
    """Write ascending places (n,), n > 0, of a matrix."""
    row, column = np.divmod(found, columns)
    classes = _class_of(np.bincount(row, minlength=rows))
    writer.listed(classes)
    caution = _caution(np.bincount(column, minlength=columns))
    writer.number(caution)
    turn = _turns(classes)[row]
    by_turn = np.argsort(turn, kind="stable")
    turn, column = turn[by_turn], column[by_turn]
    batches, keys = _Batches(classes, columns, caution), np.empty_like(found)
    for batch in batches.all():
        some = slice(*np.searchsorted(turn, (batch.start, batch.stop)))
        keys[some] = batches.keys(batch, turn[some] - batch.start, column[some])
        batches.learn(batch, column[some])
    keys.sort()
    _write_labels(writer, keys)


def read_crossing(reader: RiceReader, rows: int, columns: int) -> Numbers:
    """Return the ascending places (n,) of a matrix.

    Raises:
        CodecError: If they are not as the format says.
    """
    classes = reader.listed(rows, columns.bit_length() + 2)
    caution = reader.number()
    if caution > _MOST_CAUTION:
        raise CodecError(f"chunk has a caution of {caution}, at most {_MOST_CAUTION} is allowed")
    keys = _read_labels(reader, rows * columns)
    order = _order(classes)
    batches, found = _Batches(classes, columns, caution), []
    for batch in batches.all():
        row, column = batches.cells(batch, keys)
        batches.learn(batch, column)
        found.append(order[batch.start + row] * columns + column)
    if not found or sum(map(len, found)) != keys.size:
        raise CodecError(f"chunk has {keys.size} places, {sum(map(len, found))} of them in its rows")
    return np.sort(np.concatenate(found))


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Some rows that are taken at once, and how their cells are lined up.

    Attributes:
        start: First row, in the order in which they are taken.
        stop: Row after the last.
        row_class: Class of each row (rows,).
        column_class: Class of each column (C,).
        by_class: Columns sorted by class (C,).
        rank: Where a column stands among those of its class (C,).
        first: Where the columns of a class begin in `by_class`, by class - lowest class.
        low: Lowest label.
        starts: Cells of all lines before each segment (labels * rows + 1,): a segment is one row's part of a line.
        lines: Cells before the line of each label (labels + 1,).
    """

    start: int
    stop: int
    row_class: Numbers
    column_class: Numbers
    by_class: Numbers
    rank: Numbers
    first: Numbers
    low: int
    starts: Numbers
    lines: Numbers


class _Batches:
    """The batches of one matrix, each made of what the earlier ones taught."""

    def __init__(self, classes: Numbers, columns: int, caution: int) -> None:
        self._classes = classes[_order(classes)]
        self._columns = columns
        self._prior = 1 << caution
        self._counts = np.zeros(columns, np.int64)
        # Where the next batch goes on in each label's line.
        self._reached = np.zeros(_LABELS, np.int64)

    def all(self) -> Iterator[_Batch]:
        for start, stop in pairwise(_ladder(self._classes.size)):
            yield self._batch(start, stop)

    def keys(self, batch: _Batch, row: Numbers, column: Numbers) -> Numbers:
        """Return label and place in its line of cells (n,), as one number that sorts by both."""
        label = batch.row_class[row] + batch.column_class[column] - batch.low
        labels = np.arange(batch.lines.size - 1) + batch.low + _BIAS
        begin = (labels << _LABEL_BITS) + self._reached[labels] - batch.lines[:-1]
        keys: Numbers = begin[label] + batch.starts[label * batch.row_class.size + row] + batch.rank[column]
        return keys

    def cells(self, batch: _Batch, keys: Numbers) -> tuple[Numbers, Numbers]:
        """Return row and column of the cells whose sorted keys are in this batch."""
        labels = np.arange(batch.lines.size - 1) + batch.low + _BIAS
        begin = (labels << _LABEL_BITS) + self._reached[labels]
        first, last = np.searchsorted(keys, (begin, begin + np.diff(batch.lines)))
        size = last - first
        which = np.repeat(first - np.cumsum(size) + size, size) + np.arange(size.sum())
        flat = keys[which] - np.repeat(begin - batch.lines[:-1], size)
        segment = np.searchsorted(batch.starts[1:], flat, side="right")
        label, row = np.divmod(segment, batch.row_class.size)
        rank = flat - batch.starts[segment]
        lowest = int(batch.column_class[batch.by_class[0]])
        column = batch.by_class[batch.first[label + batch.low - batch.row_class[row] - lowest] + rank]
        return row, column

    def learn(self, batch: _Batch, column: Numbers) -> None:
        """Count the columns (n,) of a batch's places, and go on in the lines."""
        self._counts += np.bincount(column, minlength=self._columns)
        sizes = np.diff(batch.lines)
        self._reached[batch.low + _BIAS :][: sizes.size] += sizes

    def _batch(self, start: int, stop: int) -> _Batch:
        counts, columns = self._counts, self._columns
        ratio = (8 * counts + self._prior) * columns / (8 * int(counts.sum()) + self._prior * columns)
        column_class = np.frexp(ratio)[1].astype(np.int64)
        by_class = np.argsort(column_class.astype(np.int8), kind="stable")
        lowest = int(column_class[by_class[0]])
        sizes = np.bincount(column_class - lowest)
        first = np.cumsum(sizes) - sizes
        rank = np.empty_like(by_class)
        rank[by_class] = np.arange(columns) - np.repeat(first, sizes)
        row_class = self._classes[start:stop]
        low = lowest + int(row_class[-1])
        # Rows come by falling class: the first has the highest labels.
        labels = np.arange(low, lowest + sizes.size + int(row_class[0]))
        of_row = labels[:, None] - row_class[None, :] - lowest
        inside = (of_row >= 0) & (of_row < sizes.size)
        lengths = np.where(inside, sizes[np.clip(of_row, 0, sizes.size - 1)], 0)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        lines = starts[:: row_class.size]
        return _Batch(start, stop, row_class, column_class, by_class, rank, first, low, starts, lines)


def _class_of(counts: Numbers) -> Numbers:
    return np.where(counts > 0, 1 + np.frexp(np.maximum(counts - 1, 0))[1], 0)


def _order(classes: Numbers) -> Numbers:
    """Return the rows that have places, by falling class."""
    live = np.flatnonzero(classes)
    return live[np.argsort(-classes[live], kind="stable")]


def _turns(classes: Numbers) -> Numbers:
    """Return when each row is taken (rows,); rows without places never are."""
    order = _order(classes)
    turns = np.zeros_like(classes)
    turns[order] = np.arange(order.size)
    return turns


def _ladder(rows: int) -> list[int]:
    """Return the bounds of the batches: small at first, when every row teaches much."""
    bounds, least = [0], max(1, rows // _FIRST)
    while bounds[-1] < rows:
        last = bounds[-1]
        bounds.append(min(rows, last + max(least, last // 2 if last < _SLOW else last)))
    return bounds


def _caution(counts: Numbers) -> int:
    """Return s for columns with these counts (C,), from how much more they vary than chance alone would have it.

    Of a gamma distribution of rates with shape a, counts of mean m have the variance m + m**2 / a. Half of that a
    is what does best on updates of small networks.
    """
    beyond = _beyond_chance(counts)
    return min(max(0, round(2 - log2(beyond))), _MOST_CAUTION) if beyond else _MOST_CAUTION


def _beyond_chance(counts: Numbers) -> float:
    """Return the variance of counts (n,), less what chance alone gives, relative to the square of their mean."""
    mean = float(counts.mean())
    return max(0.0, float(counts.var()) - mean) / mean**2


def _write_labels(writer: RiceWriter, keys: Numbers) -> None:
    labels, line = keys >> _LABEL_BITS, keys & (1 << _LABEL_BITS) - 1
    low = int(labels[0])
    counts = np.bincount(labels - low)
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    left_out = gaps(line)
    left_out[starts] = line[starts]
    parameters = best_parameters(left_out, starts)
    steps = np.diff(parameters, prepend=0)
    writer.number(low)
    writer.number(counts.size - 1)
    writer.listed(counts)
    writer.listed((steps << 1) ^ (steps >> 63))
    writer.coded(left_out, np.repeat(parameters, counts[counts > 0]))


def _read_labels(reader: RiceReader, cells: int) -> Numbers:
    """Return the sorted keys of all places."""
    low = reader.number()
    count = reader.number() + 1
    if low + count > _LABELS:
        raise CodecError(f"chunk has labels up to {low + count - 1}, expected less than {_LABELS}")
    counts = reader.listed(count, cells + 1)
    if not 0 < int(counts.sum()) <= cells:
        raise CodecError(f"chunk has {counts.sum()} places, expected 1 to {cells}")
    used = np.flatnonzero(counts)
    coded = reader.listed(used.size, 2 * MOST_PARAMETER + 1)
    parameters = np.cumsum((coded >> 1) ^ -(coded & 1))
    left_out = bounded(reader.coded(np.repeat(parameters, counts[used])), cells)
    ends = np.cumsum(left_out + 1)
    starts = np.cumsum(counts[used]) - counts[used]
    line = bounded(ends - np.repeat(ends[starts] - left_out[starts] - 1, counts[used]) - 1, cells)
    return (np.repeat(used + low, counts[used]) << _LABEL_BITS) + line
