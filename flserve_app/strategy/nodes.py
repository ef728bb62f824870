"""Waiting for the clients before the first round.

The ServerApp starts before the nodes are registered, and Flower's strategies size their sample before they
wait. So the first round begins when the expected number of nodes is there. A simulation's nodes say themselves how
many there will be: what most of those who answered say counts, so that no single one keeps a run from starting.
"""

from __future__ import annotations

import time
from logging import INFO, WARNING
from typing import final

from flwr.common.logger import log
from flwr.serverapp import Grid

from flserve_app.errors import DeliveryError
from flserve_app.strategy.grid import VersionedGrid
from flserve_app.strategy.roster import HELLO_SECONDS

POLL_SECONDS = 0.2
SAY_SECONDS = 10.0
SETTLE_SECONDS = 30.0
STILL_SECONDS = 1.0
_EXPECTING, _NOBODY, _CONNECTED, _HEARD = range(4)


def wait_for_nodes(grid: VersionedGrid, expected: int | None, timeout: float) -> list[int]:
    """Wait until the nodes are there, and greet them.

    Args:
        grid: The grid to ask.
        expected: Number of nodes to wait for; None for as many as most of the nodes know of.
        timeout: Seconds to wait for the expected number.

    Returns:
        The node ids in the order of the clients' identities.

    Raises:
        DeliveryError: If fewer than expected come.
    """
    nodes, wanted = _gather(grid, expected, timeout)
    grid.meet(nodes)
    if len(nodes) < wanted:
        if expected is not None or not nodes:
            hint = _hint(wanted, grid.partitions(nodes))
            raise DeliveryError(f"{wanted} clients are expected, {len(nodes)} connected within {timeout:.0f} s{hint}")
        log(WARNING, "flserve: %d of %d nodes connected; going on with them", len(nodes), wanted)
    log(INFO, "flserve: %d clients connected", len(nodes))
    return list(grid.get_node_ids())


@final
class _Said:
    """Says every few seconds that clients are waited for, since a wait without a word looks like a fault."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def waiting(self, connected: int, expected: int | None, answered: int | None = None) -> None:
        """Say so, if it is time: how many are connected, of how many, and how many of them answered the greeting."""
        if time.monotonic() - self._last >= SAY_SECONDS:
            self._last = time.monotonic()
            of = "" if expected is None else f" of {expected}"
            ready = f", {answered} ready" if connected and answered is not None else ""
            # A warning, because `flserve run` shows nothing less while it runs.
            log(WARNING, "flserve: waiting for clients: %d%s connected%s", connected, of, ready)


def _gather(grid: VersionedGrid, expected: int | None, timeout: float) -> tuple[list[int], int]:
    """Return the nodes that are there once they are enough or time is up, and how many would have been enough."""
    since, stage, said = time.monotonic(), _NOBODY, _Said()
    while True:
        nodes = grid.connected()
        grid.meet(nodes, 0.0)
        told = grid.partitions(nodes)
        wanted = expected or max(told, 1)
        before, stage = stage, _stage(grid, nodes, expected)
        if len(nodes) >= wanted and stage in (_EXPECTING, _HEARD):
            return nodes, wanted
        if stage == _EXPECTING and 1 < told == len(nodes):  # one node alone could say so to end the run
            raise DeliveryError(f"{expected} clients are expected{_hint(wanted, told)}")
        if stage != before and stage != _EXPECTING:
            since = time.monotonic()
        longest = {_CONNECTED: HELLO_SECONDS, _HEARD: SETTLE_SECONDS}.get(stage, timeout)
        if time.monotonic() - since >= min(timeout, longest):
            return nodes, wanted
        ready = None if stage == _EXPECTING else sum(node_id in grid.fleet.clients for node_id in nodes)
        said.waiting(len(nodes), expected, ready)
        time.sleep(POLL_SECONDS)


def _stage(grid: VersionedGrid, nodes: list[int], expected: int | None) -> int:
    """Return what is waited for: a known number, or any node, or any answer, or the number that was answered."""
    if expected is not None:
        return _EXPECTING
    if not nodes:
        return _NOBODY
    return _HEARD if any(node_id in grid.fleet.clients for node_id in nodes) else _CONNECTED


def _hint(wanted: int, told: int) -> str:
    """Return what the nodes say of a federation that is too small; nothing of any other."""
    if not 0 < told < wanted:
        return ""
    return f", the federation has {told}: run with --federation-config 'num-supernodes={wanted}' or num_clients={told}"


def count_nodes(grid: Grid, timeout: float) -> int:
    """Return how many nodes a federation has: all that are connected once their number stands still.

    Raises:
        DeliveryError: If none connects.
    """
    deadline = time.monotonic() + timeout
    nodes, before, still, said = 0, -1, time.monotonic(), _Said()
    while time.monotonic() < deadline:
        nodes = len(list(grid.get_node_ids()))
        if nodes != before:
            before, still = nodes, time.monotonic()
        if nodes and time.monotonic() - still >= STILL_SECONDS:
            return nodes
        said.waiting(nodes, None)
        time.sleep(POLL_SECONDS)
    if nodes:
        return nodes
    raise DeliveryError(
        f"no client connected within {timeout:.0f} s: start SuperNodes, or see that they reach this SuperLink"
    )
