"""Configurations: schemas and composition."""

from flserve_app.config.load import Composed, checked, conf_dir, load, one_sentence, register_schemas
from flserve_app.config.schema import (
    AppConfig,
    CodecConfig,
    DpConfig,
    ModelConfig,
    StrategyConfig,
    TaskConfig,
    TrainConfig,
)

__all__ = [
    "AppConfig",
    "CodecConfig",
    "Composed",
    "DpConfig",
    "ModelConfig",
    "StrategyConfig",
    "TaskConfig",
    "TrainConfig",
    "checked",
    "conf_dir",
    "load",
    "one_sentence",
    "register_schemas",
]
