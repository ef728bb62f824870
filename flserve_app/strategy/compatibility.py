"""What can be combined with versioned delivery, and what cannot: a table and the check that enforces it.

A strategy is judged by the nearest class of Flower's that it is or derives from; the strategy inside a wrapper
is judged too. Rules:
- What cannot be combined is refused before anything starts, with the reason as a sentence.
- A late reply is rebased only where a reply has a weight that can be scaled and no guarantee counts replies.
- Integer tensors (BatchNorm's counters) stay beside strategies that would clip, scale or add noise to them.
- A strategy of somebody else is allowed; what is assumed about it is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from flwr.serverapp.strategy import Strategy

from flserve_app.artifact.roles import Roles
from flserve_app.codec.lossy import Lossy
from flserve_app.errors import ConfigError
from flserve_app.strategy.older_api import STRATEGIES, STRATEGY_HINT, is_older_strategy
from flserve_app.strategy.own_start import check_own_start
from flserve_app.strategy.transparent import Transparent

LATE_RULES = ("drop", "rebase")
NONFINITE_RULES = ("keep", "leave_out")

AS_IT_IS = "run it as it is, without VersionedStrategy"
_VOTES = "it counts every reply as one vote, which no staleness weight can make lighter"
_COUNTED = "its privacy guarantee counts one clipped reply a client and round"
_SPARSE = "it compares replies weight by weight, and a sparse update leaves nearly all of them as they were"
_CLIPPED = "its clipping has to see the last word of a client, and error feedback adds to an update behind it"
_NORM = (
    "its clipping at the client measures the whole model, and private tensors would count in a norm that guards others"
)
_TREES = "its model is a growing ensemble of trees, not tensors of fixed shapes that a version could be relative to"
_MASKED = "secure aggregation masks what a client sends, so an update relative to a held version cannot be decoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What holds for a strategy.

    Attributes:
        name: Class name, or `Wrapper(Inner)`.
        refused: Why it cannot be combined; empty if it can.
        no_rebase: Why late replies cannot be rebased under it; empty if they can.
        no_sparse: Why updates cannot be sparse under it; empty if they can.
        no_feedback: Why clients cannot carry on what was left out of an update; empty if they can.
        no_private: Why tensors cannot be private under it; empty if they can.
        integers_beside: Whether integer tensors are averaged beside it.
        private: Whether it adds noise for privacy: its runs do not repeat.
        chooses: Whether it may choose one reply out of all.
        finite: Whether one update that is not finite breaks what it is for, so that such updates are left out.
        assumed: What is taken for granted about it; empty for Flower's own.
    """

    name: str
    refused: str = ""
    no_rebase: str = ""
    no_sparse: str = ""
    no_feedback: str = ""
    no_private: str = ""
    integers_beside: bool = False
    private: bool = False
    chooses: bool = False
    finite: bool = False
    assumed: str = ""


def _rows(
    *names: str, beside: bool = False, private: bool = False, votes: bool = False, chooses: bool = False, **reasons: str
) -> list[Traits]:
    return [
        Traits(
            name=name,
            integers_beside=beside,
            private=private,
            chooses=chooses,
            finite=private or votes,
            **reasons,
        )
        for name in names
    ]


TABLE: Mapping[str, Traits] = MappingProxyType(
    {
        traits.name: traits
        for traits in (
            *_rows("FedAvg", "FedProx", "FedAvgM", "FedAdam", "FedAdagrad", "FedYogi"),
            *_rows(
                "QFedAvg", no_rebase="it weighs replies by their loss on the version they trained from", beside=True
            ),
            *_rows("FedMedian", "FedTrimmedAvg", no_rebase=_VOTES, no_sparse=_SPARSE, votes=True),
            *_rows("Krum", "MultiKrum", "Bulyan", no_rebase=_VOTES, no_sparse=_SPARSE, votes=True, chooses=True),
            *_rows(
                "DifferentialPrivacyServerSideFixedClipping",
                "DifferentialPrivacyServerSideAdaptiveClipping",
                no_rebase=_COUNTED,
                beside=True,
                private=True,
            ),
            *_rows(
                "DifferentialPrivacyClientSideFixedClipping",
                "DifferentialPrivacyClientSideAdaptiveClipping",
                no_rebase=_COUNTED,
                no_feedback=_CLIPPED,
                no_private=_NORM,
                beside=True,
                private=True,
            ),
            *_rows("FedXgbBagging", "FedXgbCyclic", refused=_TREES),
            *_rows("SecAggWorkflow", "SecAggPlusWorkflow", refused=_MASKED),
        )
    }
)
UNKNOWN = Traits(
    name="",
    no_rebase="it is not known how it weighs replies",
    assumed="it takes and returns full ArrayRecords, and keeps nothing that a resumed run needs",
)


def check(strategy: Strategy, late: str = "drop") -> Traits:
    """Return the traits of a strategy, wrappers and what is inside them taken together.

    Raises:
        ConfigError: If it cannot be combined with versions, or not with this rule for late replies.
    """
    if late not in LATE_RULES:
        raise ConfigError(f"late is {late!r}, expected one of: {', '.join(LATE_RULES)}")
    found = [_judged(each) for each in nested(strategy)]
    check_own_start(strategy)
    traits = replace(
        found[-1],
        name="(".join(each.name for each in found) + ")" * (len(found) - 1),
        no_rebase=next((each.no_rebase for each in found if each.no_rebase), ""),
        no_sparse=next((each.no_sparse for each in found if each.no_sparse), ""),
        no_feedback=next((each.no_feedback for each in found if each.no_feedback), ""),
        no_private=next((each.no_private for each in found if each.no_private), ""),
        integers_beside=any(each.integers_beside for each in found),
        private=any(each.private for each in found),
        chooses=any(each.chooses for each in found),
        finite=any(each.finite for each in found),
        assumed="; ".join(each.assumed for each in found if each.assumed),
    )
    if late == "rebase" and traits.no_rebase:
        raise ConfigError(f"late replies cannot be rebased under {traits.name}: {traits.no_rebase}; use late=drop")
    return traits


def check_lossy(traits: Traits, *, uplink: Lossy | None, codec: Lossy | None = None) -> None:
    """Refuse updates that a strategy's guarantee does not survive, and dither where it is for nothing.

    Raises:
        ConfigError: If they are sparse, or carry on what was left out, where that breaks it.
    """
    if codec is not None and codec.dither:
        raise ConfigError(
            f"codec {codec.name} cannot be dithered: what a version leaves out is carried on by the server itself; "
            "dither is for the uplink"
        )
    if uplink is None:
        return
    if uplink.name == "topk" and traits.no_sparse:
        raise ConfigError(f"uplink topk cannot be combined with {traits.name}: {traits.no_sparse}; use uplink=grid")
    if uplink.feedback.decay and traits.no_feedback:
        raise ConfigError(
            f"uplink {uplink.name} with error feedback cannot be combined with {traits.name}: {traits.no_feedback}; "
            "set uplink.arguments.decay=0"
        )


def check_private(traits: Traits, roles: Roles) -> None:
    """Refuse private tensors that a strategy's guarantee does not survive.

    Raises:
        ConfigError: If there are any, and it does not.
    """
    if traits.no_private and any(role == "private" for _, role in roles.rules):
        raise ConfigError(f"roles: tensors cannot be private under {traits.name}: {traits.no_private}")


def nested(strategy: Any) -> Iterator[Strategy]:
    """Yield a strategy and what it wraps, outermost first."""
    yield strategy
    while (strategy := getattr(strategy, "strategy", None)) is not None:
        yield strategy


def _judged(strategy: object) -> Traits:
    """Return the row of one strategy.

    Raises:
        ConfigError: If it cannot be combined.
    """
    kind = type(strategy)
    row = next((TABLE[base.__name__] for base in kind.__mro__ if _is_flowers(base) and base.__name__ in TABLE), None)
    if row is not None and row.refused:
        raise ConfigError(f"{kind.__name__} cannot be combined with versions: {row.refused}: {AS_IT_IS}")
    if isinstance(strategy, Transparent):
        raise ConfigError(f"{kind.__name__} has to be the outermost strategy: it cannot be put inside of another one")
    if not isinstance(strategy, Strategy):
        if is_older_strategy(strategy):
            raise ConfigError(f"{kind.__name__} is a strategy of Flower's older API ({STRATEGIES}): {STRATEGY_HINT}")
        raise ConfigError(f"{kind.__name__} is no strategy of Flower's Message API (flwr.serverapp.strategy.Strategy)")
    if row is None:
        return replace(UNKNOWN, name=kind.__name__, assumed=f"{kind.__name__}: {UNKNOWN.assumed}")
    if kind.__name__ == row.name and _is_flowers(kind):
        return row
    return replace(row, name=kind.__name__, assumed=f"{kind.__name__} weighs and combines replies as {row.name} does")


def _is_flowers(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "flwr"
