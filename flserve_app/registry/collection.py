"""Collecting: what nobody needs goes, and what stays can be made from what stays.

In this order: artifacts that will stand alone are encoded and made durable; one transaction decides again, adds
their edges, removes those that are not needed and marks what was collected; then blobs that nothing names are
removed. A crash in between leaves blobs without a name, which the next collection removes. Publishers and other
collections go on meanwhile (see `claims` in store); what one built on something that goes is prepared again
(`insist`). A collection that others overtake every time leaves chains as they are: it removes less, and nothing wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from flserve_app.errors import NotFound, Overtaken
from flserve_app.registry.garbage import check_removable
from flserve_app.registry.insist import insist
from flserve_app.registry.registry import Registry
from flserve_app.registry.retention import Retention, beyond, kept_digests, removal, stranded
from flserve_app.store import Edge, Inventory, Remover, Sweeper, Version
from flserve_app.store.removal import Removal

GRACE = timedelta(hours=1)
LEFTOVER_GRACE = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What was collected, or would be.

    Attributes:
        versions: Those whose content went.
        kept: How many versions have content.
        spared: Those of them that the rule would let go, each with what keeps it.
        keyframes: How many artifacts were made to stand alone; they may take bytes of their own.
        clients: (model, identity) of the forgotten clients.
        blobs: How many blobs went, payloads and states and those without a name.
        nbytes: Bytes of the blobs that went.
        leftovers: How many files that crashes left behind went.
    """

    versions: tuple[Version, ...]
    kept: int
    spared: tuple[tuple[Version, str], ...]
    keyframes: int
    clients: tuple[tuple[str, str], ...]
    blobs: int
    nbytes: int
    leftovers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Old:
    """Up to when blobs without a name, and leftovers, are old."""

    blobs: datetime
    leftovers: datetime


def collect(
    registry: Registry,
    retention: Retention,
    *,
    grace: timedelta = GRACE,
    leftover_grace: timedelta = LEFTOVER_GRACE,
    dry_run: bool = False,
) -> Collection:
    """Remove what a rule lets go from a store.

    Args:
        registry: The store.
        retention: The rule.
        grace: How long blobs without a name are left alone. Their publisher may still name them: if they go,
            he notices and puts them again, so any time is safe.
        leftover_grace: How long unfinished files are left alone; longer than writing one takes.
        dry_run: Only say what would go.

    Raises:
        FlserveError: If an artifact that stays is damaged and was to stand alone; then nothing was removed.
        StoreError: If the store cannot be written, or what it holds cannot be told from garbage.
    """
    check_removable(registry)
    now = registry.clock()
    old = _Old(blobs=now - grace, leftovers=now - leftover_grace)
    if dry_run:
        inventory = registry.catalog.inventory()
        needed = stranded(kept_digests(inventory, retention, now), inventory)
        unmade = [Edge(target=digest, base=None, codec="", blob=f"to {digest}", nbytes=0) for digest in needed]
        return _outcome(registry, inventory, removal(inventory, retention, now, unmade), old, retention, now)
    before, done = _remove(registry, retention, now)
    registry.archive.forget(done.digests)
    freed = [edge.blob for edge in done.edges] + [before.states[version].blob for version in done.states]
    outcome = _outcome(registry, before, done, old, retention, now)
    Sweeper(registry.database, registry.blobs).sweep([*freed, *registry.blobs.put_before(old.blobs)])
    registry.blobs.tidy(old.leftovers)
    return outcome


def _remove(registry: Registry, retention: Retention, now: datetime) -> tuple[Inventory, Removal]:
    try:
        return insist(lambda: _apply(registry, retention, now, _keyframes(registry, retention, now)))
    except Overtaken:
        return _apply(registry, retention, now, [])


def _keyframes(registry: Registry, retention: Retention, now: datetime) -> list[Edge]:
    """Make the artifacts that stay stand alone; what another collection took meanwhile needs it no more."""
    found = registry.catalog.inventory()
    made = []
    for digest in stranded(kept_digests(found, retention, now), found):
        try:
            made.append(registry.archive.keyframe(digest))
        except NotFound:
            if registry.catalog.edges_behind(digest):
                raise
    return made


def _apply(
    registry: Registry, retention: Retention, now: datetime, keyframes: Iterable[Edge]
) -> tuple[Inventory, Removal]:
    seen: list[Inventory] = []

    def decide(inventory: Inventory) -> Removal:
        seen.append(inventory)
        return removal(inventory, retention, now, keyframes)

    done = Remover(registry.database, holds=registry.blobs.has).apply(decide, now=now)
    return seen[-1], done


def _outcome(
    registry: Registry, inventory: Inventory, done: Removal, old: _Old, retention: Retention, now: datetime
) -> Collection:
    """Return what a removal comes to; called before the blobs go."""
    versions = tuple(version for version in inventory.versions if version.digest in done.digests)
    named = {edge.blob for edge in inventory.edges} | {state.blob for state in inventory.states.values()}
    going = {edge.blob for edge in done.edges} | {inventory.states[version].blob for version in done.states}
    going -= {state.blob for version, state in inventory.states.items() if version not in set(done.states)}
    fresh = {edge.blob for edge in done.keyframes}
    going |= {blob for blob in registry.blobs.put_before(old.blobs) if blob not in named and blob not in fresh}
    return Collection(
        versions=versions,
        kept=sum(not version.collected for version in inventory.versions) - len(versions),
        spared=beyond(inventory, retention, now, done.digests),
        keyframes=len(done.keyframes),
        clients=done.clients,
        blobs=len(going),
        nbytes=_nbytes(registry, going),
        leftovers=len(list(registry.blobs.leftovers(old.leftovers))),
    )


def _nbytes(registry: Registry, blobs: Iterable[str]) -> int:
    found = 0
    for blob in blobs:
        with suppress(NotFound):  # lost, or taken by another collection
            found += registry.blobs.size(blob)
    return found
