"""One payload over several versions: what a chain of steps on grids comes to, as steps on one grid.

Wherever versions were rounded, a value's change over several of them is a sum of whole steps, of different sizes
perhaps. On the grid of the smallest these are whole steps again, but for what rounding lost in between (`patches`).
The grid is found from the two artifacts alone, so that a payload can be made from any version to any other, with
no look at what led there. For each tensor, of the powers of two that are the lowest bit set in a change, and then of
3, 5 and 7 times that (fine steps, see `step`), the one is taken that has the least of

    sum over changes: 2 log2(1 + |q|), and where q steps do not give the target 8 + 2 log2(1 + rest / ulp)

over an even sample of the changes. A tensor for which it comes to more than `MOST_BITS` a change is not on any grid and
travels as the codec has it. All are functions of the arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

import numpy as np

from flserve_app.artifact import Artifact, dtype_named
from flserve_app.codec.codecs import Codec
from flserve_app.codec.encoder import encode_rounded
from flserve_app.codec.floats import Floats, floats_of
from flserve_app.codec.rice import Numbers
from flserve_app.codec.rounding import Rounded
from flserve_app.codec.step import MOST_EXPONENT, is_step, most_steps
from flserve_app.codec.words import Words, words_of

MOST_BITS = 16.0
_SAMPLE = 1 << 13
_MOST_GRIDS = 24
_FINE = (3, 5, 7)
_MANTISSA = {"float32": 24, "float64": 53, "float16": 11, "bfloat16": 8}


def encode_composed(target: Artifact, base: Artifact, codec: str | Codec = "grid", *, ties: bool = True) -> bytes:
    """Return a payload that takes a holder of `base` to exactly `target`, by steps on grids where these lead there.

    Args:
        target: What the receiver shall hold: a version that came from the base by rounded changes, or any other.
        base: What it holds.
        codec: Codec, or the name of one, that stands in the header; tensors on no grid travel as it offers.
        ties: As of `encode`.

    Raises:
        CodecError: If there is no codec of that name.
    """
    steps = dict(_steps(target, base))
    return encode_rounded(Rounded(artifact=target, steps=MappingProxyType(steps)), base, codec, ties=ties)


def _steps(target: Artifact, base: Artifact) -> Iterator[tuple[str, float]]:
    for name, spec in target.specs.items():
        if spec.dtype in _MANTISSA and base.specs.get(name) == spec:
            step = grid_between(target, base, name)
            if step is not None:
                yield name, step


def grid_between(target: Artifact, base: Artifact, name: str) -> float | None:
    """Return the step by which a tensor of floats moved; None if it did not move, or on no grid.

    Args:
        target: Where it moved to.
        base: Where from; it has the same dtype and shape there.
        name: The tensor.
    """
    dtype = dtype_named(target.specs[name].dtype)
    new, old = words_of(target[name], dtype), words_of(base[name], dtype)
    some = changed_places(new, old, most=_SAMPLE)
    with np.errstate(all="ignore"):
        values = floats_of(new[some], dtype).astype(np.float64)
        changes = values - floats_of(old[some], dtype)
        usable = np.isfinite(changes) & (changes != 0)
        values, changes = values[usable], np.abs(changes[usable])
        if not changes.size:
            return None
        ulps = np.ldexp(1.0, np.frexp(values)[1] - _MANTISSA[dtype.name])
        costs = {step: _cost(changes, ulps, step) for step in _candidates(changes)}
        least = min(costs, key=lambda step: (costs[step], step), default=None)
        if least is None:
            return None
        costs |= {m * least: _cost(changes, ulps, m * least) for m in _FINE if is_step(m * least)}
    found = min(costs, key=lambda step: (costs[step], step))
    return None if costs[found] > MOST_BITS else found


def changed_places(new: Words, old: Words, *, most: int, block: int = 1 << 18) -> Numbers:
    """Return the places at which words (n,) differ, or every so many-th of them, at most `most`.

    Args:
        new: Words (n,).
        old: Words (n,) of the same dtype.
        most: Places that are returned at most; above 0.
        block: Words that are looked at at once, which bounds the memory that it takes.
    """
    spans = [slice(start, start + block) for start in range(0, new.size, block)]
    counts = [int(np.count_nonzero(new[span] != old[span])) for span in spans]
    stride = max(1, -(-sum(counts) // most))
    found, before = [np.zeros(0, np.int64)], 0
    for span, count in zip(spans, counts, strict=True):
        if count:
            found.append(np.flatnonzero(new[span] != old[span])[-before % stride :: stride] + span.start)
        before += count
    return np.concatenate(found)


def _candidates(changes: Floats) -> list[float]:
    """Return the lowest bits of changes (n,), those that occur most."""
    mantissa, exponent = np.frexp(changes)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    lowest = exponent - 54 + np.frexp((whole & -whole).astype(np.float64))[1]
    found, counts = np.unique(lowest[np.abs(lowest) <= MOST_EXPONENT], return_counts=True)
    most = found[np.argsort(-counts, kind="stable")[:_MOST_GRIDS]]
    return [2.0 ** int(exponent) for exponent in most]


def _cost(changes: Floats, ulps: Floats, step: float) -> float:
    """Return about how many bits a change takes as steps, in the mean; inf if some are out of reach."""
    steps = np.rint(changes / step)
    if steps.max() >= most_steps(step):
        return float("inf")
    rest = np.abs(changes - steps * step)
    patches = np.where(rest > ulps / 2, 8 + 2 * np.log2(1 + rest / ulps), 0.0)
    return float(np.mean(2 * np.log2(1 + steps) + patches))
