"""What rounding lost in a round, and what it says of itself where it was too coarse.

Steps that would round a change to nothing, or let it fall behind further and further, are made finer by whoever rounds
(`codec.finer`). A run says so: in the row of every round in which it happened, and once a direction in the log: then
payloads are larger than those that were asked for.
"""

from __future__ import annotations

from logging import WARNING
from typing import Literal, final

from flwr.common.logger import log

from flserve_app.codec.finer import Loss

Direction = Literal["down", "up"]
_OPTION = {"down": "codec", "up": "uplink"}


@final
class Coarse:
    """Notes the losses of one run, round by round."""

    def __init__(self) -> None:
        self._losses: dict[Direction, list[Loss]] = {"down": [], "up": []}
        self._told: set[Direction] = set()

    def note(self, direction: Direction, loss: Loss) -> None:
        """Note what rounding did to a version or an update."""
        self._losses[direction].append(loss)

    def take(self) -> dict[str, object]:
        """Return the round's losses as fields of a `RoundRow`, and begin the next; log what was not said before."""
        said = {direction: coarse_text(direction, losses) for direction, losses in self._losses.items()}
        for direction, text in said.items():
            if text and direction not in self._told:
                self._told.add(direction)
                log(WARNING, "flserve: %s", text)
        fields: dict[str, object] = {
            f"lost_{direction}": max(loss.lost for loss in losses)
            for direction, losses in self._losses.items()
            if losses
        }
        self._losses = {"down": [], "up": []}
        return {**fields, "coarse": "; ".join(filter(None, said.values()))}


def coarse_text(direction: Direction, losses: list[Loss]) -> str:
    """Return in one sentence where steps were too coarse, and what was done; empty if they were not."""
    coarse = [loss for loss in losses if loss.halvings]
    if not coarse:
        return ""
    times = 1 << max(loss.halvings for loss in coarse)
    what = (
        f"the change of {coarse[0].coarse} of {coarse[0].tensors} tensors"
        if direction == "down"
        else f"{len(coarse)} of {len(losses)} updates"
    )
    return (
        f"{_OPTION[direction]} is too coarse for {what}, which would be rounded to nothing or fall behind: it takes "
        f"steps up to {times} times finer (topk: so many times the share), for more bytes"
    )
