"""Configurations: schemas and composition."""

from flserve_app.config.folders import new_folder
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
from flserve_app.config.words import quoted

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
    "new_folder",
    "one_sentence",
    "quoted",
    "register_schemas",
]
