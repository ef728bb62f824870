"""Records that are changed in place, as Flower lets a strategy and `evaluate_fn` do.

Everybody in Flower's loop works with one and the same ArrayRecord, so that a change by one is seen by all. An Array
never changes; what changes is which Arrays a record has. Rules:
- A record is what it was if it has the very same Arrays in the same order: nothing is hashed to see that.
- What is hashed once is remembered by its Arrays until the next version.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import final

from flwr.app import Array, ArrayRecord

from flserve_app.artifact import Artifact
from flserve_app.client.records import to_artifact

NOTHING: Collection[str] = frozenset()


@final
class Snapshot:
    """What a record held at one time."""

    def __init__(self, record: ArrayRecord) -> None:
        self._held = [(name, array, _data(array)) for name, array in record.items()]

    def is_of(self, record: ArrayRecord) -> bool:
        """Whether the record holds the same now."""
        return len(record) == len(self._held) and all(
            name == was and array is before and _data(array) is data
            for (name, array), (was, before, data) in zip(record.items(), self._held, strict=True)
        )


@final
class Artifacts:
    """Artifacts of records beside the newest version's, each made once; forgotten with the next version."""

    def __init__(self) -> None:
        self._known: list[tuple[Snapshot, Artifact]] = []
        self._visiting: dict[str, Artifact] = {}

    def begin(self, record: ArrayRecord, newest: Artifact) -> None:
        """Forget all but the newest version, and the record that holds it."""
        self._known = [(Snapshot(record), newest)]
        self._visiting = {}

    def of(self, record: ArrayRecord, newest: Artifact) -> Artifact:
        """Return the artifact of a record, which may be the newest version's."""
        for snapshot, artifact in self._known:
            if snapshot.is_of(record):
                return artifact
        artifact = to_artifact(record, like=newest)
        artifact = newest if artifact.digest == newest.digest else self._visiting.setdefault(artifact.digest, artifact)
        self._known.append((Snapshot(record), artifact))
        return artifact

    def get(self, digest: str) -> Artifact | None:
        """Return an artifact that is no version; None for one that is not known."""
        return self._visiting.get(digest)


def take_over(changed: ArrayRecord, into: ArrayRecord, kept: Collection[str] = NOTHING) -> None:
    """Change a record as another one of the same Arrays was changed.

    Args:
        changed: Holds what is wanted, in order.
        into: Is changed in place, if it has to be.
        kept: Names in the latter that the former says nothing about; they keep their places.
    """
    now = [name for name in into if name not in kept]
    if now == list(changed) and all(into[name] is array for name, array in changed.items()):
        return
    order = [name for name in into if name in kept or name in changed]
    order += [name for name in changed if name not in into]
    arrays = {name: into[name] if name in kept else changed[name] for name in order}
    into.clear()
    for name, array in arrays.items():
        into[name] = array


def _data(array: Array) -> object:
    return vars(array).get("data")  # none where it is only made when it is asked for
