"""Greetings on their way: sent at once, answered whenever it may be.

Nobody has to wait for an answer: what is there is taken. A Grid is asked by message ids, as every Grid can be, so
that an answer that comes rounds later is still that node's. A node whose answer was lost (`pulls`) is greeted once more
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import final

from flwr.app import Message
from flwr.serverapp import Grid

from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.message_size import message_bytes
from flserve_app.strategy.pulls import Pulls, is_lost

NO_MESSAGES: Mapping[int, Message] = MappingProxyType({})
MOST_AT_ONCE = 2  # greetings of a node that are sent for answers that were lost
LONGEST_GAP = 16  # rounds between two greetings of a node that answers none


@final
class Greetings:
    """Sends greetings, each node's at most once a round, and hands out the answers.

    Args:
        grid: The Grid that carries them.
        ledger: Where bytes are counted.
        hello: Makes the greeting of a node, like a message that it is about to be sent, if there is one.
    """

    def __init__(self, grid: Grid, ledger: Ledger, hello: Callable[[int, Message | None], Message]) -> None:
        self._grid = grid
        self._pulls = Pulls(grid)
        self._ledger = ledger
        self._hello = hello
        self._open: dict[str, tuple[int, int, Message]] = {}
        self._sent: dict[int, tuple[int, int]] = {}

    def due(self, node_id: int, server_round: int) -> bool:
        """Whether a node is to be greeted: it was not yet, or not for 1, 2, 4, ... rounds."""
        last, times = self._sent.get(node_id, (server_round, 0))
        return times == 0 or server_round - last >= min(1 << (times - 1), LONGEST_GAP)

    def times(self, node_id: int) -> int:
        """Return how often a node was greeted."""
        return self._sent.get(node_id, (0, 0))[1]

    def send(self, node_ids: Sequence[int], server_round: int, like: Mapping[int, Message] = NO_MESSAGES) -> None:
        """Greet nodes, like the messages that they are about to be sent."""
        self._open = {key: sent for key, sent in self._open.items() if server_round - sent[1] <= LONGEST_GAP}
        if not node_ids:
            return
        hellos = [self._hello(node_id, like.get(node_id)) for node_id in node_ids]
        for node_id, hello in zip(node_ids, hellos, strict=True):
            self._ledger.sent("down", payload=0, message=message_bytes(hello), full=0)
            self._sent[node_id] = (server_round, self.times(node_id) + 1)
        # A Grid names what it could send in the order of the messages, and leaves gaps.
        for node_id, hello, name in zip(node_ids, hellos, self._grid.push_messages(hellos), strict=False):
            if name:
                self._open[name] = (node_id, server_round, hello)

    def answers(self) -> list[tuple[int, str, Message]]:
        """Return the answers that have come, each once, with the node that was greeted and the type of message."""
        if not self._open:
            return []
        found = []
        again = []
        for reply in self._pulls.pull({name: node_id for name, (node_id, _, _) in self._open.items()}):
            asked = self._open.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            node_id, _, hello = asked
            if is_lost(reply) and self.times(node_id) < MOST_AT_ONCE:
                again.append(asked)
            else:
                found.append((node_id, hello.metadata.message_type, reply))
        for node_id, server_round, hello in again:
            self.send([node_id], server_round, {node_id: hello})
        return found
