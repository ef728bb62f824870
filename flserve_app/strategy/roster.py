"""Who is there: nodes are greeted once, and remembered by what they answer.

Rules:
- A node that is met for the first time is greeted: it says who it is and what it holds. One that does not
  know the greeting gets plain arrays, as without flserve.
- One whose greeting failed is greeted again in later rounds, `GREETINGS` times in all: perhaps it only had a
  bad moment.
- Two connected nodes of one identity are both served, by their node ids; that is said once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from logging import INFO, WARNING
from typing import final

from flwr.app import Message, RecordDict
from flwr.common.logger import log

from flserve_app.client.wire import Answer, Delivery, put_delivery, take_answer
from flserve_app.errors import DeliveryError
from flserve_app.fleet import Client, Fleet
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.message_size import message_bytes

HELLO_SECONDS = 120.0
GREETINGS = 3

Send = Callable[[list[Message], float | None], list[Message]]


@final
class Roster:
    """The clients as the server knows them.

    Args:
        model: Name of the model they are asked about.
        uplink: Codec name for their updates.
        ledger: Where bytes are counted.
        send: Sends messages and waits for replies, at most so many seconds.
        base: Digest of an artifact that they are asked to look for; empty for none.
        marks: Returns what tells this federation from others: key of the private tensors' layout, name of the history.
    """

    def __init__(
        self,
        model: str,
        uplink: str,
        ledger: Ledger,
        send: Send,
        base: str = "",
        marks: Callable[[], tuple[str, str]] = lambda: ("", ""),
    ) -> None:
        self._marks = marks
        self._model = model
        self._uplink = uplink
        self._base = base
        self._ledger = ledger
        self._send = send
        self._doubtful: dict[int, tuple[int, int]] = {}
        self._twins: set[str] = set()
        self.fleet = Fleet()
        self.server_round = 0

    def meet(self, node_ids: Iterable[int], timeout: float) -> int:
        """Greet the nodes that are new, and wait for their answers at most `timeout` seconds.

        Returns:
            The largest number of partitions that one of them knows of; 0 if none said.
        """
        listed = list(node_ids)
        again = self._to_greet_again(listed)
        new = [*self.fleet.unknown(listed), *again]
        self._doubtful.update({node_id: (self.server_round, self._doubtful[node_id][1] + 1) for node_id in again})
        if not new:
            return 0
        hellos = [self._hello(node_id) for node_id in new]
        for hello in hellos:
            self._ledger.sent("down", payload=0, message=message_bytes(hello), full=0)
        partitions = 0
        for reply in self._send(hellos, timeout):
            self._ledger.sent("up", payload=0, message=message_bytes(reply), full=0)
            partitions = max(partitions, self._welcome(reply))
        silent = self.fleet.unknown(new)
        self.fleet = self.fleet.put(*(Client(node_id=node_id, identity=f"node-{node_id}") for node_id in silent))
        if silent:
            log(WARNING, "flserve: %d of %d nodes did not answer the greeting", len(silent), len(new))
        self._look_for_twins(listed)
        return partitions

    def heard(self, node_id: int, answer: Answer, version: int | None) -> None:
        """Note who answered and what it holds."""
        self.fleet = self.fleet.heard(
            node_id,
            identity=answer.identity,
            held=answer.held,
            version=version,
            server_round=self.server_round,
            takes=answer.capabilities,
            keeps=answer.private,
        )

    def takes_no_more(self, node_id: int, what: str) -> None:
        """Note that a client cannot be sent something that it said it could."""
        self.fleet = self.fleet.takes_no_more(node_id, what)

    def doubt(self, node_id: int) -> None:
        """Forget a node that failed and was never heard of, so that it is greeted when it is next needed."""
        self.fleet = self.fleet.without(node_id)

    def _to_greet_again(self, node_ids: list[int]) -> list[int]:
        return [
            node_id
            for node_id in node_ids
            if node_id in self._doubtful
            and self._doubtful[node_id][0] < self.server_round
            and self._doubtful[node_id][1] < GREETINGS
        ]

    def _hello(self, node_id: int) -> Message:
        content = RecordDict()
        private, federation = self._marks()
        hello = Delivery(action="hello", model=self._model, uplink=self._uplink, base=self._base)
        put_delivery(content, replace(hello, private=private, federation=federation))
        return Message(content, dst_node_id=node_id, message_type="train")

    def _welcome(self, reply: Message) -> int:
        node_id = reply.metadata.src_node_id
        try:
            answer = take_answer(RecordDict(dict(reply.content))) if reply.has_content() else None
        except DeliveryError as error:
            log(WARNING, "flserve: node %d gets plain arrays: %s", node_id, error)
            answer = None
        if answer is None:
            self._take_for_plain(node_id, failed=reply.has_error())
            return 0
        self._doubtful.pop(node_id, None)
        self.heard(node_id, answer, None)
        return answer.partitions

    def _take_for_plain(self, node_id: int, *, failed: bool) -> None:
        if node_id not in self._doubtful:
            log(INFO, "flserve: node %d has no versioned_mod and gets plain arrays", node_id)
            if failed:
                self._doubtful[node_id] = (self.server_round, 1)
        known = self.fleet.clients.get(node_id, Client(node_id=node_id, identity=f"node-{node_id}"))
        self.fleet = self.fleet.put(replace(known, versioned=False))

    def _look_for_twins(self, node_ids: list[int]) -> None:
        counted = Counter(self.fleet.get(node_id).identity for node_id in node_ids)
        for identity, nodes in sorted(counted.items()):
            if nodes > 1 and identity not in self._twins:
                self._twins.add(identity)
                log(WARNING, "flserve: %d connected nodes say they are %s; each is served by itself", nodes, identity)
