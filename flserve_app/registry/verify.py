"""Checking a store: every blob, every payload, every version, label, parent and state.

Every artifact is made once from its payloads and measured by its digest, a few in memory at a time (`derive`).
A version is good if its content can be made, collected if it was let go, and lost otherwise. A payload that is
damaged or gone though its artifact can be made another way costs nothing but itself: it can be put back. Orphans,
blobs that nothing names, are no damage: a crash or a publisher at work leaves them. Nor is what a writer removes or
replaces during the check (`examine`). A payload that a version needs is no orphan: a repair names it again (`unnamed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from flserve_app.codec import CODECS, encode_composed, encode_parts
from flserve_app.errors import FlserveError, NotFound
from flserve_app.registry.examine import Examined, examine
from flserve_app.registry.garbage import NAMES_NOTHING, names_nothing, shared
from flserve_app.registry.registry import Registry
from flserve_app.registry.unnamed import misjudged, name_again, unnamed
from flserve_app.store import Edge, Inventory, Version

Condition = Literal["good", "collected", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A blob that is not what the catalog says.

    Attributes:
        blob: Its digest.
        what: What it is: the payload or state of what.
        reason: What is wrong.
        missing: Whether it is gone, rather than damaged.
        spare: Whether what it makes can be made without it.
        repaired: Whether it was put back.
        state: Whether it is a state, which no payload makes.
    """

    blob: str
    what: str
    reason: str
    missing: bool
    spare: bool
    repaired: bool = False
    state: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One version and its condition; `reason` says why it is lost."""

    version: Version
    condition: Condition
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found.

    Attributes:
        findings: One a version, by model and number.
        damage: Blobs that are damaged or gone.
        problems: What else does not hold together, a sentence each.
        payloads: How many payloads were read.
        nbytes: Their bytes.
        orphans: Digests of blobs that nothing names.
        named: How many payloads were named again.
    """

    findings: tuple[Finding, ...]
    damage: tuple[Damage, ...]
    problems: tuple[str, ...]
    payloads: int
    nbytes: int
    orphans: tuple[str, ...]
    named: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, or not any more."""
        lost = any(finding.condition == "lost" for finding in self.findings)
        return not (lost or self.problems or any(not one.repaired for one in self.damage))


def verify(registry: Registry, *, model: str | None = None, repair: bool = False) -> Report:
    """Check a store.

    Args:
        registry: The store; others may go on using it.
        model: Check the versions of this model only, and the payloads behind them.
        repair: Name payloads again that versions need, and put back those whose artifact can be made another way.

    Raises:
        StoreError: If the catalog cannot be read, or is to be repaired and cannot be written.
    """
    report, inventory = _check(registry, model)
    if not repair:
        return report
    if named := 0 if report.clean else name_again(registry, (one.blob for one in report.damage)):
        report, inventory = _check(registry, model)
    edges = {edge.blob: edge for edge in inventory.edges}
    damage = tuple(replace(one, repaired=one.spare and _put_back(registry, edges[one.blob])) for one in report.damage)
    return replace(report, damage=damage, named=named)


def _check(registry: Registry, model: str | None) -> tuple[Report, Inventory]:
    blobs = set(registry.blobs)  # before the names: what is put later is nobody's orphan
    found = examine(registry, model)
    inventory = found.inventory
    there = {version.serial for version in found.first.versions if model in (None, version.model)}
    chosen = [version for version in inventory.versions if version.serial in there]
    named = {edge.blob for one in (found.first, inventory) for edge in one.edges}
    named |= {state.blob for one in (found.first, inventory) for state in one.states.values()}
    emptied = not inventory.versions and names_nothing(registry)
    report = Report(
        findings=tuple(_finding(version, found.sizes, inventory.edges, found.failed) for version in chosen),
        damage=(*_damage(registry, inventory.edges, found.failed, found.sizes), *_state_damage(found)),
        problems=(
            *registry.database.check(),
            *found.told,
            *_problems(inventory, chosen, model, emptied),
            *_row_problems(registry, found),
        ),
        payloads=len(found.edges),
        nbytes=sum(edge.nbytes for edge in found.edges),
        orphans=tuple(sorted(blob for blob in blobs - named if registry.blobs.has(blob))),
    )
    return report, inventory


def _finding(
    version: Version, sizes: Mapping[str, int], edges: Iterable[Edge], failed: Mapping[str, FlserveError]
) -> Finding:
    size = sizes.get(version.digest)
    if size == version.nbytes:
        return Finding(version=version, condition="good")
    if size is not None:
        reason = f"its content has {size} bytes, the catalog says {version.nbytes}"
        return Finding(version=version, condition="lost", reason=reason)
    if version.collected is not None:
        return Finding(version=version, condition="collected")
    errors = [failed[edge.blob] for edge in edges if edge.target == version.digest and edge.blob in failed]
    return Finding(version=version, condition="lost", reason=str(errors[0]) if errors else "no payload leads to it")


def _damage(
    registry: Registry, edges: Iterable[Edge], failed: Mapping[str, FlserveError], sizes: Mapping[str, int]
) -> Iterator[Damage]:
    """Yield the payloads that failed by themselves, not for want of their base."""
    for edge in edges:
        if edge.blob not in failed:
            continue
        missing = not registry.blobs.has(edge.blob)
        based = edge.base is None or edge.base in sizes
        if based or missing or _is_damaged(registry, edge):
            way = "from nothing" if edge.base is None else f"from {edge.base[:12]}"
            yield Damage(
                blob=edge.blob,
                what=f"payload to {edge.target[:12]} {way}",
                reason=str(failed[edge.blob]) if based else "it is gone" if missing else "its SHA-256 is another",
                missing=missing,
                spare=edge.target in sizes and based,
            )


def _is_damaged(registry: Registry, edge: Edge) -> bool:
    try:
        registry.blobs.view(edge.blob, max_bytes=edge.nbytes)
    except FlserveError:
        return True
    return False


def _state_damage(found: Examined) -> Iterator[Damage]:
    for (owner, number), error in found.states.items():
        state = found.inventory.states[owner, number]
        yield Damage(
            blob=state.blob,
            what=f"state of {owner} v{number} ({state.kind})",
            reason=str(error),
            missing=isinstance(error, NotFound),
            spare=False,
            state=True,
        )


def _problems(inventory: Inventory, chosen: Iterable[Version], model: str | None, emptied: bool) -> Iterator[str]:
    if emptied:
        yield NAMES_NOTHING
    numbers = {(version.model, version.number): version for version in inventory.versions}
    for (owner, label), number in inventory.labels.items():
        if model in (None, owner):
            stands = numbers.get((owner, number))
            if stands is None or stands.collected is not None:
                what = "which is not there" if stands is None else "whose content was collected"
                yield f"label {label!r} of {owner!r} stands at v{number}, {what}"
    for version in chosen:
        parent = version.parent
        if parent is not None and ((version.model, parent) not in numbers or parent >= version.number):
            yield f"{version.model} {version.name} has the parent v{parent}, which is no earlier version"


def _row_problems(registry: Registry, found: Examined) -> Iterator[str]:
    """Yield what rows of payloads and states say that their blobs do not."""
    inventory = found.inventory
    damaged = {*found.failed, *(inventory.states[place].blob for place in found.states)}
    count = Counter(edge.blob for edge in inventory.edges)
    yield from (f"payload {blob[:12]} has {times} rows" for blob, times in count.items() if times > 1)
    yield from shared(inventory)
    yield from (told for blob, told in misjudged(registry, inventory) if blob not in damaged)
    if lost := unnamed(registry, inventory).payloads:
        yield f"versions are lost that payloads without a row, or with a wrong one, lead to: {len(lost)} (--repair)"


def _put_back(registry: Registry, edge: Edge) -> bool:
    """Make a payload again, and keep it if it is the same to the last bit.

    Of half floats the steps that a version was rounded by are not always to be found again.
    """
    if edge.codec not in CODECS:
        return False
    target = registry.archive.load(edge.target)
    base = None if edge.base is None else registry.archive.load(edge.base)
    # What a codec that rounds made is found in the two artifacts: rounding again would lead to a third.
    # In stores of releases before no tensor is tied to another.
    for ties in (True, False):
        if base is None or CODECS[edge.codec].exact:
            parts = encode_parts(target, base, edge.codec, ties=ties)
        else:
            parts = iter((encode_composed(target, base, edge.codec, ties=ties),))
        with registry.blobs.writing(parts) as payload:
            if payload.digest == edge.blob:
                payload.keep()
                return True
    return False
