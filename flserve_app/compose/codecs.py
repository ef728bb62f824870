"""From a configuration to the codecs of a run, and the check that they go together with all else."""

from __future__ import annotations

from flwr.serverapp.strategy import Strategy

from flserve_app.codec.lossy import Lossy, lossy_of
from flserve_app.codec.ramp import Ramp, ramp_of
from flserve_app.config import AppConfig, CodecConfig, StrategyConfig
from flserve_app.errors import CodecError, ConfigError
from flserve_app.strategy import check_lossy, check_strategy


def codec_of(config: CodecConfig, side: str) -> str | Lossy:
    """Return the name of an exact codec, or the settings of a lossy one.

    Args:
        config: What was configured.
        side: `codec` or `uplink`, for messages.

    Raises:
        ConfigError: If the codec or an argument is unknown, or a value is out of its range.
    """
    try:
        return lossy_of(config.name, config.arguments) or config.name
    except CodecError as error:
        raise ConfigError(f"{side}: {error}") from error


def schedules_of(config: StrategyConfig) -> dict[str, Ramp]:
    """Return the arguments of the strategy that change with the round.

    Raises:
        ConfigError: If one is no argument of it, or no ramp.
    """
    if strange := [name for name in config.schedules if name not in config.arguments]:
        known = ", ".join(config.arguments) or "none"
        raise ConfigError(f"strategy.schedules.{strange[0]} is no argument of {config.name}; its arguments: {known}")
    try:
        return {name: ramp_of(value, f"strategy.schedules.{name}") for name, value in config.schedules.items()}
    except CodecError as error:
        raise ConfigError(str(error)) from error


def check_codecs(app: AppConfig, strategy: Strategy) -> None:
    """Refuse codecs that do not go together with the strategy.

    Raises:
        ConfigError: If they do not, or are no codecs.
    """
    codec = codec_of(app.codec, "codec")
    schedules_of(app.strategy)
    uplink = codec_of(app.uplink, "uplink")
    lossy = uplink if isinstance(uplink, Lossy) else None
    traits = check_strategy(strategy, app.strategy.late)
    check_lossy(traits, uplink=lossy, codec=codec if isinstance(codec, Lossy) else None)
    if lossy is not None and lossy.feedback.decay and app.strategy.dp.kind == "local":
        raise ConfigError(
            f"uplink {lossy.name} with error feedback cannot be combined with local privacy: its noise has to be the "
            "last word of a client; set uplink.arguments.decay=0"
        )
