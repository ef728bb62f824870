"""Rounding: what a codec that loses something publishes in place of the target.

The change from base to target is rounded, tensor by tensor, to whole steps; the result is an artifact like any other,
which everybody will hold to the last bit. Steps are powers of two, or `fine`, with three more between any two of them
(`step`). Two ways to choose them:

- `grid`: the step is the one nearest to `multiple` * sigma, with sigma the root mean square of the change of the
  tensor or, with `scope` = model, of all that are rounded (one step for all loses least for its bytes, a step
  of its own spares tensors that move little). Changes are rounded to the nearest step, those below `zone` steps to
  nothing. With `dither` they are rounded up or down at random, so that the mean of what is published is the target.
- `topk`: the `share` of all elements that change most are kept, by one threshold t for all tensors. The step is the
  one nearest to 1.4 t (so that t is about the edge of its dead zone), and what is kept moves by 1 to `levels` steps.
  With `levels` = 1 each tensor has a step of its own, nearest to the mean of what it keeps.

Taken exactly, that is, equal to the target's: tensors named by the caller, without a like in the base (same dtype and
shape), of other dtypes than real floats, of at most `exact_bytes`, with a value in either that is not finite, or
with values of 2**24 steps and more (changes of 2**20, where steps are fine), and those whose step
would not be 2**-100 to 2**100, or of which the root mean square of the change is below 2**-60. Tensors of the target
that are the same stay so: rounded alike, or not at all where their bases differ or one is to be exact (`ties`).

Everything is a pure function of the arrays: sums go over fixed blocks in their order, whatever the threads.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import NO_ROLES, Roles
from flserve_app.codec.filling import Filling
from flserve_app.codec.moves import Moves
from flserve_app.codec.step import MOST_STEPS, most_steps, step_near
from flserve_app.codec.ties import rounded_alike
from flserve_app.errors import CodecError, ConfigError

Kind = Literal["grid", "topk"]
Scope = Literal["tensor", "model"]
_KINDS = ("grid", "topk")
_SCOPES = ("tensor", "model")
_ROUNDED = ("float32", "float64", "float16", "bfloat16")
LEAST = 0.1
# Of the settings as JSON, where they are just that.
_LEFT_OUT = {"dither": None, "fine": False, "scope": "tensor", "least": LEAST}
_LEAST_SIGMA = 2.0**-60  # squares of less are no normal float32s, which machines treat in different ways
_STEP_OF_THRESHOLD = 1.4
_SAMPLE = 1 << 21  # changes from which the threshold is taken; all of them in models that have fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How a codec rounds.

    Attributes:
        kind: `grid` or `topk`.
        multiple: Step of `grid`, in sigmas of a change; above 0.
        scope: Whose change that is: each tensor's, or the model's.
        zone: Changes of fewer steps are rounded to nothing by `grid`; 0.5 (the nearest step) to 1.
        share: Share of all elements that `topk` keeps; above 0, at most 1.
        levels: Most steps that `topk` moves an element; 1 is ternary.
        fine: Whether steps lie between powers of two, too.
        exact_bytes: Tensors of at most so many bytes are taken exactly.
        dither: Key, below 2**64, of the stream that `grid` draws from to round at random; None to round to the nearest.
        roles: What tensors are for, where the user says so; `lossy.send` takes all but weights exactly.
        least: Share of the squares of a change that is kept at least, by finer steps where they are too coarse for it
            (`finer`); 0 for steps that are what they are. For `lossy.send` as well.

    Raises:
        CodecError: If a value is out of bounds.
    """

    kind: Kind
    multiple: float = 4.0
    scope: Scope = "tensor"
    zone: float = 0.5
    share: float = 0.01
    levels: int = 255
    fine: bool = False
    exact_bytes: int = 32
    dither: int | None = None
    roles: Roles = NO_ROLES
    least: float = LEAST

    def __post_init__(self) -> None:
        """Check all bounds."""
        most_levels = (1 << (20 if self.fine else 23)) - 1
        bounds = {
            "multiple": (0 < self.multiple < 2.0**40, "a number above 0 and below 2**40"),
            "scope": (self.kind == "grid" or self.scope == "tensor", f"tensor for {self.kind}"),
            "zone": (0.5 <= self.zone <= 1, "0.5 to 1"),
            "share": (0 < self.share <= 1, "a number above 0, at most 1"),
            "levels": (1 <= self.levels <= most_levels, f"1 to {most_levels}"),
            "exact_bytes": (self.exact_bytes >= 0, "0 or more"),
            "least": (0 <= self.least < 1, "0 to below 1"),
            "dither": (
                self.dither is None or (self.kind == "grid" and 0 <= self.dither < 1 << 64),
                "none, or for grid a key below 2**64",
            ),
        }
        if self.kind not in _KINDS:
            raise CodecError(f"rounding: kind is {self.kind!r}, expected one of {', '.join(_KINDS)}")
        if self.scope not in _SCOPES:
            raise CodecError(f"rounding: scope is {self.scope!r}, expected one of {', '.join(_SCOPES)}")
        if not isinstance(self.fine, bool):
            raise CodecError(f"rounding: fine is {self.fine!r}, expected true or false")
        for name, (good, expected) in bounds.items():
            if not good:
                raise CodecError(f"rounding: {name} is {getattr(self, name)!r}, expected {expected}")

    def to_json(self) -> str:
        """Return the settings as a JSON object."""
        settings = asdict(self)
        del settings["roles"]
        for name, plain in _LEFT_OUT.items():
            if settings[name] == plain:
                del settings[name]
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
        except (TypeError, ValueError, AttributeError, RecursionError, ConfigError) as error:
            raise CodecError(f"rounding: not settings: {text[:100]!r}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounded:
    """What is published, and on which grids its changes lie.

    Attributes:
        artifact: What everybody will hold.
        steps: The step of each tensor whose change lies on a grid; the others equal the target's.
    """

    artifact: Artifact
    steps: Mapping[str, float]


def round_to(target: Artifact, base: Artifact, rounding: Rounding, *, exact: Collection[str] = ()) -> Rounded:
    """Return what is published in place of a target.

    Args:
        target: What would be published if nothing were lost.
        base: What the change is taken from.
        rounding: How to round.
        exact: Names of tensors to be taken exactly (statistics, for instance).
    """
    moves = Moves.between(target, base, candidates(target, base, exact, rounding.exact_bytes))
    filling = Filling(moves)
    steps = fill(filling, moves, rounding)
    return Rounded(artifact=filling.artifact(), steps=MappingProxyType(steps))


def fill(filling: Filling, moves: Moves, rounding: Rounding) -> dict[str, float]:
    """Round those of a filling's tensors that the moves are of; return the steps of those that can be rounded."""
    steps, edges = (_to_grid if rounding.kind == "grid" else _to_top)(moves, rounding)
    levels = MOST_STEPS - 1 if rounding.kind == "grid" else rounding.levels
    steps, ties = rounded_alike(moves.target, moves.base, steps)
    filling.fill(steps, edges, levels, rounding.dither, ties)
    filling.drop([name for name in moves.extents if name not in steps])
    return steps


def _to_grid(moves: Moves, rounding: Rounding) -> tuple[dict[str, float], dict[str, float]]:
    """Return the step of each tensor, and the least magnitude of a change that is not rounded to nothing."""
    sigmas = {name: extent.sigma for name, extent in moves.extents.items()}
    if rounding.scope == "model":
        sigmas = dict.fromkeys(sigmas, moves.sigma)
    wanted = {name: rounding.multiple * sigma for name, sigma in sigmas.items() if sigma >= _LEAST_SIGMA}
    steps = _allowed(moves, wanted, rounding)
    return steps, {name: rounding.zone * step for name, step in steps.items()}


def _to_top(moves: Moves, rounding: Rounding) -> tuple[dict[str, float], dict[str, float]]:
    """Return the same for the largest changes of all tensors."""
    least = _threshold(moves, rounding.share, rounding.levels)
    wanted = dict.fromkeys(moves.extents, _STEP_OF_THRESHOLD * least)
    if rounding.levels == 1:
        wanted |= {name: mean for name in wanted if (mean := moves.kept_mean(name, least))}
    steps = _allowed(moves, wanted, rounding)
    return steps, dict.fromkeys(steps, least)


def candidates(target: Artifact, base: Artifact, exact: Collection[str], exact_bytes: int) -> list[str]:
    """Return the names of the tensors that may be rounded, as far as their specs tell."""
    return [
        name
        for name, spec in target.specs.items()
        if base.specs.get(name) == spec and spec.dtype in _ROUNDED and spec.nbytes > exact_bytes and name not in exact
    ]


def _allowed(moves: Moves, wanted: Mapping[str, float], rounding: Rounding) -> dict[str, float]:
    """Return the step nearest to the one wanted, of the tensors that may have it."""
    found = {}
    for name, size in wanted.items():
        step = step_near(size, fine=rounding.fine)
        if step is None:
            continue
        extent = moves.extents[name]
        if extent.value < MOST_STEPS * step and 2 * extent.change < most_steps(step) * step:
            found[name] = step
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
