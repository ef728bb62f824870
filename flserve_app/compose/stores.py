"""From a configuration to the store, and to what a version needs to be served."""

from __future__ import annotations

from pathlib import Path

from flserve_app.compose.model import Model
from flserve_app.config import AppConfig
from flserve_app.registry import Registry
from flserve_app.registry.layout import STORE_FOLDER, store_at
from flserve_app.store import Serving
from flserve_app.strategy import expanded, open_registry
from flserve_app.task import TaskSpec, task_data
from flserve_app.task.models import model_spec


def serving_of(model: Model, spec: TaskSpec) -> Serving:
    """Return what it takes to serve a version of this model, and with its seed to build the first."""
    task = task_data(spec)
    described = model_spec(
        model.name,
        input_shape=task.input_shape,
        classes=task.classes,
        preprocessing=task.preprocessing,
        **model.arguments,
    )
    return Serving(**described, seed=model.seed)


def store_path(config: AppConfig, folder: Path) -> Path:
    """Return where a run's store is: in its folder, or the one that is named, by itself or by the folder of its run.

    Raises:
        ConfigError: If it is in a home folder that is not known.
        StoreError: If it cannot be looked at.
    """
    return folder / STORE_FOLDER if config.store is None else store_at(expanded(config.store))


def open_store(config: AppConfig, folder: Path) -> Registry:
    """Open the store of a run, which is made if it is not there. Raises ConfigError, StoreError."""
    path = store_path(config, folder)
    codec = config.codec.name if config.codec.name.startswith("lossless") else "lossless"
    return open_registry(path, keyframe_every=config.keyframe_every, codec=codec)
