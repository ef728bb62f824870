"""One writer of a process at a time, in the order in which they asked.

SQLite lets one connection write and has the others poll, in no order: of many threads that poll, one may poll in vain
for as long as there are others. So the threads of a process queue here, and only the first of them polls, against
other processes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from flserve_app.errors import StoreError


@final
class Turns:
    """A lock that threads get in the order in which they asked; not to be taken twice by one thread.

    Args:
        seconds: How long a thread waits for its turn.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn and hold it for a block.

        Raises:
            StoreError: If it does not come in time.
        """
        self._take()
        try:
            yield
        finally:
            self._pass_on()

    def _take(self) -> None:
        mine = threading.Event()
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            self._waiting.append(mine)
        try:
            if mine.wait(self._seconds):
                return
        except BaseException:  # a signal: whoever goes must not be handed a turn that nobody would pass on
            if not self._withdrawn(mine):
                self._pass_on()
            raise
        if self._withdrawn(mine):
            raise StoreError(f"other threads of this process wrote, or waited to, for {self._seconds:g} s")

    def _withdrawn(self, mine: threading.Event) -> bool:
        """Leave the queue; returns False if the turn was handed over already."""
        with self._guard:
            if mine not in self._waiting:
                return False
            self._waiting.remove(mine)
            return True

    def _pass_on(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # still taken: it is handed over
            else:
                self._taken = False
