"""Waiting for the clients before the first round.

The ServerApp starts before the nodes are registered, and Flower's strategies size their sample before they
wait. So the first round begins when the expected number of nodes is there; a simulation's nodes say
themselves how many there will be.
"""

from __future__ import annotations

import time
from logging import INFO, WARNING

from flwr.common.logger import log
from flwr.serverapp import Grid

from flserve_app.errors import DeliveryError
from flserve_app.strategy.grid import VersionedGrid

POLL_SECONDS = 0.2
SETTLE_SECONDS = 30.0
STILL_SECONDS = 1.0


def wait_for_nodes(grid: VersionedGrid, expected: int | None, timeout: float) -> list[int]:
    """Wait until the nodes are there, and greet them.

    Args:
        grid: The grid to ask.
        expected: Number of nodes to wait for; None for as many as the nodes themselves know of.
        timeout: Seconds to wait for the expected number.

    Returns:
        The node ids in the order of the clients' identities.

    Raises:
        DeliveryError: If fewer than expected come.
    """
    deadline = time.monotonic() + timeout
    nodes = _wait(grid, 1, deadline)
    known = grid.meet(nodes)
    if expected is not None and 0 < known < expected:
        raise DeliveryError(
            f"{expected} clients are expected, the federation has {known}: "
            f"run with --federation-config 'num-supernodes={expected}' or num_clients={known}"
        )
    wanted = expected or max(known, 1)
    nodes = _wait(grid, wanted, deadline if expected else time.monotonic() + min(timeout, SETTLE_SECONDS))
    if len(nodes) < wanted:
        if expected is not None or not nodes:
            raise DeliveryError(f"{wanted} clients are expected, {len(nodes)} connected within {timeout:.0f} s")
        log(WARNING, "flserve: %d of %d nodes connected; going on with them", len(nodes), wanted)
    log(INFO, "flserve: %d clients connected", len(nodes))
    return list(grid.get_node_ids())


def count_nodes(grid: Grid, timeout: float) -> int:
    """Return how many nodes a federation has: all that are connected once their number stands still.

    Raises:
        DeliveryError: If none connects.
    """
    deadline = time.monotonic() + timeout
    nodes, before, still = 0, -1, time.monotonic()
    while time.monotonic() < deadline:
        nodes = len(list(grid.get_node_ids()))
        if nodes != before:
            before, still = nodes, time.monotonic()
        if nodes and time.monotonic() - still >= STILL_SECONDS:
            return nodes
        time.sleep(POLL_SECONDS)
    if nodes:
        return nodes
    raise DeliveryError(f"no client connected within {timeout:.0f} s")


def _wait(grid: VersionedGrid, wanted: int, deadline: float) -> list[int]:
    while len(nodes := grid.connected()) < wanted and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return nodes
