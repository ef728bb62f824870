"""The metrics of one reply: plain finite numbers under plain names, and the few that a strategy reads.

Rules:
- A number that a strategy reads (the weight, a loss) is finite, 0 or more and at most `LARGEST_NUMBER`, or the reply is
  refused: nothing can be computed from it.
- Any other metric that is no finite number under a short plain name is left behind, and so is what comes after
  `MOST_METRICS`: a metric never costs an update.
- A list is kept if all of it are finite numbers, as long as a reply's lists have at most `MOST_LISTED` in all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flwr.app import Message, MetricRecord

from flserve_app.errors import DeliveryError
from flserve_app.text import is_plain, plain

# Of weights: the sum over thousands of clients is still exact. Of losses: no power that is used becomes infinite.
LARGEST_NUMBER = 1 << 40
MOST_METRICS = 64
LONGEST_NAME = 100
MOST_LISTED = 1024

Metric = int | float | list[int] | list[float]


def check_numbers(metrics: MetricRecord, numbers: Sequence[str], *, positive: bool = False) -> None:
    """Refuse metrics that a strategy could not compute with.

    Args:
        metrics: The reply's.
        numbers: Names of what the strategy reads, the weight first.
        positive: Whether the weight has to be above 0.

    Raises:
        DeliveryError: If one is missing or out of its range.
    """
    for name in numbers:
        value = metrics.get(name)
        if not _is_number(value) or not 0 <= value <= LARGEST_NUMBER:  # type: ignore[operator] # a number by now
            found = plain(value if not isinstance(value, list) else value[:8], 60)
            raise DeliveryError(f"its metric {name!r} is {found}, expected a finite number of 0 or more, at most 2**40")
    if positive and numbers and not metrics[numbers[0]]:
        raise DeliveryError(f"its metric {numbers[0]!r} is 0, and one that may be chosen alone needs a weight")


def plain_metrics(metrics: MetricRecord, numbers: Sequence[str]) -> MetricRecord:
    """Return what of a reply's metrics can be averaged.

    Args:
        metrics: The reply's, with `numbers` checked already.
        numbers: Names of what the strategy reads; they are kept whatever else there is.
    """
    kept = MetricRecord()
    others, listed = MOST_METRICS - len(numbers), 0
    for name, value in metrics.items():
        read = name in numbers
        if not read and (others <= 0 or not is_plain(name, LONGEST_NAME)):
            continue
        found = _plain_value(value)
        if found is None:
            continue
        length = len(found) if isinstance(found, list) else 0
        if listed + length <= MOST_LISTED:
            listed += length
            others -= 0 if read else 1
            kept[name] = found
    return kept


def _plain_value(value: object) -> Metric | None:
    """Return a value in Python's own types; None if it is not finite numbers."""
    if not isinstance(value, list):
        return _number(value) if _is_number(value) else None
    if len(value) > MOST_LISTED or not all(map(_is_number, value)):
        return None
    return [_number(each) for each in value]


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # An integer of any length is none of the two where it does not fit a float.
    return -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)


def _number(value: object) -> int | float:
    """Return a number without what a subclass of float (numpy's) would make of all it is multiplied with."""
    return int(value) if isinstance(value, int) else float(value)  # type: ignore[arg-type] # a number


def weight_of(reply: Message, weighted_by: str | None) -> float:
    """Return what a reply weighs: the metric of that name, 1 where it has none."""
    metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
    weight = metrics.get(weighted_by or "", 1.0)
    return float(weight) if isinstance(weight, int | float) else 1.0
