"""How the steps of a chunk are coded that moved in many places: zigzag(q) of all its words, by pcodec.

    dense    as u16    a page for each `MOST_WORDS` (262,144) words    `coders`
    wide     as u32    likewise
    sorted   as u16    by label, a page a run of at least `RUN` (2,048) words   `sorting`

How often and how far a word moves depends on its row and column, whose scales stand in the tensor's side bytes: runs of
one label are alike. Sorting costs more time than all else here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flserve_app.codec.coders import MOST_WORDS, Bins
from flserve_app.codec.floats import Steps
from flserve_app.codec.rice import Numbers
from flserve_app.codec.sorting import LabelOrder
from flserve_app.codec.words import Words

RUN = 1 << 11


def pack_dense(places: Numbers, steps: Steps, words: int, order: LabelOrder | None) -> tuple[bytes, bool]:
    """Return the body of steps (n,), n > 0, at places of so many words, and whether it is wide.

    Args:
        places: Ascending (n,).
        steps: Steps (n,), none of them 0.
        words: Words of the chunk.
        order: In which they are coded if they are not wide; None for the order in which they stand.
    """
    zigzag = (steps << 1) ^ (steps >> 63)
    wide = int(zigzag.max()) >= 1 << 16
    filled = np.zeros(words, "<u4" if wide else "<u2")
    filled[places] = zigzag
    if order is None or wide:
        return Bins().pack(filled, _pages(words)), wide
    return Bins().pack(order.sort(filled), order.runs(RUN)), wide


def unpack_dense(
    body: memoryview, words: int, order: LabelOrder | None, *, wide: bool
) -> Iterator[tuple[Numbers, Steps]]:
    """Yield ascending places (n,) and steps (n,), none of them 0, of `MOST_WORDS` words at a time.

    Raises:
        CodecError: If the body does not hold just so many words.
    """
    filled: Words = np.empty(words, "<u4" if wide else "<u2")
    if order is None:
        Bins().unpack(body, [filled[page] for page in _pages(words)])
    else:
        Bins().unpack(body, [filled[run] for run in order.runs(RUN)])
        filled = order.unsort(filled)
    for page in _pages(words):
        places = np.flatnonzero(filled[page] != 0) + page.start
        zigzag = filled[places].astype(np.int64)
        yield places, (zigzag >> 1) ^ -(zigzag & 1)


def _pages(words: int) -> list[slice]:
    return [slice(start, min(start + MOST_WORDS, words)) for start in range(0, words, MOST_WORDS)]
