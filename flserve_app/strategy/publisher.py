"""The server's current version: what it is, how it got there, how others get to it.

Rules:
- A version is stored before anybody hears of it.
- The record handed to the strategy and the loop is made from the published artifact, or holds it, so that everything
  is computed from what clients hold. Where it is changed in place (`in_place`), clients are given what it holds.
- A payload that the store made for its history is delivered as it is, not made again.
- A first version whose `serving` has a seed is a recipe: clients that can build it need no download.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import final

from flwr.app import ArrayRecord

from flserve_app.artifact import Artifact
from flserve_app.client.recipe import Recipe, recipe_of
from flserve_app.client.records import to_record
from flserve_app.codec.lossy import Lossy, send
from flserve_app.delivery import CacheInfo, Plan, Step, whole
from flserve_app.errors import FlserveError, NotFound
from flserve_app.fleet import BASIC, RECIPE
from flserve_app.registry import Registry
from flserve_app.store import Serving, Version
from flserve_app.strategy.annex import State
from flserve_app.strategy.federation import Federation
from flserve_app.strategy.in_place import Artifacts
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.planner import Planner
from flserve_app.strategy.remainder import joined, parted
from flserve_app.strategy.step_payloads import StepPayloads


@final
class Publisher:
    """Publishes versions of one model and makes the payloads that lead to them.

    Args:
        registry: Where versions are stored.
        model: Name they are published under.
        codec: The delivery codec, an exact one: it leads from any version to any other.
        run: Id of the run, if there is one.
        serving: What serving a version takes; its seed, if any, is the first version's.
        lossy: How the codec rounds, if it does: then what is published is what everybody can decode.
        ledger: Where it is noted what rounding lost.
    """

    def __init__(
        self,
        registry: Registry,
        model: str,
        codec: str,
        run: str | None = None,
        serving: Serving | None = None,
        *,
        lossy: Lossy | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.model = model
        self.registry = registry
        self.codec = codec
        self._recorded = codec if lossy is None else lossy.name
        self.run = run
        self._serving = serving
        self._lossy = lossy
        self._ledger = ledger or Ledger()
        self._residual: Artifact | None = None
        self._payloads = StepPayloads(registry, self.base)
        rounded = None if lossy is None else lossy.name
        self._planner = Planner(registry, self._payloads.tied, codec, self._readable, rounded)
        self._recipe: Recipe | None = None
        self._artifacts = Artifacts()
        self._numbers: dict[str, int] = {}
        self._line: set[str] = set()
        self._own: set[int] = set()
        self.federation = Federation(registry, model)
        self._current: tuple[Version, Artifact, ArrayRecord] | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a version: published, or adopted from an earlier run."""
        return self._current is not None

    @property
    def version(self) -> Version:
        """The newest version."""
        return self._now[0]

    @property
    def artifact(self) -> Artifact:
        """The newest version's artifact."""
        return self._now[1]

    @property
    def record(self) -> ArrayRecord:
        """The newest version as the strategy and the loop see it."""
        return self._now[2]

    @property
    def _now(self) -> tuple[Version, Artifact, ArrayRecord]:
        if self._current is None:
            raise NotFound(f"model {self.model!r} has no version yet")
        return self._current

    def leased(self) -> AbstractContextManager[None]:
        """Return a block in which the run has the model's name to itself. Raises Conflict, StoreError."""
        return self.registry.leases.hold(self.model, self.run)

    def publish(self, artifact: Artifact, server_round: int, state: State | None = None) -> Version:
        """Store an artifact, rounded if the codec rounds, as the next version; make it current.

        Args:
            artifact: What was aggregated.
            server_round: The round that made it.
            state: Kind and bytes of what the strategy remembers.
        """
        if self._lossy is None or self._current is None:
            return self._store(artifact, server_round, state, None)
        rounding = self._lossy.at(server_round)
        sent = send(artifact, self.artifact, rounding, self._lossy.feedback, self._residual)
        self._ledger.rounded("down", sent.loss)
        delta = None if sent.artifact.digest == self.artifact.digest else sent.payload
        before = self.artifact.digest
        version = self._store(sent.artifact, server_round, joined(state, sent.residual), delta)
        self._residual = sent.residual
        if delta is not None:
            self._payloads.tied.put(Step(before, sent.artifact.digest, rounding.kind), delta)
        return version

    def recall(self, found: State | None, version: str) -> State | None:
        """Take the residual out of a version's state; return what is the strategy's. Raises StoreError."""
        state, self._residual = parted(found, version)
        return state

    def _store(self, artifact: Artifact, server_round: int, state: State | None, delta: bytes | None) -> Version:
        parent = None if self._current is None else self.version.number
        version = self.registry.publish(
            self.model,
            artifact,
            parent=parent,
            round=server_round,
            run=self.run,
            codec=self._recorded,
            serving=self._serving if parent is None or self._serving is None else replace(self._serving, seed=None),
            state_kind="" if state is None else state[0],
            state=None if state is None else state[1],
            delta=delta,
        )
        self._own.add(version.number)
        self.adopt(version, artifact)
        return version

    def adopt(self, version: Version, artifact: Artifact) -> None:
        """Make a version that is stored already the current one."""
        if self._current is None:
            self._offer_recipe(version)
        if self._current is None or version.parent != self.version.number:
            self._line = self._ancestors(version)
        self._line.add(version.digest)
        self._current = (version, artifact, to_record(artifact))
        self._numbers[version.digest] = version.number
        self._artifacts.begin(self.record, artifact)
        self._planner.moved()

    def go_on_in(self, record: ArrayRecord | None) -> ArrayRecord:
        """Return what the loop goes on with: a strategy's own record, if that is the newest version, as it may change.

        Args:
            record: Holds what was published, unless the codec rounds.
        """
        version, artifact, _ = self._now
        if record is not None and self._lossy is None:
            self._current = (version, artifact, record)
            self._artifacts.begin(record, artifact)
        return self.record

    def measured(self, metrics: Mapping[str, float]) -> None:
        """Add metrics to the newest version; what another run recorded with its own stays as it is."""
        number = self.version.number
        self.registry.add_metrics(self.model, number, metrics, keep=number not in self._own)

    def artifact_of(self, record: ArrayRecord) -> Artifact:
        """Return the artifact of a record that is about to be delivered, published or not."""
        return self._artifacts.of(record, self.artifact)

    def number_of(self, digest: str) -> int:
        """Return the number of a version this run published or began with; -1 for any other artifact."""
        return self._numbers.get(digest, -1)

    def leads_to_current(self, digest: str) -> bool:
        """Whether the newest version, or one that it came from, has this digest."""
        return digest in self._line

    @property
    def recipe(self) -> Recipe | None:
        """How the first version is built, if it can be."""
        return self._recipe

    def plan(self, held: tuple[str, ...], target: str, takes: frozenset[str] = BASIC) -> Plan:
        """Return the cheapest way to the target for a client that holds these digests and takes these things.

        Raises:
            FlserveError: If the target cannot be read.
        """
        return self._planner.plan(held, target, self.artifact.nbytes, takes)

    def deliver(
        self, held: tuple[str, ...], target: str, takes: frozenset[str] = BASIC
    ) -> tuple[Plan, dict[Step, bytes]]:
        """Return a plan and its payloads, in order; what cannot be read any more is avoided.

        Raises:
            FlserveError: If the target cannot be read.
        """
        while True:
            found = self.plan(held, target, takes)
            payloads = self._fetched(found, takes)
            if payloads is not None:
                return found, payloads

    def whole(self, target: str, takes: frozenset[str] = BASIC) -> tuple[Plan, dict[Step, bytes]]:
        """Return the plan that needs nothing, and its payload. Raises FlserveError."""
        found = whole(target, self.codec)
        return found, {step: self._payloads.get(step, takes) for step in found.steps}

    def base(self, digest: str) -> Artifact:
        """Return an artifact that was delivered.

        Raises:
            NotFound: If it is not stored.
        """
        if digest == self.version.digest:
            return self.artifact
        visiting = self._artifacts.get(digest)
        return self.registry.load(digest) if visiting is None else visiting

    def held_before(self) -> dict[str, str]:
        """Return what version of the model each client held when an earlier run last heard of it, by identity."""
        holders = self.registry.clients(self.model)
        ours = {version.digest for version in self.registry.versions(self.model)} if holders else set()
        return {holder.identity: holder.digest for holder in holders if holder.digest in ours}

    def cache_info(self) -> CacheInfo:
        """Return the counters of the payload cache."""
        return self._payloads.tied.info()

    def _fetched(self, found: Plan, takes: frozenset[str]) -> dict[Step, bytes] | None:
        """Return a plan's payloads; None if one is lost, which is then not planned with again."""
        payloads: dict[Step, bytes] = {}
        for step in found.steps:
            if step.codec == RECIPE:
                continue
            try:
                payloads[step] = self._payloads.get(step, takes)
            except FlserveError as error:
                if found.kind == "full":
                    raise
                self._planner.lose(step, error)
                return None
        return payloads

    def _ancestors(self, version: Version) -> set[str]:
        by_number = {each.number: each for each in self.registry.versions(self.model)}
        found, parent = set(), version.parent
        while parent is not None and parent in by_number:
            found.add(by_number[parent].digest)
            parent = by_number[parent].parent
        return found

    def _offer_recipe(self, version: Version) -> None:
        first = version if version.number == 0 else self.registry.versions(self.model)[0]
        self._recipe = recipe_of(first.serving)
        if self._recipe is not None:
            self._planner.offer_recipe(first.digest, len(self._recipe.to_json()))

    def _readable(self, digest: str) -> bool:
        if self._artifacts.get(digest) is not None or digest in self._numbers:
            return True
        try:
            return bool(self.registry.chain(digest))
        except NotFound:
            return False
