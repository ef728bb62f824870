"""What a start is given, checked before anything starts."""

from __future__ import annotations

from typing import Any

from flwr.app import ArrayRecord

from flserve_app.artifact import Artifact
from flserve_app.client.records import to_artifact
from flserve_app.errors import ConfigError, Conflict
from flserve_app.registry import Registry
from flserve_app.store import Version
from flserve_app.strategy.resumed import difference


def check_initial(initial: Any) -> None:
    """Refuse initial arrays that are neither an ArrayRecord nor an artifact. Raises ConfigError."""
    if not isinstance(initial, ArrayRecord | Artifact):
        raise ConfigError(
            f"initial_arrays is a {type(initial).__name__}, expected an ArrayRecord: ArrayRecord(model.state_dict())"
        )


def as_artifact(initial: ArrayRecord | Artifact, like: Artifact | None = None) -> Artifact:
    """Return initial arrays as an artifact, in the dtypes of another one. Raises ArtifactError."""
    return initial if isinstance(initial, Artifact) else to_artifact(initial, like=like)


def check_unmoved(registry: Registry, version: Version) -> Version:
    """Return the version that an earlier start ended at. Raises Conflict if it is not the newest any more."""
    latest = registry.latest(version.model)
    if latest is None or latest.digest != version.digest or latest.number != version.number:
        now = "is gone" if latest is None else f"is at {latest.name}"
        raise Conflict(
            f"model {version.model!r} {now}, and the start before ended at {version.name}: somebody else published "
            "between the two starts; go on with a strategy of its own and resume=True"
        )
    return version


def check_same_form(given: Artifact, now: Artifact, version: Version) -> None:
    """Refuse to go on with another model. Raises ConfigError."""
    if found := difference(given, now):
        raise ConfigError(
            f"initial_arrays of a second start are another model than {version.name} of {version.model!r}: {found}; "
            "give it a VersionedStrategy of its own"
        )


def check_started(grid: object | None, inner: str) -> None:
    """Refuse a round of a strategy that was not started itself. Raises ConfigError."""
    if grid is None:
        raise ConfigError(
            "VersionedStrategy is asked for a round, and its start was never called: call strategy.start(grid=grid, "
            f"...), and put a loop of your own into {inner}.start; it has to be the outermost strategy, as in "
            f"VersionedStrategy(Wrapper({inner}(...))), not inside of a wrapper"
        )
