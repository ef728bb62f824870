"""`flserve run --resume RUN`: the settings of a run that is there, to go on with it.

A run's folder keeps the overrides it was started with, and its configuration the store it published to. What comes
after them on the command line counts more: other rates, more rounds. A run of `flwr run` keeps no overrides: its
settings are named again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from flserve_app.config.words import quoted
from flserve_app.errors import ConfigError, NotFound
from flserve_app.places import CONFIG_FILE
from flserve_app.registry.layout import is_store, store_at
from flserve_app.text import plain

OPTION = "--resume"
OVERRIDES_FILE = ".hydra/overrides.yaml"


def going_on(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of `flserve run` with `--resume RUN` replaced by the run's own settings.

    Raises:
        ConfigError: If no folder follows, or it does not tell its settings.
        NotFound: If its store is not there.
        StoreError: If the store cannot be looked at.
    """
    rest, run = _split(arguments)
    if run is None:
        return rest
    overrides, config = _read(run / OVERRIDES_FILE), _read(run / CONFIG_FILE)
    if not isinstance(overrides, list) or not isinstance(config, dict):
        raise ConfigError(f"{plain(run)} does not tell the settings of its run: name them, with store=RUN resume=true")
    named = config.get("store")
    store = store_at(run if named is None else Path(str(named)).expanduser()).absolute()
    if not is_store(store):
        raise NotFound(f"the store of {plain(run)} is not there: {plain(store)}")
    kept = [str(each) for each in overrides if str(each).partition("=")[0] not in ("store", "resume")]
    return [*kept, f"store={quoted(str(store))}", "resume=true", *rest]


def _split(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    rest, run, words = [], None, iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != OPTION:
            rest.append(word)
        elif not (found := value if equals else next(words, "")) or found.startswith("-"):
            raise ConfigError(f"{OPTION} is followed by the folder of a run, as `flserve runs` shows it")
        else:
            run = Path(found)
    return rest, run


def _read(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
