"""Opening the store that a run writes to, and the names in it that the run is given.

A relative path starts wherever the process was started, which under `flwr run` is anybody's guess: so the absolute
one is said. A model name that exists is continued only when asked to.
"""

from __future__ import annotations

from logging import INFO
from pathlib import Path

from flwr.common.logger import log

from flserve_app.errors import Conflict
from flserve_app.registry import Registry
from flserve_app.store import Version, check_digest


def check_name(registry: Registry, model: str, *, resume: bool) -> Version | None:
    """Return the newest version of a model, if any; refuse a name that exists and is not to be resumed.

    Raises:
        Conflict: If it exists and is not to be resumed.
    """
    latest = registry.latest(model)
    if latest is not None and not resume:
        raise Conflict(
            f"model {model!r} is in the store already, at {latest.name}: "
            "continue it with resume=true, or choose another model_name"
        )
    return latest


def opened(store: str | Path) -> Registry:
    """Return the registry in a folder. Raises StoreError."""
    log(INFO, "flserve: store %s", Path(store).expanduser().absolute())
    return Registry.open(Path(store).expanduser())


def digest_of(name: str, registry: Registry) -> str:
    """Return the digest that `MODEL@REF` or a whole digest names. Raises NotFound, StoreError."""
    model, separator, ref = name.rpartition("@")
    return registry.resolve(model, ref).digest if separator else check_digest(name)
