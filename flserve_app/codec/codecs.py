"""The codecs: policies that say in which layouts a tensor may travel.

A codec offers layouts and the encoder takes the one that gives the fewest bytes, or `same` or `raw`. For all but
small tensors the codecs here offer one, which they choose on a sample. A codec says nothing about how a payload is
read: any release that knows the ops can read it. `full` offers nothing and is what plain Flower sends. `lossless`
is fast: nothing is sorted. `lossless-small` spends time on size. Both give back every bit. `grid` and `topk` round
first (`rounding`): what they lead to is the rounded artifact; without a base they are `lossless-small`. A new codec
is one more entry in `CODECS`, with a number of its own for the payload's header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from flserve_app.artifact import DType
from flserve_app.codec.grid import GRID_DELTA
from flserve_app.codec.grouping import Grouping
from flserve_app.codec.ops import (
    BINS,
    BINS_DELTA,
    PLANES,
    PLANES_DELTA,
    Layout,
    ResidualOp,
)
from flserve_app.codec.rounding import Rounding
from flserve_app.codec.scales import scaled_grouping
from flserve_app.codec.words import Words
from flserve_app.errors import CodecError

_TINY_WORDS = 1 << 13  # a tensor so small that nobody waits for it
_SMALL_WORDS = 1 << 16
_SAMPLES = 4
_SCALE_SAMPLES = 128
_STEP_SAMPLES = 64
_LEAST_SPREAD = 0.2  # octaves
_HALF = 2  # bytes
_PLAIN_BELOW = 0.27  # of the words that move: more than may be told one by one, and what a sample may be off by
_SORTED_ABOVE = 0.12  # share of the words that move: below it, places by row and column say the same in less
_CLEAR = 0.7
_SAMPLE_WORDS = 1 << 11


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """One tensor to be encoded.

    Attributes:
        name: Its name.
        dtype: What its words are.
        row: Words along all dimensions but the first.
        target: Words (n,), n > 0.
        base: Words (n,) of the base's tensor of the same name and dtype, or None.
    """

    name: str
    dtype: DType
    row: int
    target: Words
    base: Words | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """One way to make payloads.

    Attributes:
        name: What users call it.
        number: Stands for it in a payload's header.
        offers: Layouts of one tensor, the most promising first.
        uses_base: Whether it makes use of a base at all.
        rounding: How it rounds a target to be delivered as a delta, by default; None if it is exact.
    """

    name: str
    number: int
    offers: Callable[[Pair], Sequence[Layout]]
    uses_base: bool = True
    rounding: Rounding | None = None

    @property
    def exact(self) -> bool:
        """Whether what its payloads lead to is the target, always."""
        return self.rounding is None


def codec_named(name: str) -> Codec:
    """Return the codec with a name.

    Raises:
        CodecError: If there is none.
    """
    if name not in CODECS:
        raise CodecError(f"unknown codec {name!r}; known: {', '.join(CODECS)}")
    return CODECS[name]


def on_grids(codec: Codec, steps: Mapping[str, float]) -> Codec:
    """Return a codec that offers some tensors, those whose change lies on a grid, to travel by steps.

    Args:
        codec: Offers what it has to all others, and to half floats.
        steps: The step of each of these tensors, by name.
    """

    def offers(pair: Pair) -> Sequence[Layout]:
        if pair.base is None or pair.name not in steps:
            return codec.offers(pair)
        return _stepped(pair, steps[pair.name], codec.offers)

    return replace(codec, offers=offers)


def _stepped(pair: Pair, step: float, others: Callable[[Pair], Sequence[Layout]]) -> Sequence[Layout]:
    """Return layouts on a grid; with scales where much moves, and both ways for a small tensor.

    Of two bytes a word a step is often no more than the last bit: what the codec offers may be less, and stands beside.
    """
    offers = _on_grid(pair, step)
    return offers if pair.dtype.word.itemsize > _HALF else [*offers, *others(pair)]


def _on_grid(pair: Pair, step: float) -> list[Layout]:
    plain, moving = GRID_DELTA.layout(pair.dtype, step, row=pair.row, words=pair.target.size), _moving(pair)
    if moving < _SORTED_ABOVE:
        return [plain]
    scales = scaled_grouping(pair.target, pair.base, pair.dtype, pair.row, _STEP_SAMPLES, least_spread=_LEAST_SPREAD)
    words = pair.target.size
    if scales is None:
        # Of rows that are alike nothing need be told, unless few move: where these are, and which way a row goes.
        return [plain if moving < _PLAIN_BELOW else GRID_DELTA.layout(pair.dtype, step, row=0, words=words)]
    scaled = GRID_DELTA.layout(pair.dtype, step, row=pair.row, words=words, grouping=scales)
    return [scaled] if words > _SMALL_WORDS else [scaled, plain]


def _moving(pair: Pair) -> float:
    """Return the share of the words of a sample that are not the base's."""
    sample = _sample(pair)
    return float(np.mean(sample.target != sample.base))


def _nothing(pair: Pair) -> Sequence[Layout]:
    return ()


def _fast(pair: Pair) -> Sequence[Layout]:
    if pair.target.size > _SAMPLE_WORDS:
        return _best(pair, PLANES_DELTA, PLANES)
    sides = [*_sides(pair, BINS_DELTA, BINS), *_sides(pair, PLANES_DELTA, PLANES)]
    return [op.layout(pair.dtype, next(_groupings(pair, op, base))) for op, base in sides]


def _small(pair: Pair) -> Sequence[Layout]:
    if pair.target.size >= _TINY_WORDS:
        return _best(pair, BINS_DELTA, BINS)
    sides = [*_sides(pair, BINS_DELTA, BINS), *_sides(pair, PLANES_DELTA, PLANES)]
    return [op.layout(pair.dtype, grouping) for op, base in sides for grouping in _groupings(pair, op, base)]


def _best(pair: Pair, delta: ResidualOp, full: ResidualOp) -> list[Layout]:
    """Return the layout with a base or the one without, or both for a small tensor; see `_better`."""
    return [op.layout(pair.dtype, next(_groupings(pair, op, base))) for op, base in _better(pair, delta, full)]


def _better(pair: Pair, delta: ResidualOp, full: ResidualOp) -> list[tuple[ResidualOp, Words | None]]:
    """Return the op, with a base or without, that makes less of a sample, whose words stay unsorted.

    Where it is not clear, a small tensor gets both.
    """
    sides = list(_sides(pair, delta, full))
    sample = _sample(pair)
    span = slice(0, sample.target.size)

    def size(side: tuple[ResidualOp, Words | None]) -> int:
        return len(side[0].layout(pair.dtype, Grouping()).pack(sample.target, sample.base, span))

    # Trained floats never get so small without a base: there is nothing to compare.
    if len(sides) == 1 or size(sides[0]) < _CLEAR * sample.target.nbytes:
        return sides[:1]
    return [min(sides, key=size)] if pair.target.size > _SMALL_WORDS else sides


def _sample(pair: Pair) -> Pair:
    if pair.target.size <= _SAMPLES * _SAMPLE_WORDS:
        return pair
    last = pair.target.size - _SAMPLE_WORDS
    starts = [last * part // (_SAMPLES - 1) for part in range(_SAMPLES)]

    def some(words: Words) -> Words:
        return np.concatenate([words[start : start + _SAMPLE_WORDS] for start in starts])

    return replace(pair, target=some(pair.target), base=None if pair.base is None else some(pair.base))


def _sides(pair: Pair, delta: ResidualOp, full: ResidualOp) -> Iterator[tuple[ResidualOp, Words | None]]:
    if pair.base is not None:
        yield delta, pair.base
    yield full, None


def _groupings(pair: Pair, op: ResidualOp, base: Words | None) -> Iterator[Grouping]:
    """Yield groupings from the most to the least elaborate."""
    if op.sorts:
        scaled = scaled_grouping(pair.target, base, pair.dtype, pair.row, _SCALE_SAMPLES)
        if scaled is not None:
            yield scaled
        # Without scales words are sorted by the base's exponents alone.
        if base is not None and pair.dtype.kind == "float":
            yield Grouping(row=1)
    yield Grouping()


FULL = Codec(name="full", number=1, offers=_nothing, uses_base=False)
LOSSLESS = Codec(name="lossless", number=2, offers=_fast)
LOSSLESS_SMALL = Codec(name="lossless-small", number=3, offers=_small)

GRID = Codec(name="grid", number=4, offers=_small, rounding=Rounding(kind="grid"))
TOPK = Codec(name="topk", number=5, offers=_small, rounding=Rounding(kind="topk"))

_ALL = (FULL, LOSSLESS, LOSSLESS_SMALL, GRID, TOPK)
CODECS: Mapping[str, Codec] = MappingProxyType({codec.name: codec for codec in _ALL})
