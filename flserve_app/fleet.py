"""What the server knows of its clients: values and pure updates, no IO, no clock.

Rules:
- A client is reached at a node and named by its identity; nodes come and go, the identity stays.
- *Held* advances only on the client's own verified word, and is what the next payload may be relative to.
- The order of clients is that of their identities, numbers by value (`partition-2` before `partition-10`):
  node ids are random in every run, so nothing that must repeat may depend on them.
- A fleet never changes, and a word of one client makes a new one: what did not change is shared (`ClientMap`), as
  every client of a round gives a word or two.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import final

CHAIN = "chain"
RECIPE = "recipe"
PRIVATE = "private"
EMPTY = "empty"
BESIDE = "beside"
TIED = "tied"
INLINE = "inline"
PLAIN = "plain"
BASIC = frozenset({"full", "lossless", "lossless-small"})
SHARDS = 512  # a change copies one of them, and the list of all
_DIGITS = re.compile(r"([0-9]{1,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client as the server knows it.

    Attributes:
        node_id: Flower's id of the node it is reached at.
        identity: Its stable name; `node-<id>` for a client that has not said one.
        versioned: Whether it speaks the delivery protocol; if not, it gets plain arrays.
        held: Hex digests of the artifacts it said it holds.
        version: Number of the newest version it worked with; None before the first.
        last_round: Round of its last answer.
        takes: What it can be sent: `chain` (several payloads in one delivery), `recipe` (a model to build), `private`
            (a model of which it keeps a part to itself), `tied` (payloads in which a tensor refers to an earlier one),
            `inline` (small payloads in the ConfigRecord), `beside` (payloads of further records) and names of codecs;
            `empty` says that it carries nothing of earlier updates. One that never said so takes what all releases
            took.
        keeps: Key of the layout of the private tensors that it keeps; empty if it keeps none.
    """

    node_id: int
    identity: str
    versioned: bool = True
    held: tuple[str, ...] = ()
    version: int | None = None
    last_round: int = 0
    takes: frozenset[str] = BASIC
    keeps: str = ""


@final
class ClientMap(Mapping[int, Client]):
    """Clients by node id: immutable, and a map with one client more or other costs about as much for any number.

    Args:
        shards: The clients by node id modulo `SHARDS`; none are empty maps.
        size: How many they are.
    """

    __slots__ = ("_size", "shards")

    def __init__(self, shards: tuple[Mapping[int, Client], ...] = ({},) * SHARDS, size: int = 0) -> None:
        self.shards = shards
        self._size = size

    def __getitem__(self, node_id: int) -> Client:
        """Return the client at a node."""
        return self.shards[node_id % SHARDS][node_id]

    def __contains__(self, node_id: object) -> bool:
        """Whether there is a client at a node."""
        return isinstance(node_id, int) and node_id in self.shards[node_id % SHARDS]

    def __iter__(self) -> Iterator[int]:
        """Iterate over the node ids, in an order that says nothing."""
        for shard in self.shards:
            yield from shard

    def __len__(self) -> int:
        """Return the number of clients."""
        return self._size

    def put(self, clients: Collection[Client]) -> ClientMap:
        """Return the map with these clients added or replaced."""
        shards, size = list(self.shards), self._size
        sorted_in: dict[int, dict[int, Client]] = {}
        for client in clients:
            at = client.node_id % SHARDS
            shard = sorted_in.setdefault(at, {})
            size += client.node_id not in shards[at] and client.node_id not in shard
            shard[client.node_id] = client
        for at, shard in sorted_in.items():
            shards[at] = {**shards[at], **shard}
        return ClientMap(tuple(shards), size)

    def without(self, node_id: int) -> ClientMap:
        """Return the map without the client at a node."""
        if node_id not in self:
            return self
        shards, at = list(self.shards), node_id % SHARDS
        shards[at] = {known: client for known, client in shards[at].items() if known != node_id}
        return ClientMap(tuple(shards), self._size - 1)


@final
@dataclass(frozen=True, slots=True)
class Fleet:
    """All clients, by node id."""

    clients: ClientMap = field(default_factory=lambda: ClientMap())

    def unknown(self, node_ids: Iterable[int]) -> list[int]:
        """Return the nodes that have not been heard of, in the given order."""
        return [node_id for node_id in node_ids if node_id not in self.clients]

    def put(self, *clients: Client) -> Fleet:
        """Return the fleet with these clients added or replaced."""
        return Fleet(self.clients.put(clients))

    def without(self, node_id: int) -> Fleet:
        """Return the fleet as if the node had never been heard of."""
        return Fleet(self.clients.without(node_id))

    def heard(
        self,
        node_id: int,
        *,
        identity: str,
        held: tuple[str, ...],
        version: int | None,
        server_round: int,
        takes: Collection[str] = (),
        keeps: str = "",
    ) -> Fleet:
        """Return the fleet after a client's answer, which says all this."""
        known = self.clients.get(node_id, Client(node_id=node_id, identity=identity))
        return self.put(
            replace(
                known,
                identity=identity,
                versioned=True,
                held=held,
                version=known.version if version is None else version,
                last_round=server_round,
                takes=BASIC | set(takes) if takes else known.takes,
                keeps=keeps,
            )
        )

    def takes_no_more(self, node_id: int, what: str) -> Fleet:
        """Return the fleet with a client that cannot be sent something after all."""
        known = self.get(node_id)
        return self.put(replace(known, takes=known.takes - {what}))

    def get(self, node_id: int) -> Client:
        """Return the client at a node; one that is not known yet holds nothing."""
        return self.clients.get(node_id) or Client(node_id=node_id, identity=f"node-{node_id}")

    def order(self, node_ids: Iterable[int]) -> list[int]:
        """Return nodes in the order of their clients' identities."""
        return sorted(node_ids, key=lambda node_id: (natural(self.get(node_id).identity), node_id))

    def by_version(self) -> dict[int, int]:
        """Return how many clients last worked with each version; clients that never did are left out."""
        counted = Counter(client.version for client in self.clients.values() if client.version is not None)
        return dict(sorted(counted.items()))


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a key that sorts runs of digits by value."""
    return tuple((0, int(part)) if _DIGITS.fullmatch(part) else (1, part) for part in _DIGITS.split(name) if part)
