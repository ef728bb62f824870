"""Messages out, replies in as they come.

Flower's `send_and_receive` returns when the last reply is there, and looks for them every 3 s on a SuperLink.
Here replies are handed out one by one, so that the first are decoded while other clients still train, and are
looked for more often: soon after one came, less and less often while none does. A Grid that is not Flower's
own is asked the way Flower asks it. A reply that cannot be taken comes as an error (`pulls`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from logging import WARNING
from typing import final

from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp import Grid

from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.parcel import brings_model
from flserve_app.strategy.pulls import Pulls

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 1.0
PUSHED = "models in grid.push_messages go whole, as without flserve: grid.send_and_receive delivers what clients lack"


@final
class Exchange:
    """One Grid, and the time that is spent waiting for it.

    Args:
        grid: The Grid that carries the messages.
        ledger: Where seconds are counted.

    Attributes:
        pulls: Takes replies from the Grid.
    """

    def __init__(self, grid: Grid, ledger: Ledger) -> None:
        self._grid = grid
        self._ledger = ledger
        self.pulls = Pulls(grid)
        self._told = False

    def push(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages of an app as they are; that their models go whole is said once."""
        outgoing = list(messages)
        if not self._told and any(brings_model(message) for message in outgoing):
            self._told = True
            log(WARNING, "flserve: %s", PUSHED)
        return self._grid.push_messages(outgoing)

    def replies(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        """Send messages and yield the replies that come within `timeout` seconds (None: all), as they come."""
        if not type(self._grid).__module__.startswith("flwr."):
            started = time.perf_counter()
            found = list(self._grid.send_and_receive(messages, timeout=timeout))
            self._ledger.spent("wait", time.perf_counter() - started)
            yield from found
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        # A Grid names what it could send in the order of the messages, and leaves gaps.
        named = zip(self._grid.push_messages(messages), messages, strict=False)
        waiting = {name: message.metadata.dst_node_id for name, message in named if name}
        pause = FIRST_PAUSE
        while waiting:
            found = self._pull(waiting)
            for reply in found:
                waiting.pop(reply.metadata.reply_to_message_id, None)
            yield from found
            # What is there already is taken before the time is looked at: decoding takes time too.
            if found:
                pause = FIRST_PAUSE
            elif deadline is not None and time.monotonic() >= deadline:
                return
            else:
                self._sleep(pause, deadline)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _pull(self, waiting: Mapping[str, int]) -> list[Message]:
        started = time.perf_counter()
        found = self.pulls.pull(waiting)
        self._ledger.spent("wait", time.perf_counter() - started)
        return found

    def _sleep(self, pause: float, deadline: float | None) -> None:
        left = pause if deadline is None else max(0.0, deadline - time.monotonic())
        time.sleep(min(pause, left))
        self._ledger.spent("wait", min(pause, left))


def remaining(deadline: float | None) -> float | None:
    """Return the seconds that are left until a point of the monotonic clock; None if there is none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
