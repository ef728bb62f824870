"""Opening the store that a run writes to, and the names in it that the run is given.

A relative path starts wherever the process was started, which under `flwr run` is anybody's guess: so the absolute
one is said. A model name that exists is continued only when asked to, and by one run at a time. A run that was given
no name has one that is free, so that an app can be run again as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from logging import INFO
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from flwr.common.logger import log

from flserve_app.errors import ConfigError, Conflict, StoreError
from flserve_app.registry import Registry
from flserve_app.store import Version, check_digest
from flserve_app.text import plain

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Method = Callable[Concatenate[Any, Arguments], Result]


NAME = "model"
MOST_NAMES = 100_000
HYDRA, PYTHON = "resume=true", "resume=True"


def settled_name(registry: Registry, name: str | None, *, resume: bool) -> str:
    """Return the name that a run publishes under: the one it was given, or `model`, `model-2` and so on.

    Args:
        registry: The store.
        name: What it was given; None for the first that is free, or with `resume` the last that is there.
        resume: Whether it goes on with what is there.

    Raises:
        Conflict: If all of them are taken.
    """
    if name is not None:
        return name
    last = NAME
    for found in (NAME, *(f"{NAME}-{number}" for number in range(2, MOST_NAMES))):
        there = registry.latest(found) is not None
        if resume and not there:
            return last
        if not there and _is_free(registry, found):
            if found != NAME:
                log(INFO, "flserve: %r is in the store already: this run is %r; model_name names it", NAME, found)
            return found
        last = found
    raise Conflict(f"the store has {MOST_NAMES} models of the name {NAME!r}: choose a model_name")


def _is_free(registry: Registry, model: str) -> bool:
    try:
        registry.leases.check_free(model)
    except Conflict:
        return False
    return True


def check_name(registry: Registry, model: str, *, resume: bool, words: str = HYDRA) -> Version | None:
    """Return the newest version of a model, if any; refuse a name that exists and is not to be resumed.

    Args:
        registry: The store.
        model: The model's name.
        resume: Whether it is to be resumed.
        words: How whoever asks says so.

    Raises:
        Conflict: If it exists and is not to be resumed.
    """
    latest = registry.latest(model)
    if latest is not None and not resume:
        raise Conflict(
            f"model {model!r} is in the store already, at {latest.name}: "
            f"continue it with {words}, or choose another model_name"
        )
    return latest


def leased(start: Method[Arguments, Result]) -> Method[Arguments, Result]:
    """Return a strategy's method that has the model's name to itself while it runs; it may raise Conflict."""

    @wraps(start)
    def held(strategy: Any, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with strategy._publisher.leased():
            return start(strategy, *args, **kwargs)

    return held


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder. Raises ConfigError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"path {plain(path)!r} cannot be found: the home folder that it begins with is not known"
        ) from error


def opened(store: str | Path) -> Registry:
    """Return the registry in a folder. Raises ConfigError, StoreError."""
    path = expanded(store)
    log(INFO, "flserve: store %s", path.absolute())
    return open_registry(path)


def open_registry(path: Path, **options: Any) -> Registry:
    """Return the registry in a folder, by the options of `Registry.open`. Raises StoreError."""
    try:
        return Registry.open(path, **options)
    except OSError as error:
        raise StoreError(f"store {plain(path)} cannot be opened: {error.strerror}") from error


def digest_of(name: str, registry: Registry) -> str:
    """Return the digest that `MODEL@REF` or a whole digest names. Raises NotFound, StoreError."""
    model, separator, ref = name.rpartition("@")
    return registry.resolve(model, ref).digest if separator else check_digest(name)
