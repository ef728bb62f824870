"""A model's history, begun or gone on with by one call of `start`.

Rules:
- A first start begins a new history, or goes on with one that is in the store when asked to (`resumed`).
- A second start of the same strategy goes on from where the first one ended: with the arrays that it is given, which
  are a version of their own if they are others. Nobody may have published between the two.
- What is remembered goes with every version, in the same transaction.
"""

from __future__ import annotations

from typing import Any, final

from flwr.serverapp.strategy import Strategy

from flserve_app.artifact import Artifact
from flserve_app.registry import Registry
from flserve_app.store import Version
from flserve_app.strategy.grid import VersionedGrid
from flserve_app.strategy.initial import as_artifact, check_initial, check_same_form, check_unmoved
from flserve_app.strategy.opening import PYTHON, check_name
from flserve_app.strategy.private_part import PrivatePart
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.resumed import check_same_model, tell_resumed
from flserve_app.strategy.settlements import Settlements
from flserve_app.strategy.state import restore_state, save


@final
class History:
    """The versions of one strategy's model, with what is remembered beside each.

    Args:
        registry: Where they are stored.
        publisher: Publishes them.
        strategy: What remembers something of its own.
        private: What of the model stays with the clients.
        settlements: Which updates were aggregated.
        resume: Whether to go on with what is in the store.

    Attributes:
        again: Whether the start that was opened last is not the first one.
    """

    def __init__(
        self,
        registry: Registry,
        publisher: Publisher,
        strategy: Strategy,
        *,
        private: PrivatePart,
        settlements: Settlements,
        resume: bool,
    ) -> None:
        self._registry = registry
        self._publisher = publisher
        self._strategy = strategy
        self._private = private
        self._settlements = settlements
        self._resume = resume
        self.again = False

    def open(self, initial: Any) -> tuple[Version | None, Artifact]:
        """Return the version that a start goes on from, None for a new history, and the model that it begins with.

        Args:
            initial: The initial arrays that it was given.

        Raises:
            ConfigError: If they are none, or another model than the history's.
            Conflict: If there is a history and it is not to be resumed, or somebody else went on with it.
        """
        check_initial(initial)
        self.again = self._publisher.begun
        if self.again:
            latest = check_unmoved(self._registry, self._publisher.version)
            return latest, self._private.shared(
                as_artifact(initial, like=self._private.whole(self._publisher.artifact))
            )
        found = check_name(self._registry, self._publisher.model, resume=self._resume, words=PYTHON)
        if found is None:
            return None, self._private.begin(as_artifact(initial))
        return found, self._restored(found, initial)

    def begin(
        self, grid: VersionedGrid, latest: Version | None, first: Artifact, asked: int | None, *, new: bool
    ) -> None:
        """Publish the model that a start begins with, unless it is the newest version.

        Args:
            grid: Knows the clients that are there.
            latest: The version it goes on from.
            first: The model it begins with.
            asked: Rounds that it is to do; None if that is not known.
            new: Whether none of these rounds is done.
        """
        if latest is None:
            self._publisher.publish(first, 0, self._private.attached(None))
        elif not self.again:
            self._publisher.adopt(latest, first)
            earlier, untold = self._publisher.held_before(), self._settlements.owed()
            rounds = latest.round + 1 if asked is None else asked
            tell_resumed(latest, rounds, grid.fleet, earlier=earlier, private=self._private.key, untold=untold)
        elif new and first.digest != self._publisher.artifact.digest:
            check_same_form(first, self._publisher.artifact, latest)
            self.publish(first, latest.round)

    def publish(self, artifact: Artifact, server_round: int) -> None:
        """Make an artifact the next version, with what is remembered."""
        state = self._private.attached(self._settlements.attached(save(self._strategy)))
        self._publisher.publish(artifact, server_round, state)

    def _restored(self, latest: Version, initial: Any) -> Artifact:
        """Return the version, after publisher and strategy got what they remembered; that may be nothing yet."""
        name, artifact = f"{latest.model} {latest.name}", self._registry.load(latest.digest)
        found = self._publisher.recall(self._registry.load_state(latest.model, latest.number), name)
        found = self._private.recall(found, name, artifact)
        check_same_model(initial, self._private.whole(artifact), latest)
        if latest.round:
            restore_state(self._strategy, self._settlements.recall(found, name), name)
        return artifact
