"""How the few elements of a chunk that moved are coded: where they are, which way they moved, and how far.

A chunk is a matrix of whole rows (the last may be short), or one row. As numbers (`rice`), in order:

- the places: ascending, as a subset of all of them (`plain`), or by row and column (`crossing`); all else comes in the
  order in which they are told;
- signs: `number` 0 and a bit an element, 1 for down. Or `number` 1, the sign that prevails in each row that has
  places (a bit, rows ascending), and the subset of the elements that go against it: inputs of one sign, as behind a
  ReLU, make the changes of a row agree;
- magnitudes: `number` 0 and a list of magnitude - 1. Or `number` 1, the subset of those above 1 and a list of
  magnitude - 2 of these.

Of each the shorter is taken. A chunk that did not move at all has an empty body, one of which more than `MOST_SHARE` (a
quarter) moved is not coded so: it would be longer, and the reader bounds its memory by that.
"""

from __future__ import annotations

import numpy as np

from flserve_app.codec.crossing import Cells, is_uneven, read_crossing, write_crossing
from flserve_app.codec.fields import Flags
from flserve_app.codec.floats import Steps
from flserve_app.codec.rice import Numbers, RiceReader, RiceWriter, cheapest, gaps
from flserve_app.codec.step import MOST_STEPS

MOST_SHARE = 0.25
_SPARE_NUMBERS = 1 << 10


def pack_sparse(
    places: Numbers, steps: Steps, rows: int, columns: int, *, crossed: bool | None = None
) -> tuple[bytes, bool]:
    """Return the body of steps at places, and whether it has the places by row and column.

    Args:
        places: Ascending (n,), n > 0; at most `MOST_SHARE` of the matrix.
        steps: Steps (n,), none of them 0.
        rows: Of the matrix.
        columns: Likewise.
        crossed: Whether to tell the places by row and column; None to do what is shorter.
    """
    written, cells = RiceWriter(), Cells.at(places, rows, columns)
    told = cells.row
    if not crossed:
        written.subset(places, rows * columns)
    if crossed or (crossed is None and rows > 1 and is_uneven(cells)):
        by_row = RiceWriter()
        order = write_crossing(by_row, cells)
        crossed = bool(crossed) or by_row.size() < written.size()
        if crossed:
            written, told, steps = by_row, cells.row[order], steps[order]
    _write_signs(written, steps < 0, told)
    _write_magnitudes(written, np.abs(steps))
    return written.body(), bool(crossed)


def unpack_sparse(body: memoryview, rows: int, columns: int, *, crossed: bool) -> tuple[Numbers, Steps]:
    """Return places (n,), all different and less than rows * columns, ascending if not crossed, and steps (n,).

    Raises:
        CodecError: If the body is not as the format says.
    """
    cells = rows * columns
    most = int(MOST_SHARE * cells)
    # A number a row, and at most four an element.
    reader = RiceReader(body, rows + 4 * most + _SPARE_NUMBERS)
    places = read_crossing(reader, rows, columns, most) if crossed else reader.subset(cells, most)
    down = _read_signs(reader, places // columns)
    steps = _read_magnitudes(reader, places.size)
    reader.end()
    steps *= 1 - 2 * down
    return places, steps


def _write_signs(writer: RiceWriter, down: Flags, rows: Numbers) -> None:
    """Write the signs of elements (n,) of these rows (n,)."""
    ups, downs = np.bincount(2 * rows + down, minlength=2 * int(rows.max()) + 2).reshape(-1, 2).T
    prevails = downs > ups
    against = np.flatnonzero(down != prevails[rows])
    told = prevails[ups + downs > 0]
    by_row = cheapest(gaps(against))[1] + told.size < down.size
    writer.number(int(by_row))
    writer.flags(told if by_row else down)
    if by_row:
        writer.subset(against, down.size)


def _read_signs(reader: RiceReader, rows: Numbers) -> Flags:
    if not reader.flag():
        return reader.flags(rows.size)
    live = np.bincount(rows) > 0
    prevails = np.zeros(live.size, np.bool_)
    prevails[live] = reader.flags(int(np.count_nonzero(live)))
    down: Flags = prevails[rows]
    against = reader.subset(rows.size)
    down[against] = ~down[against]
    return down


def _write_magnitudes(writer: RiceWriter, magnitudes: Numbers) -> None:
    above = np.flatnonzero(magnitudes > 1)
    left_out, rest, whole = gaps(above), magnitudes[above] - 2, magnitudes - 1
    costs = cheapest(left_out), cheapest(rest), cheapest(whole)
    apart = costs[0][1] + costs[1][1] < costs[2][1]
    writer.number(int(apart))
    if apart:
        writer.number(above.size)
        writer.listed(left_out, costs[0][0])
        writer.listed(rest, costs[1][0])
    else:
        writer.listed(whole, costs[2][0])


def _read_magnitudes(reader: RiceReader, count: int) -> Numbers:
    if not reader.flag():
        return reader.listed(count, MOST_STEPS - 1) + 1
    magnitudes = np.ones(count, np.int64)
    above = reader.subset(count)
    magnitudes[above] = reader.listed(above.size, MOST_STEPS - 2) + 2
    return magnitudes
