"""What could be sent, for `delivery.plan` to choose from.

Offers are the payloads of the history that lead to a target, those in the cache, a recipe for the first version,
and some that may have to be made: a direct delta from the first base that can be read, the whole artifact and, where
versions are rounded, a composed delta from that base. Rules:
- Plans are kept by what they depend on: clients that hold the same are planned once.
- What turned out to be unreadable is not offered again, nor anything relative to it.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import WARNING
from typing import final

from flwr.common.logger import log

from flserve_app.delivery import (
    Offer,
    Payloads,
    Plan,
    Step,
    exact,
    least_composed,
    least_direct,
    least_whole,
    plan,
    settles,
)
from flserve_app.errors import FlserveError
from flserve_app.fleet import RECIPE
from flserve_app.registry import Registry


@final
class Planner:
    """Plans for the clients of one model.

    Args:
        registry: Knows the history's payloads.
        payloads: Makes payloads and knows their bytes.
        codec: The delivery codec.
        readable: Whether an artifact can be read, to make a delta from it.
        rounded: Name of the codec that versions are rounded by, if they are.
    """

    def __init__(
        self,
        registry: Registry,
        payloads: Payloads,
        codec: str,
        readable: Callable[[str], bool],
        rounded: str | None = None,
    ) -> None:
        self._registry = registry
        self._payloads = payloads
        self._codec = codec
        self._readable = readable
        self._rounded = rounded
        self._recipe: Offer | None = None
        self._lost_steps: set[Step] = set()
        self._lost_bases: set[str] = set()
        self._last_whole: int | None = None
        self._least_direct: int | None = None
        self._history: dict[str, dict[Step, int]] = {}
        self._plans: dict[tuple[tuple[str, ...], str, frozenset[str]], Plan] = {}

    def offer_recipe(self, digest: str, nbytes: int) -> None:
        """Offer a recipe of so many bytes for an artifact."""
        self._recipe = Offer(step=Step(None, digest, RECIPE), nbytes=nbytes)

    def moved(self) -> None:
        """Forget plans: there is a new version, or what was there is gone."""
        self._plans.clear()
        self._history.clear()

    def lose(self, step: Step, error: FlserveError) -> None:
        """Note that a payload cannot be had; one line in the log."""
        self._lost_steps.add(step)
        if step.base is not None:
            self._lost_bases.add(step.base)
        log(WARNING, "flserve: %s is no base any more: %s", (step.base or step.target)[:12], error)
        self._plans.clear()

    def plan(self, held: tuple[str, ...], target: str, nbytes: int, takes: frozenset[str]) -> Plan:
        """Return the cheapest plan, every payload of it measured.

        Args:
            held: Digests of what the client holds, the preferred base first.
            target: Digest of what it shall hold.
            nbytes: Bytes of the target's tensors.
            takes: What the client can be sent.

        Raises:
            FlserveError: If the target cannot be read.
        """
        key = held, target, takes
        if key not in self._plans:
            self._plans[key] = self._measured(held, target, nbytes, takes)
        return self._plans[key]

    def _measured(self, held: tuple[str, ...], target: str, nbytes: int, takes: frozenset[str]) -> Plan:
        while True:
            usable = tuple(digest for digest in held if digest == target or digest not in self._lost_bases)
            found = plan(usable, target, self._codec, self._offers(usable, target, nbytes, takes), takes)
            if found.unknown is None:
                return found
            self._measure(found.unknown)

    def _measure(self, step: Step) -> None:
        try:
            nbytes = len(self._payloads.get(step))
        except FlserveError as error:
            if step.base is None:
                raise
            self.lose(step, error)
            return
        if step.base is None:
            self._last_whole = nbytes
        elif step.codec != self._rounded:
            self._least_direct = min(nbytes, self._least_direct or nbytes)

    def _offers(self, held: tuple[str, ...], target: str, nbytes: int, takes: frozenset[str]) -> list[Offer]:
        known = {**self._stored(target), **self._payloads.kept()}
        offers = [Offer(step=step, nbytes=size) for step, size in known.items() if not self._is_lost(step)]
        if self._recipe is not None:
            offers.append(self._recipe)
        last = self._last_whole or max((size for step, size in known.items() if step.base is None), default=nbytes)
        to_make = {Step(None, target, exact(self._codec)): least_whole(last)}
        base = self._base(held, takes)
        if base is not None:
            settled = False
            if self._rounded is not None and self._rounded in takes:
                composed = Step(base, target, self._rounded)
                links = (size for step, size in known.items() if step.target == target and step.base is not None)
                to_make[composed] = least_composed(last, min(links, default=None))
                settled = settles(last, known.get(composed, self._payloads.size(composed)))
            direct = Step(base, target, exact(self._codec))
            if not settled or self._payloads.size(direct) is not None:
                to_make[direct] = least_direct(last, self._least_direct)
        for made, least in to_make.items():
            if made not in known:
                size = self._payloads.size(made)
                offers.append(Offer(step=made, nbytes=least if size is None else size, known=size is not None))
        return offers

    def _base(self, held: tuple[str, ...], takes: frozenset[str]) -> str | None:
        """Return what a direct delta may be made from: one base at most, so that a client costs one encode."""
        rebuilt = (self._recipe.step.target,) if self._recipe is not None and RECIPE in takes else ()
        usable = (digest for digest in (*held, *rebuilt) if digest not in self._lost_bases)
        return next((digest for digest in usable if self._readable(digest)), None)

    def _stored(self, target: str) -> dict[Step, int]:
        if target not in self._history:
            edges = self._registry.edges(target)
            self._history[target] = {Step(edge.base, edge.target, edge.codec): edge.nbytes for edge in edges}
        return self._history[target]

    def _is_lost(self, step: Step) -> bool:
        return step in self._lost_steps or step.base in self._lost_bases
