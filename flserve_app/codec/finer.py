"""Finer steps where those asked for would lose a change: so that no model stands still unnoticed.

A step is chosen by how far values move in the mean, and changes below half of it are rounded to nothing. That serves
where a few move far. Where all move alike, as under Adam with few local steps, no change is as large as half a step:
all are rounded to nothing, round after round, and what is carried on to the next one makes its step larger in the same
measure. Sparse updates fall behind likewise where changes are spread over many values. Rules:

- A model of at most `FEW_BYTES` of weights is not rounded: its messages take more than itself.
- Of a change (that of a tensor where each has steps of its own, else the model's) at least the share `least` is kept,
  in squares; else its steps are halved (`topk`: twice as many values move), as often as it takes.
- Steps so made round to nothing what is below `_ZONE` of one. To the nearest, changes that are all about half a step
  would be sent as a whole one, which the next round takes back: the model swings, for more bytes.
- What is left out and carried on is at most `MOST_BEHIND` times the norm of the change of this round alone; else the
  same is done, at most `MOST_CATCHING_UP` times: late rounds move little, and have not to pay at once for early ones.
- Dithered updates are taken as they are: their mean is right.

All that is a function of the arrays, so that a run that is resumed does the same; nobody who decodes need know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from flserve_app.artifact import Artifact
from flserve_app.codec.filling import Filling
from flserve_app.codec.moves import Extent, Moves
from flserve_app.codec.rounding import Rounded, Rounding, candidates, fill

FEW_BYTES = 4096
MOST_BEHIND = 1.0
MOST_CATCHING_UP = 6
MOST_HALVINGS = 16
_ZONE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What rounding did to a change.

    Attributes:
        lost: Share of the change that was left out, in squares, 0 to 1: what is carried on of it is not lost for good.
        tensors: How many tensors were to be rounded.
        coarse: How many of them the steps asked for were too coarse for.
        halvings: How often the steps were halved (`topk`: the values that move doubled), at most.
    """

    lost: float = 0.0
    tensors: int = 0
    coarse: int = 0
    halvings: int = 0


def round_within(
    wanted: Artifact, base: Artifact, rounding: Rounding, *, exact: Collection[str] = (), target: Artifact
) -> tuple[Rounded, Loss]:
    """Return what is published in place of an artifact, by steps that are fine enough, and what is lost.

    Args:
        wanted: What would be published if nothing were lost.
        base: What the change is taken from.
        rounding: How to round.
        exact: Names of tensors to be taken exactly.
        target: `wanted` without what earlier rounds left out.
    """
    names = candidates(wanted, base, exact, rounding.exact_bytes)
    guarded = rounding.least > 0 and rounding.dither is None
    if guarded and sum(wanted.specs[name].nbytes for name in names) <= FEW_BYTES:
        names = []
    moves = Moves.between(wanted, base, names)
    carried = guarded and target is not wanted
    fresh = Moves.between(target, base, names).extents if carried else {}
    filling, steps, asked = Filling(moves), dict[str, float](), rounding
    pending, coarse, halvings = moves, 0, 0
    while True:
        steps = {name: step for name, step in steps.items() if name not in pending.extents}
        steps |= fill(filling, pending, asked)
        if not guarded or halvings == MOST_HALVINGS:
            break
        failing = set(_too_coarse(pending, filling, fresh, rounding, catching_up=halvings < MOST_CATCHING_UP))
        finer = _finer(asked)
        if not failing or finer is None:
            break
        coarse = coarse or len(failing)
        pending, asked, halvings = pending.of(failing), finer, halvings + 1
    rounded = Rounded(
        artifact=filling.artifact(), steps=MappingProxyType({n: steps[n] for n in moves.extents if n in steps})
    )
    return rounded, Loss(lost=_lost(moves, filling), tensors=len(names), coarse=coarse, halvings=halvings)


def _too_coarse(
    moves: Moves, filling: Filling, fresh: Mapping[str, Extent], rounding: Rounding, *, catching_up: bool
) -> Iterator[str]:
    """Yield the tensors of which too little is kept, or too much is left for later."""
    for names in _judged(moves, rounding):
        squares = sum(moves.extents[name].squares for name in names)
        kept = sum(filling.kept.get(name, moves.extents[name].squares) for name in names)
        now = sum(fresh[name].squares for name in names) if all(name in fresh for name in names) else 0.0
        behind = catching_up and now > 0 and squares - kept > MOST_BEHIND**2 * now
        if squares > 0 and (kept < rounding.least * squares or behind):
            yield from names


def _judged(moves: Moves, rounding: Rounding) -> list[list[str]]:
    """Return which tensors are judged together: those that share their steps."""
    names = list(moves.extents)
    return [[name] for name in names] if rounding.kind == "grid" and rounding.scope == "tensor" else [names]


def _finer(rounding: Rounding) -> Rounding | None:
    """Return the same in finer steps; None if there are none."""
    if rounding.kind == "grid":
        return replace(rounding, multiple=rounding.multiple / 2, zone=max(rounding.zone, _ZONE))
    return None if rounding.share == 1 else replace(rounding, share=min(1.0, 2 * rounding.share))


def _lost(moves: Moves, filling: Filling) -> float:
    squares = sum(extent.squares for extent in moves.extents.values())
    kept = sum(filling.kept.get(name, extent.squares) for name, extent in moves.extents.items())
    return max(0.0, min(1.0, 1 - kept / squares)) if squares > 0 else 0.0
