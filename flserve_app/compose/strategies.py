"""From a configuration to the strategy that samples and aggregates.

A name stands for a class of a read-only map; what arguments a class takes, and in which range, is a table, so that a
typo or a value out of range is one sentence before anything starts. Differential privacy wraps whatever
strategy is chosen.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from flserve_app.config import DpConfig, StrategyConfig
from flserve_app.errors import ConfigError
from flserve_app.strategy import check_strategy

_ARGUMENT = re.compile(r"`(\w+)`")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The range of an argument: from `low` to below `high`; `above` leaves `low` out, `whole` takes integers only."""

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether a value is in the range."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return (value > self.low if self.above else value >= self.low) and value < self.high

    def __str__(self) -> str:
        """Return the range in words."""
        least = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        below = "" if self.high == math.inf else f" and below {self.high:g}"
        return f"{'a whole number' if self.whole else 'a number'} {least}{below}"


_POSITIVE, _SHARE = Bounds(above=True), Bounds(high=1.0)
_ADAPTIVE = {"eta": _POSITIVE, "eta_l": _POSITIVE, "tau": _POSITIVE}
_MALICIOUS = {"num_malicious_nodes": Bounds(whole=True)}
ARGUMENTS: Mapping[str, Mapping[str, Bounds]] = MappingProxyType(
    {
        "fedavg": {},
        "fedadam": {**_ADAPTIVE, "beta_1": _SHARE, "beta_2": _SHARE},
        "fedadagrad": _ADAPTIVE,
        "fedyogi": {**_ADAPTIVE, "beta_1": _SHARE, "beta_2": _SHARE},
        "fedprox": {"proximal_mu": Bounds()},
        "fedavgm": {"server_learning_rate": _POSITIVE, "server_momentum": _SHARE},
        "fedmedian": {},
        "fedtrimmedavg": {"beta": Bounds(high=0.5)},
        "krum": _MALICIOUS,
        "multikrum": {**_MALICIOUS, "num_nodes_to_select": Bounds(low=1, whole=True)},
        "bulyan": _MALICIOUS,
        "qfedavg": {"client_learning_rate": _POSITIVE, "q": Bounds()},
    }
)


CLASSES: Mapping[str, Callable[..., Strategy]] = MappingProxyType(
    {
        "fedavg": flower.FedAvg,
        "fedadam": flower.FedAdam,
        "fedadagrad": flower.FedAdagrad,
        "fedyogi": flower.FedYogi,
        "fedprox": flower.FedProx,
        "fedavgm": flower.FedAvgM,
        "fedmedian": flower.FedMedian,
        "fedtrimmedavg": flower.FedTrimmedAvg,
        "krum": flower.Krum,
        "multikrum": flower.MultiKrum,
        "bulyan": flower.Bulyan,
        "qfedavg": flower.QFedAvg,
    }
)


def inner_strategy(config: StrategyConfig, num_clients: int) -> Strategy:
    """Return the strategy that samples and aggregates.

    Raises:
        ConfigError: If its name or an argument is unknown or out of range, more clients are asked for than there
            are, or the combination is refused.
    """
    sampled = config.clients_per_round if config.clients_per_round is not None else num_clients
    for name, count in (("clients_per_round", sampled), ("clients_per_evaluation", config.clients_per_evaluation)):
        if count > num_clients:
            raise ConfigError(f"strategy.{name} is {count}, there are {num_clients} clients")
    needed = _check_arguments(config.name, config.arguments, sampled)
    if config.clients_per_round is not None or config.dp.kind not in ("none", "local"):
        needed = sampled  # noise for privacy is measured out for as many
    sampling: dict[str, Any] = {
        "fraction_train": sampled / num_clients,
        "min_train_nodes": needed,
        "fraction_evaluate": config.clients_per_evaluation / num_clients,
        "min_evaluate_nodes": config.clients_per_evaluation,
        "min_available_nodes": needed,
    }
    try:
        with _unwarned():
            strategy = _private(config.dp, CLASSES[config.name](**sampling, **config.arguments), sampled)
    except (TypeError, ValueError) as error:
        # Flower says `argument` of its wrappers for privacy; people set it by the key that has its name.
        said = _ARGUMENT.sub(lambda found: _key_of(config.dp, found[1]) or found[0], " ".join(str(error).split()))
        raise ConfigError(f"strategy {config.name}: {said}") from error
    check_strategy(strategy, config.late)
    return strategy


def _key_of(dp: DpConfig, argument: str) -> str:
    return f"strategy.dp.{argument}" if argument in {field.name for field in fields(dp)} else ""


def _check_arguments(name: str, arguments: Mapping[str, object], sampled: int) -> int:
    """Return how many clients a strategy needs in a round, at least, with these arguments."""
    known = ARGUMENTS.get(name)
    if known is None:
        raise ConfigError(f"strategy {name!r} is unknown; known: {', '.join(ARGUMENTS)}")
    for argument, value in arguments.items():
        if argument not in known:
            raise ConfigError(f"strategy {name}: argument {argument!r} is unknown; known: {', '.join(known) or 'none'}")
        if value not in known[argument]:
            raise ConfigError(f"strategy.arguments.{argument} is {value}, expected {known[argument]}")
    malicious = int(str(arguments.get("num_malicious_nodes", 0)))
    needed = 4 * malicious + 3 if name == "bulyan" else 2 * malicious + 3 if malicious else 1
    if sampled < needed:  # Blanchard et al. 2017 and El Mhamdi et al. 2018: below that nothing is guaranteed
        raise ConfigError(
            f"strategy {name} needs {needed} clients a round for {malicious} malicious ones, there are {sampled}"
        )
    return needed


def _private(dp: DpConfig, strategy: Strategy, sampled: int) -> Strategy:
    """Wrap a strategy as the configuration asks; client-side kinds need the mods of `privacy` too."""
    fixed = (strategy, dp.noise_multiplier, dp.clipping_norm, sampled)
    adaptive: dict[str, Any] = {
        "noise_multiplier": dp.noise_multiplier,
        "num_sampled_clients": sampled,
        "initial_clipping_norm": dp.clipping_norm,
        "target_clipped_quantile": dp.target_clipped_quantile,
        "clip_norm_lr": dp.clip_norm_lr,
        "clipped_count_stddev": dp.clipped_count_stddev,
    }
    match dp.kind:
        case "server_fixed":
            return flower.DifferentialPrivacyServerSideFixedClipping(*fixed)
        case "client_fixed":
            return flower.DifferentialPrivacyClientSideFixedClipping(*fixed)
        case "server_adaptive":
            return flower.DifferentialPrivacyServerSideAdaptiveClipping(strategy, **adaptive)
        case "client_adaptive":
            return flower.DifferentialPrivacyClientSideAdaptiveClipping(strategy, **adaptive)
    return strategy


@contextmanager
def _unwarned() -> Iterator[None]:
    """Keep Flower from warning that clients do not evaluate, which the configuration says."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
