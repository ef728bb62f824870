"""What `flserve bench bytes` compares: models, and settings as overrides of `experiment=bytes`.

All settings were fixed before the seeds that they are measured on. `topk`, `topk-slow` and `topk-double` drop what
rounding leaves out: the server's momentum keeps the whole aggregate, sent or not, and does that part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from flserve_app.errors import ConfigError

PLAIN = "full"
PLAIN_ROUNDS = 40
MOST_ROUNDS = 60
FEWEST_SEEDS = 3
_OWN = ("seed", "num_rounds", "store", "codec", "uplink")  # what settings and options decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to deliver both ways.

    Attributes:
        overrides: Hydra's, on top of `experiment=bytes`.
        rounds: Rounds of a run.
        every_seed: Whether it is run on all seeds of a model unless told otherwise; else on the first three.
        eight_bit: Whether it is the 8-bit baseline, which is no codec of flserve.
    """

    overrides: tuple[str, ...] = ()
    rounds: int = MOST_ROUNDS
    every_seed: bool = False
    eight_bit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One size of the model.

    Attributes:
        overrides: Hydra's.
        seeds: Seeds it is run on unless told otherwise.
    """

    overrides: tuple[str, ...]
    seeds: tuple[int, ...]


def _both(codec: str, *arguments: str) -> tuple[str, ...]:
    """Return overrides that give delivery and uplink the same codec and arguments."""
    named = [f"codec={codec}", f"uplink={codec}"]
    return (*named, *(f"{side}.arguments.{each}" for side in ("codec", "uplink") for each in arguments))


def _topk(share: str, gain: str) -> tuple[str, ...]:
    return (
        *_both("topk", f"share={share}", "decay=0"),
        "strategy=fedavgm",
        "strategy.arguments.server_momentum=0.8",
        f"+strategy.schedules.server_learning_rate={gain}",
    )


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "small": Size(overrides=("model.arguments.width=16",), seeds=tuple(range(10))),
        "large": Size(overrides=("model.arguments.width=32",), seeds=tuple(range(FEWEST_SEEDS))),
    }
)

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        PLAIN: Setting(overrides=_both("full"), rounds=PLAIN_ROUNDS, every_seed=True),
        "8-bit": Setting(overrides=_both("full"), eight_bit=True),
        "lossless": Setting(overrides=_both("lossless"), rounds=PLAIN_ROUNDS),
        "grid": Setting(overrides=_both("grid")),
        "grid-model": Setting(overrides=_both("grid", "scope=model")),
        "topk": Setting(overrides=_topk("[0.02,0.005,40]", "[2.2,0.6,40]"), every_seed=True),
        "topk-slow": Setting(overrides=_topk("[0.02,0.005,60]", "[2.2,1.0,60]")),
        "topk-double": Setting(overrides=_topk("[0.04,0.01,40]", "[2.2,0.6,40]")),
    }
)


def sizes_of(overrides: Sequence[str]) -> Mapping[str, Size]:
    """Return the models that are measured: `SIZES`, or the one that the overrides choose.

    Raises:
        ConfigError: If an override is of what the bench decides itself.
    """
    if own := [each for each in overrides if each.lstrip("+~").partition("=")[0] in _OWN]:
        raise ConfigError(f"{own[0]!r}: the bench decides this itself; see its options")
    chosen = [each.removeprefix("model=") for each in overrides if each.startswith("model=")]
    return {chosen[-1]: Size(overrides=(), seeds=tuple(range(FEWEST_SEEDS)))} if chosen else SIZES
