"""The settings of a lossy codec over a whole run: how it rounds in each round, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import NO_ROLES, Roles
from flserve_app.codec.codecs import codec_named
from flserve_app.codec.encoder import encode_rounded
from flserve_app.codec.feedback import Feedback, residual_of, with_residual
from flserve_app.codec.finer import Loss, round_within
from flserve_app.codec.ramp import Ramp, ramp_of
from flserve_app.codec.rounding import LEAST, Rounded, Rounding, Scope
from flserve_app.errors import CodecError

_ARGUMENTS: Mapping[str, frozenset[str]] = {
    "grid": frozenset({"multiple", "scope", "zone", "fine", "dither", "decay", "cap", "least"}),
    "topk": frozenset({"share", "levels", "fine", "decay", "cap", "least"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lossy:
    """One lossy codec as a run uses it.

    Attributes:
        name: `grid` or `topk`.
        multiple: Step of `grid`, in sigmas of a change, a round.
        scope: Whose change that is: each `tensor`'s, or the `model`'s.
        zone: Dead zone of `grid`, in steps.
        share: Share of the elements that `topk` moves, a round.
        levels: Most steps that `topk` moves an element.
        fine: Whether steps lie between powers of two, too.
        feedback: What is carried on of what rounding leaves out.
        dither: Whether `grid` rounds at random, so that the mean is exact: for clients that appear once, of whom
            nothing is carried on.
        roles: What tensors are for, where the user says so: none but weights are rounded.
        least: Share of a change, in squares, that is kept at least (see `finer`); 0 for steps that are what they are.

    Raises:
        CodecError: If a share is above 1, or dither is combined with feedback, with a dead zone, or with another codec
            than `grid`.
    """

    name: str
    multiple: Ramp = field(default_factory=lambda: Ramp(4.0, 4.0, 0))
    scope: Scope = "tensor"
    zone: float = 0.5
    share: Ramp = field(default_factory=lambda: Ramp(0.01, 0.01, 0))
    levels: int = 255
    fine: bool = False
    feedback: Feedback = field(default_factory=Feedback)
    dither: bool = False
    roles: Roles = NO_ROLES
    least: float = LEAST

    def __post_init__(self) -> None:
        """Check what dither goes together with, and shares."""
        if max(self.share.values) > 1:
            raise CodecError(f"codec {self.name}: share is {max(self.share.values)}, expected at most 1")
        if not isinstance(self.dither, bool):
            raise CodecError(f"codec {self.name}: dither is {self.dither!r}, expected true or false")
        if self.dither and self.name != "grid":
            raise CodecError(f"codec {self.name}: dither is for grid alone")
        if self.dither and self.feedback.decay:
            raise CodecError(
                f"codec {self.name}: dither cannot be combined with error feedback (decay {self.feedback.decay}), "
                "which would carry its noise on; set decay=0"
            )
        if self.dither and self.zone != 0.5:
            raise CodecError(f"codec {self.name}: dither cannot be combined with a dead zone (zone {self.zone})")

    def at(self, number: int, dither: int | None = None) -> Rounding:
        """Return how a round rounds; the first is 1.

        Args:
            number: The round.
            dither: Key of the stream from which dither is drawn; not used without dither.

        Raises:
            CodecError: If a value is out of its range in that round.
        """
        if self.name == "grid":
            return Rounding(
                kind="grid",
                multiple=self.multiple.at(number),
                scope=self.scope,
                zone=self.zone,
                fine=self.fine,
                dither=dither if self.dither else None,
                roles=self.roles,
                least=self.least,
            )
        share = min(1.0, self.share.at(number))
        return Rounding(
            kind="topk", share=share, levels=self.levels, fine=self.fine, roles=self.roles, least=self.least
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sent:
    """What became of an artifact that was to be sent.

    Attributes:
        artifact: What its receivers get in its place.
        payload: What takes a holder of the base there.
        residual: What is to be added next time; None if nothing is.
        loss: What rounding did to the change.
    """

    artifact: Artifact
    payload: bytes
    residual: Artifact | None
    loss: Loss


def send(
    target: Artifact,
    base: Artifact,
    rounding: Rounding,
    feedback: Feedback,
    residual: Artifact | None,
    *,
    ties: bool = True,
) -> Sent:
    """Round and encode a target with what was left out before; statistics and buffers stay exact.

    Args:
        target: What was to be sent.
        base: What the receivers hold.
        rounding: How to round.
        feedback: What is carried on.
        residual: What was left out before.
        ties: As of `encode`.
    """
    wanted = with_residual(target, residual)
    rounded, loss = round_within(wanted, base, rounding, exact=rounding.roles.exact(wanted), target=target)
    return Sent(
        artifact=rounded.artifact,
        payload=encode_rounded(rounded, base, rounding.kind, ties=ties),
        residual=residual_of(wanted, rounded.artifact, base, _kept(rounded, feedback), feedback),
        loss=loss,
    )


def _kept(rounded: Rounded, feedback: Feedback) -> list[str]:
    """Return the rounded tensors of which a residual can be kept: numpy has no sums of bfloat16."""
    specs = rounded.artifact.specs
    return [name for name in rounded.steps if feedback.decay and specs[name].dtype != "bfloat16"]


def lossy_of(name: str, arguments: Mapping[str, Any]) -> Lossy | None:
    """Return the settings that a configuration names; None for an exact codec.

    Args:
        name: Name of the codec.
        arguments: `multiple`, `scope`, `zone`, `dither` (grid), `share`, `levels` (topk), `fine`, `decay`, `cap` and
            `least`;
            `multiple` and `share` are numbers, or `[start, end, rounds]`. With dither, decay is 0 if it is not named.

    Raises:
        CodecError: If the codec or an argument is unknown, or a value is out of its range.
    """
    codec_named(name)
    known = _ARGUMENTS.get(name, frozenset())
    if strange := [argument for argument in arguments if argument not in known]:
        listed = ", ".join(sorted(known)) or "none"
        raise CodecError(f"codec {name}: argument {strange[0]!r} is unknown; known: {listed}")
    if not known:
        return None
    ramps = {key: ramp_of(arguments[key], f"codec {name}: {key}") for key in ("multiple", "share") if key in arguments}
    rest = {key: arguments[key] for key in ("scope", "zone", "levels", "fine", "dither", "least") if key in arguments}
    carried = {key: arguments[key] for key in ("decay", "cap") if key in arguments}
    if arguments.get("dither"):
        carried.setdefault("decay", 0.0)
    try:
        settings: dict[str, Any] = {**ramps, **rest}
        lossy = Lossy(name=name, feedback=Feedback(**carried), **settings)
        for number in (1, 1 << 40):
            lossy.at(number)
    except TypeError as error:
        raise CodecError(f"codec {name}: an argument is no number: {error}") from error
    return lossy
