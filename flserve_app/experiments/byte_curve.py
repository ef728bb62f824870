"""Accuracy against bytes: what a run reached and what it had sent by then, compared with plain FedAvg of its seed.

Rules:
- Bytes are those of training messages both ways, from the first contact on, as they were counted when they were
  sent. Plain is charged all its rounds.
- The target is plain's accuracy after its last round less the margin. A run *touches* it in the first round that is
  as good, and *reaches* it in the first round up to which the last `WINDOW` rounds are as good in the mean. What is
  published is the second: near the target a single round is noise, and plain itself touches it early.
- A seed that does not reach is charged all that it sent.
- `fewer` divides bytes of plain by bytes of the setting, both summed over the seeds; `fewer_matched` charges plain
  only up to where it reaches its own target by the same rule.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Any

from flserve_app.errors import DeliveryError
from flserve_app.strategy import RoundRow

MARGIN = 0.005
WINDOW = 3
_TINY = 1e-9  # accuracies are whole numbers of test images: 0.955 is to be as good as 0.96 - 0.005
# Student's t for a two-sided interval of 95 %, by degrees of freedom from 1 on.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A run, round by round; the first entry is round 1.

    Attributes:
        accuracy: Central accuracy, 0 to 1, after each round.
        payload: Payload bytes both ways up to the end of each round.
        message: Message bytes both ways up to the end of each round.
    """

    accuracy: tuple[float, ...]
    payload: tuple[int, ...]
    message: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One seed of a setting beside plain FedAvg of that seed.

    Attributes:
        seed: The seed.
        accuracy: After as many rounds as plain had.
        gap: Points (hundredths) that this is below plain; below 0 if it is better.
        touched: First round as good as the target; None if there is none.
        reached: First round up to which the last rounds are as good in the mean; None if there is none.
        bytes: Payload bytes up to the round that reached, or of all rounds.
        bytes_message: Message bytes likewise.
        bytes_equal: Payload bytes of as many rounds as plain had.
        bytes_message_equal: Message bytes likewise.
        plain_bytes: Payload bytes of plain.
        plain_bytes_message: Message bytes of plain.
        plain_bytes_reached: Payload bytes of plain up to where it reaches its own target.
        plain_reached: That round; None if it does not.
    """

    seed: int
    accuracy: float
    gap: float
    touched: int | None
    reached: int | None
    bytes: int
    bytes_message: int
    bytes_equal: int
    bytes_message_equal: int
    plain_bytes: int
    plain_bytes_message: int
    plain_bytes_reached: int
    plain_reached: int | None


def curve_of(rows: Sequence[RoundRow]) -> Curve:
    """Return the curve of a run's rows; what was sent before round 1 counts with it.

    Raises:
        DeliveryError: If a round was not evaluated, or a message of it had no usable reply.
    """
    accuracy, payload, message = [], [], []
    sent = sent_message = 0
    for row in rows:
        if row.accuracy is None or row.failures:
            raise DeliveryError(f"round {row.round} measures nothing: accuracy {row.accuracy}, {row.failures} failures")
        sent += row.bytes_down + row.bytes_up
        sent_message += row.bytes_down_message + row.bytes_up_message
        if row.round:
            accuracy.append(row.accuracy)
            payload.append(sent)
            message.append(sent_message)
    return Curve(accuracy=tuple(accuracy), payload=tuple(payload), message=tuple(message))


def first_round(accuracy: Sequence[float], target: float, window: int) -> int | None:
    """Return the first round (from 1 on) up to which the mean of the last `window` rounds is at least the target."""
    ends = range(window, len(accuracy) + 1)
    return next((end for end in ends if mean(accuracy[end - window : end]) >= target - _TINY), None)


def compare(seed: int, curve: Curve, plain: Curve, *, margin: float = MARGIN) -> Outcome:
    """Set a run beside plain FedAvg of the same seed."""
    target = plain.accuracy[-1] - margin
    reached = first_round(curve.accuracy, target, WINDOW)
    itself = first_round(plain.accuracy, target, WINDOW)
    spent = len(curve.accuracy) if reached is None or curve is plain else reached
    equal = min(len(plain.accuracy), len(curve.accuracy))
    return Outcome(
        seed=seed,
        accuracy=curve.accuracy[equal - 1],
        gap=100 * (plain.accuracy[-1] - curve.accuracy[equal - 1]),
        touched=first_round(curve.accuracy, target, 1),
        reached=reached,
        bytes=curve.payload[spent - 1],
        bytes_message=curve.message[spent - 1],
        bytes_equal=curve.payload[equal - 1],
        bytes_message_equal=curve.message[equal - 1],
        plain_bytes=plain.payload[-1],
        plain_bytes_message=plain.message[-1],
        plain_bytes_reached=plain.payload[-1 if itself is None else itself - 1],
        plain_reached=itself,
    )


def interval(values: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the mean by Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    # Beyond the table the last entry is a little too wide, never too narrow.
    half = _T95[min(len(values) - 1, len(_T95)) - 1] * stdev(values) / sqrt(len(values))
    return mean(values) - half, mean(values) + half


def summed_up(name: str, model: str, rounds: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return a setting's seeds as one JSON object; see the module for what is counted.

    Args:
        name: The setting.
        model: The model.
        rounds: Rounds that it ran.
        outcomes: Its seeds, one at least.
    """
    accuracies, gaps = [each.accuracy for each in outcomes], [each.gap for each in outcomes]
    reaching = [each for each in outcomes if each.reached is not None]
    return {
        "name": name,
        "model": model,
        "seeds": len(outcomes),
        "rounds": rounds,
        "accuracy": mean(accuracies),
        "accuracy_ci": interval(accuracies),
        "gap": mean(gaps),
        "gap_ci": interval(gaps),
        "touched": sum(each.touched is not None for each in outcomes),
        "reached": len(reaching),
        "bytes": mean(each.bytes for each in outcomes),
        "bytes_message": mean(each.bytes_message for each in outcomes),
        "fewer": _ratio(outcomes, "plain_bytes", "bytes"),
        "fewer_message": _ratio(outcomes, "plain_bytes_message", "bytes_message"),
        "fewer_worst": min((each.plain_bytes / each.bytes for each in reaching), default=None),
        "fewer_matched": _ratio(outcomes, "plain_bytes_reached", "bytes"),
        "bytes_equal": mean(each.bytes_equal for each in outcomes),
        "bytes_message_equal": mean(each.bytes_message_equal for each in outcomes),
        "fewer_equal": _ratio(outcomes, "plain_bytes", "bytes_equal"),
        "fewer_message_equal": _ratio(outcomes, "plain_bytes_message", "bytes_message_equal"),
        "per_seed": [asdict(each) for each in outcomes],
    }


def _ratio(outcomes: Sequence[Outcome], plain: str, ours: str) -> float:
    return float(sum(getattr(each, plain) for each in outcomes) / sum(getattr(each, ours) for each in outcomes))
