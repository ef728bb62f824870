"""Rounding: what a codec that loses something publishes in place of the target.

The change from base to target is rounded, tensor by tensor, to whole steps of a power of two; the result is an
artifact like any other, which everybody will hold to the last bit. Two ways to choose the steps:

- `grid`: the step is the power of two nearest to `multiple` * sigma, with sigma the root mean square of the
  tensor's change; changes are rounded to the nearest step, those below `zone` steps to nothing. With `dither`
  they are rounded up or down at random, so that the mean of what is published is the target (see `dither`).
- `topk`: the `share` of all elements that change most are kept, by one threshold t for all tensors. The step is the
  power of two nearest to 1.4 t (so that t is the edge of its dead zone), and what is kept moves by 1 to
  `levels` steps. With `levels` = 1 each tensor has a step of its own, nearest to the mean of what it keeps.

Taken exactly, that is, equal to the target's: tensors named by the caller, without a like in the base (same dtype and
shape), of other dtypes than real floats, of at most `exact_bytes`, with a value in either that is not finite, or
with values of 2**24 steps and more. A step is 2**-100 to 2**100.

Everything is a pure function of the arrays: sums go over fixed blocks in their order, whatever the threads.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from math import frexp, sqrt
from types import MappingProxyType
from typing import Any, Literal

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import NO_ROLES, Roles
from flserve_app.codec.floats import MOST_EXPONENT, MOST_STEPS
from flserve_app.codec.moves import Moves
from flserve_app.errors import CodecError, ConfigError

Kind = Literal["grid", "topk"]
_KINDS = ("grid", "topk")
_ROUNDED = ("float32", "float64", "float16", "bfloat16")
_STEP_OF_THRESHOLD = 1.4
_SAMPLE = 1 << 21  # changes from which the threshold is taken; all of them in models that have fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How a codec rounds.

    Attributes:
        kind: `grid` or `topk`.
        multiple: Step of `grid`, in sigmas of a tensor's change; above 0.
        zone: Changes of fewer steps are rounded to nothing by `grid`; 0.5 (the nearest step) to 1.
        share: Share of all elements that `topk` keeps; above 0, at most 1.
        levels: Most steps that `topk` moves an element; 1 is ternary.
        exact_bytes: Tensors of at most so many bytes are taken exactly.
        dither: Key, below 2**64, of the stream that `grid` draws from to round at random; None to round to the nearest.
        roles: What tensors are for, where the user says so; `lossy.send` takes all but weights exactly.

    Raises:
        CodecError: If a value is out of bounds.
    """

    kind: Kind
    multiple: float = 4.0
    zone: float = 0.5
    share: float = 0.01
    levels: int = 255
    exact_bytes: int = 32
    dither: int | None = None
    roles: Roles = NO_ROLES

    def __post_init__(self) -> None:
        """Check all bounds."""
        bounds = {
            "multiple": 0 < self.multiple < 2.0**40,
            "zone": 0.5 <= self.zone <= 1,
            "share": 0 < self.share <= 1,
            "levels": 1 <= self.levels < 1 << 23,
            "exact_bytes": self.exact_bytes >= 0,
            "dither": self.dither is None or (self.kind == "grid" and 0 <= self.dither < 1 << 64),
        }
        if self.kind not in _KINDS:
            raise CodecError(f"rounding: kind is {self.kind!r}, expected one of {', '.join(_KINDS)}")
        if wrong := [name for name, good in bounds.items() if not good]:
            raise CodecError(f"rounding: {wrong[0]} is out of bounds: {getattr(self, wrong[0])}")

    def to_json(self) -> str:
        """Return the settings as a JSON object."""
        settings = asdict(self)
        if self.dither is None:
            del settings["dither"]
        del settings["roles"]
        if self.roles.rules:
            settings["roles"] = self.roles.rules
        return json.dumps(settings, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Rounding:
        """Return the settings that `to_json` wrote.

        Raises:
            CodecError: If they are not such.
        """
        try:
            values: Any = json.loads(text)
            return cls(**{**values, "roles": Roles.from_pairs(values.get("roles", ()))})
        except (TypeError, ValueError, AttributeError, ConfigError) as error:
            raise CodecError(f"rounding: not settings: {text[:100]!r}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounded:
    """What is published, and on which grids its changes lie.

    Attributes:
        artifact: What everybody will hold.
        exponents: Log2 of the step of each tensor whose change lies on a grid; the others equal the target's.
    """

    artifact: Artifact
    exponents: Mapping[str, int]


def round_to(target: Artifact, base: Artifact, rounding: Rounding, *, exact: Collection[str] = ()) -> Rounded:
    """Return what is published in place of a target.

    Args:
        target: What would be published if nothing were lost.
        base: What the change is taken from.
        rounding: How to round.
        exact: Names of tensors to be taken exactly (statistics, for instance).
    """
    if rounding.kind == "grid":
        return round_to_grid(
            target,
            base,
            multiple=rounding.multiple,
            zone=rounding.zone,
            exact_bytes=rounding.exact_bytes,
            exact=exact,
            dither=rounding.dither,
        )
    return round_to_top(
        target, base, share=rounding.share, levels=rounding.levels, exact_bytes=rounding.exact_bytes, exact=exact
    )


def round_to_grid(
    target: Artifact,
    base: Artifact,
    *,
    multiple: float,
    zone: float = 0.5,
    exact_bytes: int = 32,
    exact: Collection[str] = (),
    dither: int | None = None,
) -> Rounded:
    """Return the target with the changes of each tensor rounded to a grid of its own; see the module.

    Args:
        target: As of `round_to`; so are base and exact.
        base: What the change is taken from.
        multiple: As of `Rounding`; so are zone and exact_bytes.
        zone: Dead zone in steps; there is none with dither.
        exact_bytes: Bytes of a tensor that is not worth rounding.
        exact: Names of tensors to be taken exactly.
        dither: As of `Rounding`.
    """
    moves = Moves.between(target, base, _candidates(target, base, exact, exact_bytes))
    exponents = _allowed(moves, {name: multiple * extent.sigma for name, extent in moves.extents.items()})
    edges = {name: zone * 2.0**exponent for name, exponent in exponents.items()}
    published = moves.rounded(exponents, edges, MOST_STEPS - 1, dither)
    return Rounded(artifact=published, exponents=MappingProxyType(exponents))


def round_to_top(
    target: Artifact,
    base: Artifact,
    *,
    share: float,
    levels: int = 255,
    exact_bytes: int = 32,
    exact: Collection[str] = (),
) -> Rounded:
    """Return the target with none but the largest changes of all tensors, rounded; see the module.

    Args:
        target: As of `round_to`; so are base and exact.
        base: What the change is taken from.
        share: As of `Rounding`; so are levels and exact_bytes.
        levels: Most steps that an element moves.
        exact_bytes: Bytes of a tensor that is not worth rounding.
        exact: Names of tensors to be taken exactly.
    """
    moves = Moves.between(target, base, _candidates(target, base, exact, exact_bytes))
    least = _threshold(moves, share, levels)
    wanted = dict.fromkeys(moves.extents, _STEP_OF_THRESHOLD * least)
    if levels == 1:
        wanted |= {name: mean for name in wanted if (mean := moves.kept_mean(name, least))}
    exponents = _allowed(moves, wanted)
    edges = dict.fromkeys(exponents, least)
    return Rounded(artifact=moves.rounded(exponents, edges, levels), exponents=MappingProxyType(exponents))


def _candidates(target: Artifact, base: Artifact, exact: Collection[str], exact_bytes: int) -> list[str]:
    """Return the names of the tensors that may be rounded, as far as their specs tell."""
    return [
        name
        for name, spec in target.specs.items()
        if base.specs.get(name) == spec and spec.dtype in _ROUNDED and spec.nbytes > exact_bytes and name not in exact
    ]


def _allowed(moves: Moves, wanted: Mapping[str, float]) -> dict[str, int]:
    """Return log2 of the power of two nearest to the step wanted, of the tensors that may have it."""
    found = {}
    for name, size in wanted.items():
        mantissa, exponent = frexp(size)
        exponent -= mantissa < sqrt(0.5)
        if not size or abs(exponent) > MOST_EXPONENT:
            continue
        extent = moves.extents[name]
        if max(extent.value, 2 * extent.change) < MOST_STEPS * 2.0**exponent:
            found[name] = exponent
    return found


def _threshold(moves: Moves, share: float, levels: int) -> float:
    """Return the least magnitude of the changes that are kept; 0 if nothing changes at all."""
    sizes = moves.sample(_SAMPLE)
    moving = sizes[sizes > 0]
    wanted = min(max(1, round(share * sizes.size)), max(sizes.size, 1))
    if moving.size > wanted:
        moving.partition(moving.size - wanted)  # in place: another copy takes longer than this
        return float(moving[moving.size - wanted])
    if not moving.size:
        return 0.0
    # All that changes is to be kept, but steps must not be so small that the largest change is out of reach.
    return float(moving.min()) if levels == 1 else max(float(moving.min()), float(moving.max()) / levels)
