"""How long a strategy may go on asking for more nodes than there are.

Flower's strategies ask for the nodes until there are enough of them: nodes that left for good would end a run never.
"""

from __future__ import annotations

import time
from typing import final

from flserve_app.errors import DeliveryError


@final
class Patience:
    """The wait for nodes of one round at a time.

    Args:
        seconds: How long it may take; None for ever, as in Flower.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def over(self) -> None:
        """Note that the strategy has what it asked for."""
        self._since = None

    def asked(self, server_round: int, nodes: int) -> float:
        """Note that a strategy asks in a round; return for how many seconds it has been asking.

        Raises:
            DeliveryError: If that is too long.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if self._seconds is not None and now - self._since > self._seconds:
            raise DeliveryError(
                f"round {server_round} needs more than the {nodes} clients that are connected: "
                f"none came within {self._seconds:.0f} s"
            )
        return now - self._since
