"""Where the changes of a matrix are, told by row and column: some rows and columns change far more often than others.

First comes, of every row, the class of how many places it has: 0 for none, else 1 + bit length of (count - 1). Rows
with places are taken by falling class, in batches of growing size (`lines`). Within a batch each column has a
class of its own, from the C columns' counts c in all earlier batches, of n places in sum:

    e with 2**(e - 1) <= (8 c + 2**s) C / (8 n + 2**s C) < 2**e

(one float64 division of integers, so the same anywhere), where s, 0 to 10, says how little is to be made of few counts.

Row class + column class is the label of a cell, which goes with the log2 of how likely it is. All cells of a label
are lined up, batch after batch, row after row, columns by number; the places among them are coded as gaps, with one
Rice parameter a label. Nothing is ever done cell by cell: where a cell stands in its line is computed from the number
of columns of each class (`lines`). (The idea of context splitting; compare adaptive binary coders of sparse matrices,
which go through the cells one by one.) So places are told by label, those of a label as they are lined up.

As numbers (`rice`): the list of the row classes; `number` s; `number` of the lowest label + 64, `number` of labels
after it; list of how many places each label has; of each label with places the parameter, as a list of zigzag
differences to the one before (the first to 0); then the gaps of each label.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import numpy as np

from flserve_app.codec.lines import LABELS, Groups, Segments, Sorting
from flserve_app.codec.rice import MOST_PARAMETER, Numbers, RiceReader, RiceWriter, best_parameters, bounded, gaps
from flserve_app.errors import CodecError

_LABEL_BITS = 40  # of a key, for the place in the label's line
_MOST_CAUTION = 10
_ROW_BITS = 2  # about what the class of a row takes


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Places of a matrix in ascending order, by row and column.

    Attributes:
        row: Row of each place (n,).
        column: Column of each (n,).
        of_rows: How many places each row has (rows,).
        of_columns: How many each column has (C,).
    """

    row: Numbers
    column: Numbers
    of_rows: Numbers
    of_columns: Numbers

    @classmethod
    def at(cls, found: Numbers, rows: int, columns: int) -> Cells:
        """Return ascending places (n,), n > 0."""
        row = found // columns
        column = found - row * columns
        return cls(row, column, np.bincount(row, minlength=rows), np.bincount(column, minlength=columns))


def is_uneven(cells: Cells) -> bool:
    """Whether places are spread over a matrix so unevenly that it may pay to tell them by row and column."""
    spread = _beyond_chance(cells.of_rows), _beyond_chance(cells.of_columns)
    return cells.row.size * sum(log2(1 + each) for each in spread) > _ROW_BITS * cells.of_rows.size


def write_crossing(writer: RiceWriter, cells: Cells) -> Numbers:
    """Write places; return in which order they are told (n,)."""
    classes, caution = _class_of(cells.of_rows), _caution(cells.of_columns)
    writer.listed(classes)
    writer.number(caution)
    groups, columns = Groups.of(classes), cells.of_columns.size
    taken = cells.of_rows[groups.order]
    taken_by_group = np.add.reduceat(taken, groups.first)
    # Places as their rows are taken, so that what goes by row or group is just repeated.
    shifts = np.cumsum(cells.of_rows)[groups.order] - np.cumsum(taken)
    which = np.repeat(shifts, taken) + np.arange(cells.row.size)
    at = np.repeat(groups.batch * columns, taken_by_group) + cells.column[which]
    # All batches at once: here it is known what each has learned.
    counts = np.bincount(at, minlength=groups.batches * columns).reshape(-1, columns)
    sorting = Sorting.after(np.cumsum(counts, axis=0) - counts, caution)
    segments = Segments.of(groups, sorting.sizes[groups.batch], sorting.low, np.zeros(LABELS, np.int64))
    segment = np.repeat(np.arange(groups.size.size) * segments.begin.shape[1], taken_by_group)
    segment += sorting.column_class.reshape(-1)[at]
    row = np.arange(groups.order.size) - np.repeat(groups.first, groups.size)
    line = np.repeat(row, taken) * sorting.widths().reshape(-1)[at]
    line += sorting.ranks().reshape(-1)[at]
    line += segments.begin.reshape(-1)[segment]
    # In the line of a label they are in order already; bytes are sorted in one pass.
    label = segments.label.astype(np.uint8).reshape(-1)[segment]
    told = np.argsort(label, kind="stable")
    _write_lines(writer, np.bincount(label), line[told])
    order: Numbers = which[told]
    return order


def read_crossing(reader: RiceReader, rows: int, columns: int, most: int) -> Numbers:
    """Return the places (n,) of a matrix, at most so many and all different, in the order in which they are told.

    Raises:
        CodecError: If they are not as the format says.
    """
    classes = reader.listed(rows, columns.bit_length() + 2)
    caution = reader.number()
    if caution > _MOST_CAUTION:
        raise CodecError(f"chunk has a caution of {caution}, at most {_MOST_CAUTION} is allowed")
    keys = _read_lines(reader, rows * columns, most)
    groups, found, left = Groups.of(classes), np.empty_like(keys), keys.size
    counts, reached = np.zeros(columns, np.int64), np.zeros(LABELS, np.int64)
    for batch in range(groups.batches):
        some, sorting = groups.of_batch(batch), Sorting.after(counts[None], caution)
        segments = Segments.of(some, sorting.sizes, sorting.low, reached)
        reached = segments.reached
        which, row, column = _cells(keys, some, sorting, segments)
        found[which] = groups.order[row] * columns + column
        counts += np.bincount(column, minlength=columns)
        left -= which.size
    if left:
        raise CodecError(f"chunk has {keys.size} places, {keys.size - left} of them in its rows")
    return found


def _cells(keys: Numbers, groups: Groups, sorting: Sorting, segments: Segments) -> tuple[Numbers, Numbers, Numbers]:
    """Return which of the sorted keys (n,) are of one batch, in the order of rows that of their row, and the column."""
    begins = ((segments.label << _LABEL_BITS) + segments.begin).reshape(-1)
    first, last = np.searchsorted(keys, (begins, begins + segments.cells.reshape(-1)))
    live = np.flatnonzero(last > first)
    group, column_class = np.divmod(live, segments.begin.shape[1])
    count = (last - first)[live]
    which = np.repeat(first[live] - np.cumsum(count) + count, count) + np.arange(int(count.sum()))
    # Division takes half as long of 32 bits, in which a place in a line fits.
    rest = (keys[which] - np.repeat(begins[live], count)).astype(np.uint32)
    width = np.repeat(sorting.sizes[0, column_class].astype(np.uint32), count)
    row = rest // width
    rank = np.repeat(sorting.first[0, column_class], count) + (rest - row * width)
    return which, np.repeat(groups.first[group], count) + row, sorting.by_class[0, rank]


def _class_of(counts: Numbers) -> Numbers:
    return np.where(counts > 0, 1 + np.frexp(np.maximum(counts - 1, 0))[1], 0)


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


def _write_lines(writer: RiceWriter, counts: Numbers, line: Numbers) -> None:
    """Write the places in all lines (n,), one line after another, so many a label."""
    used = np.flatnonzero(counts)
    low, sizes = int(used[0]), counts[used]
    starts = np.cumsum(sizes) - sizes
    left_out = gaps(line)
    left_out[starts] = line[starts]
    parameters = best_parameters(left_out, starts)
    steps = np.diff(parameters, prepend=0)
    writer.number(low)
    writer.number(counts.size - 1 - low)
    writer.listed(counts[low:])
    writer.listed((steps << 1) ^ (steps >> 63))
    writer.coded(left_out, np.repeat(parameters, sizes))


def _read_lines(reader: RiceReader, cells: int, most: int) -> Numbers:
    """Return the sorted keys of all places: a label and a place in its line, as one number."""
    low = reader.number()
    count = reader.number() + 1
    if low + count > LABELS:
        raise CodecError(f"chunk has labels up to {low + count - 1}, expected less than {LABELS}")
    counts = reader.listed(count, cells + 1)
    if not 0 < int(counts.sum()) <= most:
        raise CodecError(f"chunk has {counts.sum()} places, expected 1 to {most}")
    used = np.flatnonzero(counts)
    sizes = counts[used]
    coded = reader.listed(used.size, 2 * MOST_PARAMETER + 1)
    parameters = np.cumsum((coded >> 1) ^ -(coded & 1))
    left_out = bounded(reader.coded(np.repeat(parameters, sizes)), cells)
    ends = np.cumsum(left_out + 1)
    starts = np.cumsum(sizes) - sizes
    line = bounded(ends - np.repeat(ends[starts] - left_out[starts], sizes), cells)
    return np.repeat((used + low) << _LABEL_BITS, sizes) + line
