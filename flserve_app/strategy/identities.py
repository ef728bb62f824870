"""Whose an identity is: it belongs to the node, or the key, that said it first.

An identity decides about the order of clients, about bases, and about which updates a client is told of; any node can
say any. Rules:
- A node has one identity in a run, the first that it says. The name of a node, its own or another's, is none: who
  could not read its identity at first says its own name, and gets its identity when it says it.
- Of the nodes that say one identity it belongs to the first that is connected. So a SuperNode that restarts, which
  gets a new node id, has its identity again once its old node is gone.
- Where the operator registered a node's key (Flower authenticates it), its identity belongs to the key: a new node of
  that key has it at once, one of another key never in this run. Keys that SuperNodes make up anew at each start
  (owned by nobody) say nothing.
- `node-<id>` is the node's own name. A node whose identity is not its own goes by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import final

from flwr.common.constant import NOOP_FLWR_AID
from flwr.serverapp import Grid

HINT = "two SuperNodes with one partition-id, or one cache directory?"
_NODE = re.compile(r"node-[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """What a node goes by.

    Attributes:
        identity: Its identity, or its own name.
        why: Why that is not what it said; empty if it is.
    """

    identity: str
    why: str = ""


@final
class Identities:
    """Who said what, in one run."""

    def __init__(self) -> None:
        self._said: dict[int, str] = {}
        self._sayers: dict[str, list[int]] = {}
        self._keys: dict[int, bytes] = {}

    def know(self, keys: Mapping[int, bytes]) -> None:
        """Note the authenticated keys of nodes."""
        self._keys.update(keys)

    def said(self, node_id: int, identity: str, connected: Callable[[], Container[int]]) -> Name:
        """Return what a node goes by that says an identity.

        Args:
            node_id: The node.
            identity: What it says now.
            connected: Gives the nodes that are connected; asked only where two say the same.
        """
        if node_id not in self._said and _NODE.fullmatch(identity):
            why = "" if identity == own_name(node_id) else "which is another node's own name"
            return Name(identity=own_name(node_id), why=why)
        first = self._first(node_id, identity)
        owner = self._owner(first, node_id, connected)
        if owner != node_id:
            return Name(identity=own_name(node_id), why=f"which node {owner} said first ({HINT})")
        return Name(identity=first, why="" if identity == first else f"it said it is {first} before")

    def _first(self, node_id: int, identity: str) -> str:
        if node_id not in self._said:
            self._said[node_id] = identity
            self._sayers.setdefault(identity, []).append(node_id)
        return self._said[node_id]

    def _owner(self, identity: str, node_id: int, connected: Callable[[], Container[int]]) -> int:
        sayers = self._sayers[identity]
        if key := self._keys.get(sayers[0]):
            return next(sayer for sayer in reversed(sayers) if self._keys.get(sayer) == key)
        if sayers[0] == node_id:
            return node_id
        there = connected()
        return next(sayer for sayer in sayers if sayer == node_id or sayer in there)


def own_name(node_id: int) -> str:
    """Return the name of a node that has no identity."""
    return f"node-{node_id}"


def registered_keys(grid: Grid) -> dict[int, bytes]:
    """Return the keys that the operator registered, by node; none where the Grid does not say."""
    try:
        registered = [node for node in grid.get_nodes() if node.public_key and node.owner_aid != NOOP_FLWR_AID]
        return {node.node_id: node.public_key for node in registered}
    except Exception:  # noqa: BLE001 a Grid of somebody's own need not know: identities then belong to nodes
        return {}
