"""The fewest bytes that our rounding codecs take at an error of at most so much.

The error is NMSE: the squared error of a change over the sum of its squares, of all tensors together. The settings form
families, in each of which one parameter makes it larger: the multiple of `grid`, for some dead zones, with a step for
each tensor or one for all; the share of `topk`. Each is there with powers of two alone and with fine steps. In each
family the coarsest setting within the error is found by bisection (as there are only so many steps, the error jumps,
and now and then falls: what is found is within it all the same). The smallest payload of all families is returned, as
it was encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import sqrt
from typing import final

import numpy as np

from flserve_app.codec import Rounded, Rounding, encode_rounded, round_to
from flserve_app.codec.rounding import Scope
from flserve_app.errors import CodecError
from flserve_app.experiments.checkpoints import Checkpoints
from flserve_app.experiments.lossy_peer import Change

_ZONES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)
_MULTIPLES = 2.0**-12, 2.0**6  # from next to nothing lost to next to nothing left
_SHARES = 1.0, 2.0**-16
_TURNS = 16

Family = Callable[[float], Rounding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One of our settings at an update.

    Attributes:
        rounding: The setting.
        nmse: Its error.
        nbytes: Bytes of the payload.
    """

    rounding: Rounding
    nmse: float
    nbytes: int

    @property
    def name(self) -> str:
        """What it is called in a table."""
        setting = self.rounding
        marks = (setting.scope == "model", "model"), (setting.fine, "fine")
        rest = "".join(f", {mark}" for holds, mark in marks if holds)
        if setting.kind == "topk":
            return f"topk {setting.share:.2%}{rest}"
        return f"grid {setting.multiple:.3f}, zone {setting.zone:g}{rest}"


@final
class Frontier:
    """Our settings on one update; what was found of a setting is kept."""

    def __init__(self, update: Checkpoints) -> None:
        self._update = update
        self._change = change_of(update)
        self._errors: dict[Rounding, float] = {}
        self._sizes: dict[Rounding, int] = {}

    def smallest(self, nmse: float) -> Point:
        """Return our smallest payload whose error is at most `nmse`.

        Raises:
            CodecError: If none of our settings is that exact.
        """
        found = (self._coarsest(family, fine, coarse, nmse) for family, fine, coarse in _families())
        points = [
            Point(rounding=each, nmse=self._error(each), nbytes=self._size(each)) for each in found if each is not None
        ]
        if not points:
            raise CodecError(f"no rounding has an NMSE of at most {nmse:g}")
        return min(points, key=lambda point: point.nbytes)

    def _coarsest(self, family: Family, fine: float, coarse: float, nmse: float) -> Rounding | None:
        """Return the coarsest setting with an error of at most `nmse`, as far as bisection finds it."""
        best = family(fine)
        if self._error(best) > nmse:
            return None
        for _ in range(_TURNS):
            middle = sqrt(fine * coarse)
            rounding = family(middle)
            if self._error(rounding) <= nmse:
                best, fine = rounding, middle
            else:
                coarse = middle
        return best

    def _error(self, rounding: Rounding) -> float:
        """Return the NMSE of what is published; the change is taken in float32, as peers get it."""
        if rounding not in self._errors:
            base, published = self._update.base, self._rounded(rounding).artifact
            moves = {name: published[name].astype(np.float64) - base[name] for name in published}
            self._errors[rounding] = nmse_of(moves, self._change)
        return self._errors[rounding]

    def _size(self, rounding: Rounding) -> int:
        if rounding not in self._sizes:
            payload = encode_rounded(self._rounded(rounding), self._update.base, rounding.kind)
            self._sizes[rounding] = len(payload)
        return self._sizes[rounding]

    def _rounded(self, rounding: Rounding) -> Rounded:
        return round_to(self._update.target, self._update.base, rounding)


def change_of(update: Checkpoints) -> dict[str, np.ndarray]:
    """Return the change, float32 tensors."""
    return {name: update.target[name] - update.base[name] for name in update.target}


def nmse_of(found: Mapping[str, np.ndarray], change: Change) -> float:
    """Return the squared error of what was found over the squares of the change."""
    squares = sum(float(np.sum(array.astype(np.float64) ** 2)) for array in change.values())
    lost = sum(float(np.sum((found[name].astype(np.float64) - change[name]) ** 2)) for name in change)
    return lost / squares if squares else 0.0


def _families() -> Iterator[tuple[Family, float, float]]:
    """Yield what makes a setting of a parameter, and the parameter's finest and coarsest value."""
    scopes: tuple[Scope, ...] = "tensor", "model"
    for fine, scope, zone in product((False, True), scopes, _ZONES):
        yield partial(_grid, fine, scope, zone), *_MULTIPLES
    for fine in (False, True):
        yield partial(_topk, fine), *_SHARES


def _grid(fine: bool, scope: Scope, zone: float, multiple: float) -> Rounding:
    return Rounding(kind="grid", multiple=multiple, scope=scope, zone=zone, fine=fine)


def _topk(fine: bool, share: float) -> Rounding:
    return Rounding(kind="topk", share=share, fine=fine)
