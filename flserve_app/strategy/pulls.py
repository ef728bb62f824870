"""Replies taken from a Grid, though one of them cannot be taken.

Flower builds a reply of objects that its node uploaded, and checks of them no more than their hash: a node that
uploads others makes the whole `pull_messages` raise, and what was asked for beside it is lost with it. Rules:
- A pull that raises is tried again message by message. What raises then, and what the Grid has lost, is an error reply
  with the code `LOST`: it is that node's, and may be asked for again.
- The nodes of such a pull are asked for one by one until a reply of each comes; one that raises alone, and all that
  lost a reply so for the second time, from then on: no reply is lost for ever by another one.
- A Grid that raises when it is asked for nothing has failed itself: that is raised on.
"""

from __future__ import annotations

from collections.abc import Mapping
from logging import WARNING
from typing import final

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid

from flserve_app.text import plain, type_name

LOST = 1009  # the code of an error reply that is made here; Flower's own end far below
_LOST_BY_FLOWER = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)


@final
class Pulls:
    """One Grid, asked for replies.

    Args:
        grid: The Grid.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._alone: set[int] = set()
        self._kept_alone: set[int] = set()
        self._parted: set[int] = set()

    def pull(self, asked: Mapping[str, int]) -> list[Message]:
        """Return the replies that are there.

        Args:
            asked: The messages that are waited for: the node of each by its id.
        """
        together = [name for name, node_id in asked.items() if node_id not in self._alone]
        found: list[Message] = []
        lost: set[str] = set()
        if together or not asked:
            try:
                found = list(self._grid.pull_messages(together))
            except Exception as error:  # noqa: BLE001 one node's objects: which of the messages it is, is found out
                self._see_to(error)
                lost = set(together)
                self._part({asked[name] for name in together})
        for name in [name for name, node_id in asked.items() if node_id in self._alone]:
            found += self._one(name, asked[name], after_a_loss=name in lost)
        return found

    def _one(self, name: str, node_id: int, *, after_a_loss: bool) -> list[Message]:
        try:
            found = list(self._grid.pull_messages([name]))
        except Exception as error:  # noqa: BLE001 whatever one node uploaded is that node's failure
            self._see_to(error)
            self._kept_alone.add(node_id)
            return [_lost(name, node_id, f"its reply cannot be taken: {type_name(error)}: {plain(error)}")]
        if after_a_loss and found and _is_unavailable(found[0]):
            return [_lost(name, node_id, "its reply was lost with another one's, which cannot be taken")]
        if found and node_id not in self._kept_alone:
            self._alone.discard(node_id)
            self._parted.add(node_id)
        return found

    def _part(self, node_ids: set[int]) -> None:
        self._kept_alone |= node_ids & self._parted
        self._alone |= node_ids

    def _see_to(self, error: Exception) -> None:
        self._grid.pull_messages([])  # raises where it is not one reply that cannot be taken
        log(WARNING, "flserve: replies cannot be taken: %s: %s", type_name(error), plain(error))


def is_lost(reply: Message) -> bool:
    """Whether a reply was there and could not be taken."""
    return reply.has_error() and reply.error.code == LOST


def _is_unavailable(reply: Message) -> bool:
    return reply.has_error() and reply.error.code in _LOST_BY_FLOWER


def _lost(name: str, node_id: int, reason: str) -> Message:
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=node_id,
        dst_node_id=0,
        reply_to_message_id=name,
        group_id="",
        created_at=0.0,
        ttl=0.0,
        message_type="train",
    )
    return make_message(metadata, error=Error(LOST, reason))
