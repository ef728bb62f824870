"""How the cells of a matrix are lined up, label by label: see `crossing`, which codes the places among them.

Rows are taken in groups, each of the rows of one class in one batch. Columns are sorted by class once a batch. So the
cells of one label in one group are as many for each of its rows, and where a cell stands in the line of its label is

    where the group begins in the line + row in the group * columns of the class + column among those of the class

Arrays have an entry a row, a column or a group; nothing here is as large as the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flserve_app.codec.rice import Numbers

BIAS = 64  # of a label
LABELS = 2 * BIAS
_SLOW = 32  # rows from which on a batch doubles what was taken
_FIRST = 128  # of all rows, one in so many makes the first batch


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Rows with places by falling class, and the groups they fall into.

    Attributes:
        order: Rows as they are taken (R,).
        first: Where each group begins among them (G,).
        size: How many rows it has (G,).
        row_class: Their class (G,).
        batch: The group's batch (G,), ascending.
    """

    order: Numbers
    first: Numbers
    size: Numbers
    row_class: Numbers
    batch: Numbers

    @classmethod
    def of(cls, classes: Numbers) -> Groups:
        """Return the groups of rows with these classes (rows,), those of class 0 left out."""
        live = np.flatnonzero(classes)
        # As bytes they are sorted in one pass.
        order = live[np.argsort((-classes[live]).astype(np.int8), kind="stable")]
        row_class = classes[order]
        begins = _ladder(order.size)
        fresh = np.ones(order.size, np.bool_)
        fresh[1:] = row_class[1:] != row_class[:-1]
        fresh[begins] = True
        first = np.flatnonzero(fresh)
        size = np.diff(first, append=order.size)
        batch = np.searchsorted(begins, first, side="right") - 1
        return cls(order, first, size, row_class[first], batch)

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return int(self.batch[-1]) + 1 if self.batch.size else 0

    def of_batch(self, batch: int) -> Groups:
        """Return the groups of one batch; the order is that of all."""
        some = slice(*np.searchsorted(self.batch, (batch, batch + 1)))
        return Groups(self.order, self.first[some], self.size[some], self.row_class[some], self.batch[some])


@dataclass(frozen=True, slots=True, eq=False)
class Sorting:
    """Columns sorted by class, for each of B batches.

    Attributes:
        low: Lowest class of all.
        column_class: Class of each column, less the lowest (B, C).
        by_class: Columns by class, then by number (B, C).
        sizes: Columns of each of K classes (B, K).
        first: Where those of a class begin in `by_class` (B, K).
    """

    low: int
    column_class: Numbers
    by_class: Numbers
    sizes: Numbers
    first: Numbers

    @classmethod
    def after(cls, counts: Numbers, caution: int) -> Sorting:
        """Return the columns as sorted after so many places in each of them, (B, C).

        Args:
            counts: Places of the columns in the batches before each.
            caution: How little is to be made of few counts, as s in `crossing`.
        """
        batches, columns = counts.shape
        prior = 1 << caution
        ratio = (8 * counts + prior) * columns / (8 * counts.sum(axis=1, keepdims=True) + prior * columns)
        classes = np.frexp(ratio)[1].astype(np.int64)
        low = int(classes.min())
        classes -= low
        count = int(classes.max()) + 1
        flat = (classes + count * np.arange(batches)[:, None]).reshape(-1)
        sizes = np.bincount(flat, minlength=batches * count).reshape(batches, count)
        by_class = np.argsort(classes.astype(np.uint8), axis=1, kind="stable")
        return cls(low, classes, by_class, sizes, np.cumsum(sizes, axis=1) - sizes)

    def widths(self) -> Numbers:
        """Return how many columns have the class of each (B, C)."""
        widths: Numbers = np.take_along_axis(self.sizes, self.column_class, axis=1)
        return widths

    def ranks(self) -> Numbers:
        """Return where each column stands among those of its class (B, C)."""
        places = np.empty_like(self.by_class)
        np.put_along_axis(places, self.by_class, np.arange(places.shape[1])[None], axis=1)
        ranks: Numbers = places - np.take_along_axis(self.first, self.column_class, axis=1)
        return ranks


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """The parts of lines that groups make up: one a group and column class.

    Attributes:
        label: Label + `BIAS` of each (G, K).
        cells: How many cells it has (G, K).
        begin: Cells before it in the line of its label (G, K).
        reached: Cells of each label's line up to here (LABELS,).
    """

    label: Numbers
    cells: Numbers
    begin: Numbers
    reached: Numbers

    @classmethod
    def of(cls, groups: Groups, sizes: Numbers, low: int, reached: Numbers) -> Segments:
        """Return the segments of groups that are taken one after another.

        Args:
            groups: The groups.
            sizes: Columns of each class in the batch of each group (G, K).
            low: The first of these classes.
            reached: Cells of each label's line before them (LABELS,).
        """
        label = groups.row_class[:, None] + np.arange(low + BIAS, low + BIAS + sizes.shape[1])
        at = label + LABELS * np.arange(label.shape[0])[:, None]
        cells = groups.size[:, None] * sizes
        filled = np.zeros((label.shape[0], LABELS), np.int64)
        filled.reshape(-1)[at] = cells
        ends = np.cumsum(filled, axis=0) + reached
        return cls(label, cells, ends.reshape(-1)[at] - cells, ends[-1])


def _ladder(rows: int) -> list[int]:
    """Return where the batches begin: small at first, when every row teaches much."""
    begins, least, last = [], max(1, rows // _FIRST), 0
    while last < rows:
        begins.append(last)
        last += max(least, last // 2 if last < _SLOW else last)
    return begins
