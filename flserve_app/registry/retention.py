"""Which versions keep their content, as pure functions on values.

A rule says what may go; whatever it says, these stay: what a label stands at (`latest` is one), what clients hold
that were seen lately, and every payload that those need. Artifacts are kept or go, and versions with them:
two versions of the same content share its fate.

What a client holds is what it said, so it never costs much: of a model's versions that nothing else keeps, at most
`MOST_HELD` stay for clients, those that most of them hold first, then the newest; and one that would have to stand
alone from now on stays only as long as all such copies are smaller than what goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flserve_app.errors import StoreError
from flserve_app.registry.history import cheapest_chain
from flserve_app.store import Edge, Inventory, Removal, Version

MOST_HELD = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What may go. Without `keep` and `older_than` no version goes.

    Attributes:
        keep: So many of the newest versions of each model stay.
        older_than: Only versions published longer ago than this go.
        keep_labelled: Versions stay that a label of people's own ever stood at.
        forget_clients: Clients unseen for longer are forgotten, and what they held is not kept for them.

    Raises:
        StoreError: If a number or a time is negative.
    """

    keep: int | None = None
    older_than: timedelta | None = None
    keep_labelled: bool = False
    forget_clients: timedelta = timedelta(days=30)

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.keep is not None and self.keep < 0:
            raise StoreError(f"retention: keep must be at least 0, found {self.keep}")
        for name, time in (("older_than", self.older_than), ("forget_clients", self.forget_clients)):
            if time is not None and time < timedelta(0):
                raise StoreError(f"retention: {name} must not be negative, found {time}")


def kept_digests(
    inventory: Inventory, retention: Retention, now: datetime, keyframes: Iterable[Edge] = ()
) -> frozenset[str]:
    """Return the artifacts that stay, given the keyframes that were made for this."""
    digests = {(version.model, version.number): version.digest for version in inventory.versions}
    kept = {version.digest for version in _spared(inventory, retention, now)}
    kept |= {digests[model, number] for (model, _), number in inventory.labels.items()}
    if retention.keep_labelled:
        kept |= {digests[version] for version in inventory.former}
    forgotten = set(forgotten_clients(inventory, retention, now))
    made = {edge.target for edge in inventory.edges}
    kept &= made
    sizes = _copy_sizes(inventory, keyframes)
    for held in _held(inventory, forgotten, made - kept).values():
        kept = _affordable(kept, held, inventory, sizes)
    return frozenset(kept)


def forgotten_clients(inventory: Inventory, retention: Retention, now: datetime) -> tuple[tuple[str, str], ...]:
    """Return model and identity of the clients unseen for too long."""
    before = _earlier(now, retention.forget_clients)
    return tuple(
        (model, holder.identity)
        for model, holder in inventory.holders
        if holder.seen is not None and holder.seen < before
    )


def stranded(kept: Collection[str], inventory: Inventory) -> tuple[str, ...]:
    """Return the kept artifacts to make stand alone, so that every kept one can be made from kept ones only.

    The oldest comes first, and what can be made from it needs nothing: a chain cut in the middle gets one keyframe.
    """
    leaving: dict[str | None, list[str]] = {}
    for edge in _inner(kept, inventory.edges):
        leaving.setdefault(edge.base, []).append(edge.target)
    reached = _reach(None, leaving, set())
    found = []
    for digest in dict.fromkeys(version.digest for version in sorted(inventory.versions, key=lambda one: one.serial)):
        if digest in kept and digest not in reached:
            found.append(digest)
            _reach(digest, leaving, reached)
    return tuple(found)


def removal(inventory: Inventory, retention: Retention, now: datetime, keyframes: Iterable[Edge]) -> Removal:
    """Return what goes, given the keyframes that were made before.

    An artifact that needs a keyframe and has none (it was published a moment ago) keeps its chain.
    """
    keyframes = tuple(keyframes)
    kept = kept_digests(inventory, retention, now, keyframes)
    needed = set(stranded(kept, inventory))
    added = tuple(edge for edge in keyframes if edge.target in needed)
    staying = {edge.blob for edge in (*_inner(kept, inventory.edges), *added)}
    for digest in needed - {edge.target for edge in added}:
        staying |= {edge.blob for edge in cheapest_chain(digest, (*inventory.edges, *added))}
    going = tuple(edge for edge in inventory.edges if edge.blob not in staying)
    remain = {edge.target for edge in (*inventory.edges, *added) if edge.blob in staying}
    gone = frozenset(edge.target for edge in inventory.edges) - remain
    digests = {(version.model, version.number): version.digest for version in inventory.versions}
    return Removal(
        keyframes=added,
        edges=going,
        digests=gone,
        states=tuple(version for version in inventory.states if digests[version] in gone),
        clients=forgotten_clients(inventory, retention, now),
    )


def beyond(
    inventory: Inventory, retention: Retention, now: datetime, gone: Collection[str]
) -> tuple[tuple[Version, str], ...]:
    """Return the versions that the rule lets go and that have their content all the same, each with the reason."""
    spared = {version.serial for version in _spared(inventory, retention, now)}
    named: dict[tuple[str, int], list[str]] = {}
    for (model, label), number in inventory.labels.items():
        named.setdefault((model, number), []).append(label)
    held = {(model, holder.digest) for model, holder in inventory.holders}
    found = []
    for version in inventory.versions:
        key = version.model, version.number
        if version.serial in spared or version.collected or version.digest in gone:
            continue
        if key in named:
            reason = f"the label {', '.join(sorted(named[key]))} stands there"
        elif retention.keep_labelled and key in inventory.former:
            reason = "a label stood there"
        elif (version.model, version.digest) in held:
            reason = "a client holds it"
        else:
            reason = "another version has the same content, or needs it"
        found.append((version, reason))
    return tuple(found)


def _spared(inventory: Inventory, retention: Retention, now: datetime) -> Iterator[Version]:
    """Yield the versions that the rule itself spares."""
    newer: dict[str, int] = {}
    before = None if retention.older_than is None else _earlier(now, retention.older_than)
    for version in reversed(inventory.versions):
        rank = newer[version.model] = newer.get(version.model, -1) + 1
        beyond = retention.keep is None or rank >= retention.keep
        old = before is None or version.created < before
        if not (beyond and old) or (retention.keep is None and retention.older_than is None):
            yield version


def _earlier(now: datetime, time: timedelta) -> datetime:
    """Return when it was so long ago; nothing is older than the first year."""
    try:
        return now - time
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _held(
    inventory: Inventory, forgotten: Collection[tuple[str, str]], optional: Collection[str]
) -> dict[str, list[str]]:
    """Return what is to stay for the clients of each model, the most worthwhile first."""
    newest = {(version.model, version.digest): version.number for version in inventory.versions}
    holding = Counter(
        (model, holder.digest)
        for model, holder in inventory.holders
        if (model, holder.identity) not in forgotten and holder.digest in optional
    )
    found: dict[str, list[str]] = {}
    # A digest that is no version of the model is somebody else's, whatever the client said.
    for model, digest in sorted(holding.keys() & newest.keys(), key=lambda key: (-holding[key], -newest[key], key)):
        found.setdefault(model, []).append(digest)
    return {model: digests[:MOST_HELD] for model, digests in sorted(found.items())}


def _copy_sizes(inventory: Inventory, keyframes: Iterable[Edge]) -> dict[str, int]:
    """Return what each artifact takes that stands alone: if that was not made yet, as much as others of its model."""
    alone = {edge.target: edge.nbytes for edge in inventory.edges if edge.base is None}
    largest: dict[str, int] = {}
    for version in inventory.versions:
        largest[version.model] = max(largest.get(version.model, 0), alone.get(version.digest, 0))
    guessed = {version.digest: largest[version.model] or version.nbytes for version in inventory.versions}
    return guessed | {edge.target: edge.nbytes for edge in keyframes if edge.nbytes}


def _affordable(kept: set[str], held: Iterable[str], inventory: Inventory, whole: Mapping[str, int]) -> set[str]:
    """Return what is kept, with as much of what clients hold as makes the store no larger."""
    staying = {edge.blob for edge in _inner(kept, inventory.edges)}
    copies = sum(whole.get(digest, 0) for digest in stranded(kept, inventory))
    left = sum(edge.nbytes for edge in inventory.edges if edge.blob not in staying) - copies
    for digest in held:
        more = {*kept, digest}
        stays = sum(edge.nbytes for edge in _inner(more, inventory.edges) if edge.blob not in staying)
        cost = sum(whole.get(each, 0) for each in stranded(more, inventory)) - copies
        if cost <= 0 or cost + stays < left:
            kept = more
            staying = {edge.blob for edge in _inner(kept, inventory.edges)}
            copies, left = copies + cost, left - cost - stays
    return kept


def _inner(kept: Collection[str], edges: Iterable[Edge]) -> list[Edge]:
    """Return the edges both of whose ends are kept."""
    return [edge for edge in edges if edge.target in kept and (edge.base is None or edge.base in kept)]


def _reach(start: str | None, leaving: dict[str | None, list[str]], reached: set[str]) -> set[str]:
    """Add all that can be made from an artifact, and itself, to those that can be made."""
    queue: list[str | None] = [start]
    while queue:
        node = queue.pop()
        if node is not None:
            reached.add(node)
        queue += [target for target in leaving.get(node, ()) if target not in reached]
    return reached
