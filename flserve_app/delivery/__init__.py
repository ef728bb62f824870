"""How a client gets from what it holds to what it shall hold: plans, and the payloads they are made of."""

from flserve_app.delivery.payloads import CacheInfo, Payloads
from flserve_app.delivery.plan import (
    Offer,
    Plan,
    PlanKind,
    Step,
    exact,
    least_composed,
    least_direct,
    least_whole,
    plan,
    settles,
    whole,
)

__all__ = [
    "CacheInfo",
    "Offer",
    "Payloads",
    "Plan",
    "PlanKind",
    "Step",
    "exact",
    "least_composed",
    "least_direct",
    "least_whole",
    "plan",
    "settles",
    "whole",
]
