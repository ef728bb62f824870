"""How the few elements of a chunk that moved are coded: where they are, which way they moved, and how far.

A chunk is a matrix of whole rows (the last may be short), or one row. As numbers (`rice`), in order:

- the places, ascending: as a subset of all of them (`plain`), or by row and column (`crossing`);
- signs: `number` 0 and a bit an element, 1 for down. Or `number` 1, the sign that prevails in each row that has
  places (a bit), and the subset of the elements that go against it: inputs of one sign, as behind a ReLU,
  make the changes of a row agree;
- magnitudes: `number` 0 and a list of magnitude - 1. Or `number` 1, the subset of those above 1 and a list of
  magnitude - 2 of these.

What is shorter is taken. A chunk that did not move at all has an empty body.
"""

from __future__ import annotations

import numpy as np

from flserve_app.codec.crossing import is_uneven, read_crossing, write_crossing
from flserve_app.codec.floats import Steps
from flserve_app.codec.rice import Numbers, RiceReader, RiceWriter, gaps, listed_bits
from flserve_app.codec.step import MOST_STEPS

_SPARE_NUMBERS = 1 << 10


def pack_sparse(
    places: Numbers, steps: Steps, rows: int, columns: int, *, crossed: bool | None = None
) -> tuple[bytes, bool]:
    """Return the body of steps at places, and whether it has the places by row and column.

    Args:
        places: Ascending (n,), n > 0.
        steps: Steps (n,), none of them 0.
        rows: Of the matrix.
        columns: Likewise.
        crossed: Whether to tell the places by row and column; None to do what is shorter.
    """
    written = RiceWriter()
    if not crossed:
        written.subset(places, rows * columns)
    if crossed or (crossed is None and rows > 1 and is_uneven(places, rows, columns)):
        by_row = RiceWriter()
        write_crossing(by_row, places, rows, columns)
        crossed = bool(crossed) or by_row.size() < written.size()
        written = by_row if crossed else written
    _write_signs(written, steps < 0, places // columns)
    _write_magnitudes(written, np.abs(steps))
    return written.body(), bool(crossed)


def unpack_sparse(body: memoryview, rows: int, columns: int, *, crossed: bool) -> tuple[Numbers, Steps]:
    """Return ascending places (n,), all less than rows * columns, and steps (n,).

    Raises:
        CodecError: If the body is not as the format says.
    """
    cells = rows * columns
    reader = RiceReader(body, 5 * cells + _SPARE_NUMBERS)
    places = read_crossing(reader, rows, columns) if crossed else reader.subset(cells)
    down = _read_signs(reader, places // columns)
    steps = _read_magnitudes(reader, places.size)
    reader.end()
    np.negative(steps, out=steps, where=down)
    return places, steps


def _write_signs(writer: RiceWriter, down: np.ndarray, rows: Numbers) -> None:
    """Write the signs of elements (n,) of these rows (n,)."""
    live = _live(rows)
    ups = np.bincount(live, weights=~down)
    prevails = 2 * ups < np.bincount(live)
    against = np.flatnonzero(down != prevails[live])
    by_row = listed_bits(gaps(against)) + prevails.size < down.size
    writer.number(int(by_row))
    writer.fixed(prevails if by_row else down, 1)
    if by_row:
        writer.subset(against, down.size)


def _read_signs(reader: RiceReader, rows: Numbers) -> np.ndarray:
    if not reader.flag():
        return reader.fixed(rows.size, 1).astype(bool)
    live = _live(rows)
    down: np.ndarray = reader.fixed(int(live[-1]) + 1 if live.size else 0, 1).astype(bool)[live]
    against = reader.subset(rows.size)
    down[against] = ~down[against]
    return down


def _live(rows: Numbers) -> Numbers:
    """Return ascending rows (n,) numbered anew, without those that are missing."""
    fresh = np.diff(rows, prepend=rows[:1]) != 0
    return np.cumsum(fresh)


def _write_magnitudes(writer: RiceWriter, magnitudes: Numbers) -> None:
    above = np.flatnonzero(magnitudes > 1)
    apart = listed_bits(gaps(above)) + listed_bits(magnitudes[above] - 2) < listed_bits(magnitudes - 1)
    writer.number(int(apart))
    if not apart:
        writer.listed(magnitudes - 1)
        return
    writer.subset(above, magnitudes.size)
    writer.listed(magnitudes[above] - 2)


def _read_magnitudes(reader: RiceReader, count: int) -> Numbers:
    if not reader.flag():
        return reader.listed(count, MOST_STEPS - 1) + 1
    magnitudes = np.ones(count, np.int64)
    above = reader.subset(count)
    magnitudes[above] = reader.listed(above.size, MOST_STEPS - 2) + 2
    return magnitudes
