"""What a resumed run must have in common with the run it goes on from.

A version's number says how far training is, and its accuracy what it is worth: both mean something only on the same
data, split in the same way, for the same model. So these must agree: the seed, the task, the model, the roles of its
tensors and the number of clients. How training goes on (rounds, rates, strategy, codecs, engine, the store's place) may
change; each run is recorded with its own configuration. A run that is to go on and finds nothing says so: in a store
of its own that is new there cannot be anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.common.logger import log

from flserve_app.compose.stores import store_path
from flserve_app.config import AppConfig
from flserve_app.errors import ConfigError, Conflict
from flserve_app.registry import Registry
from flserve_app.store import Version
from flserve_app.strategy import check_name
from flserve_app.text import plain

SAME = ("seed", "task", "model", "roles", "num_clients")
SHOWN = 3
_MISSING = object()


def check_store_to_resume(config: AppConfig, folder: Path) -> None:
    """Refuse a run that is to go on in a store of its own that is not there yet.

    Args:
        config: The run's configuration.
        folder: Its folder.

    Raises:
        ConfigError: If that is so, or the store is in a home folder that is not known.
    """
    if config.resume and config.store is None and not os.path.exists(path := store_path(config, folder)):
        raise ConfigError(
            f"resume=true: {path} would be a new store, in which there is nothing to go on with: name the store of the "
            "run to resume, as in store=FOLDER/store"
        )


def tell_nothing_found(registry: Registry, model: str) -> None:
    """Say that a run that was to go on with a model begins it."""
    there = sorted(registry.models())
    held = f"; it holds {', '.join(map(repr, there[:SHOWN]))}{', ...' * (len(there) > SHOWN)}" if there else ""
    log(WARNING, "flserve: resume=true finds no model %r in the store%s: the run begins anew", model, held)


def check_resumable(registry: Registry, model: str, resolved: Mapping[str, Any]) -> Version | None:
    """Return the newest version of a run's model, if there is one; refuse a run that may not go on from it.

    Args:
        registry: The store.
        model: Name of the model.
        resolved: The run's resolved configuration.

    Raises:
        Conflict: If the model exists and is not to be resumed, or was made with another seed, task or model.
    """
    latest = check_name(registry, model, resume=bool(resolved["resume"]))
    recorded = {} if latest is None else _recorded(registry, model)
    found = [f"{key} {_shown(before)}, not {_shown(now)}" for key, before, now in differences(recorded, resolved)]
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise Conflict(
            f"model {model!r} was trained with {', '.join(found[:SHOWN])}{more}: resume=true goes on with what it was "
            "begun with; for anything else choose another model_name"
        )
    return latest


def clients_before(registry: Registry, model: str) -> int | None:
    """Return how many clients a model was trained with: as many are waited for; None if that was not recorded."""
    number = _recorded(registry, model).get("num_clients")
    return number if isinstance(number, int) and number > 0 else None


def differences(recorded: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what differs of what must agree: key, value before, value now; a key that one does not know counts not."""
    before, now = dict(_leaves(recorded)), dict(_leaves(resolved))
    settled = before.keys() & now.keys()
    if "model.name" in settled:  # the schema does not say which arguments a model has: one that is missing tells
        settled |= {key for key in before.keys() | now.keys() if key.startswith("model.arguments.")}
    found = ((key, before.get(key, _MISSING), now.get(key, _MISSING)) for key in settled)
    return sorted(
        (each for each in found if each[1] != each[2]),
        key=lambda each: (SAME.index(each[0].partition(".")[0]), each[0]),
    )


def _leaves(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        key = f"{path}{name}"
        if not path and name not in SAME:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _recorded(registry: Registry, model: str) -> Mapping[str, Any]:
    """Return the configuration of the run that published the newest version that a run published."""
    configs = {run.run: run.config for run in registry.runs(model)}
    published = (configs.get(version.run) for version in reversed(registry.versions(model)) if version.run is not None)
    return next((config for config in published if config), {})


def _shown(value: Any) -> str:
    return "nothing" if value is _MISSING else plain(repr(value) if isinstance(value, str) else value, 60)
