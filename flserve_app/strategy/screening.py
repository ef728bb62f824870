"""Replies as Flower's own aggregation can take them: one by one, each brought into one form or left out.

Flower's strategies check that all replies are alike and end the run if one is not. Rules:
- A reply is rebuilt: the tensors of the form (`reply_form`, `reply_tensors`) under the key that the strategy expects,
  and one MetricRecord of plain numbers (`reply_metrics`). Nobody's reply says how the others have to look.
- A strategy that aggregates by itself is another matter, see `own_aggregation`.
- Whatever goes wrong in looking at a reply is that reply's failure.
- Values are not judged, but for what cannot be computed with: see `Form`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from flserve_app.artifact import TensorSpec
from flserve_app.errors import DeliveryError
from flserve_app.strategy.reply_failure import failure
from flserve_app.strategy.reply_metrics import check_numbers, plain_metrics
from flserve_app.strategy.reply_tensors import rebuilt

METRICS = "metrics"  # where no other key is more usual

Odd = list[tuple[Message, str]]
_Fitting = tuple[Message, RecordDict]
_Record = TypeVar("_Record", ArrayRecord, MetricRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a strategy needs its replies.

    Attributes:
        numbers: Metrics it reads from each reply, the weight first.
        arrays: Key of the ArrayRecord.
        positive: Whether a reply needs a weight above 0: it may be the only one that is chosen.
        equal: Whether all weights have to be the same, as accounting for privacy demands.
        finite: Whether floating tensors have to be finite.
    """

    numbers: tuple[str, ...]
    arrays: str = "arrays"
    positive: bool = False
    equal: bool = False
    finite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """Replies after they were looked at.

    Attributes:
        fine: Those that can be averaged, with the content they have to have.
        odd: The others, each with the reason in a sentence.
        metrics_lost: How many metrics of the former were left behind.
    """

    fine: list[Message]
    odd: Odd
    metrics_lost: int = 0


def screen(replies: Sequence[Message], specs: Mapping[str, TensorSpec] | None, form: Form) -> Screened:
    """Return the replies that can be averaged, and the others.

    Args:
        replies: Replies without errors; those that can be averaged are changed in place.
        specs: What their arrays have to fit; None for replies without arrays.
        form: What the strategy needs.
    """
    fitting: list[_Fitting] = []
    odd: Odd = []
    lost = 0
    for reply in replies:
        try:
            content, left = _content(reply, specs, form)
        except Exception as error:  # noqa: BLE001 one stranger's reply: whatever is wrong with it is its own failure
            odd.append((reply, str(failure(error))))
        else:
            fitting.append((reply, content))
            lost += left
    _name_metrics_alike([content for _, content in fitting])
    if form.equal:
        usual = most_usual([_metrics(content)[form.numbers[0]] for _, content in fitting])
        other = [reply for reply, content in fitting if _metrics(content)[form.numbers[0]] != usual]
        odd += [(reply, "its weight is not the usual") for reply in other]
        fitting = [pair for pair in fitting if not any(pair[0] is each for each in other)]
    if form.numbers and fitting and not any(_metrics(content)[form.numbers[0]] for _, content in fitting):
        odd += [(reply, f"no reply has a {form.numbers[0]!r} above 0") for reply, _ in fitting]
        fitting = []
    for reply, content in fitting:
        reply.content = content
    return Screened(fine=[reply for reply, _ in fitting], odd=odd, metrics_lost=lost)


def _content(reply: Message, specs: Mapping[str, TensorSpec] | None, form: Form) -> tuple[RecordDict, int]:
    """Return what a reply holds in the form that is needed, and how many metrics it lost. Raises FlserveError."""
    sent = dict(reply.content)
    key, metrics = only(sent, MetricRecord)
    check_numbers(metrics, form.numbers, positive=form.positive)
    arrays = None if specs is None else only(sent, ArrayRecord)
    kept = plain_metrics(metrics, form.numbers)
    # ConfigRecords are no matter of Flower's aggregation, but a function for metrics may read them.
    content: dict[str, Any] = {name: value for name, value in sent.items() if isinstance(value, ConfigRecord)}
    content[METRICS if key == form.arrays else key] = kept
    if specs is not None and arrays is not None:
        content = {**content, form.arrays: rebuilt(arrays[1], specs, finite=form.finite)}
    return RecordDict(content), len(metrics) - len(kept)


def only(sent: Mapping[str, Any], kind: type[_Record]) -> tuple[str, _Record]:
    """Return the one record of a kind, and its key. Raises DeliveryError."""
    found = [(key, record) for key, record in sent.items() if isinstance(record, kind)]
    if len(found) != 1:
        raise DeliveryError(f"it has {len(found)} {kind.__name__}s, expected 1")
    return found[0]


def _name_metrics_alike(contents: Sequence[RecordDict]) -> None:
    """Put the MetricRecords under one key: the most usual one, as a function for metrics may look for it."""
    counted = Counter(_metrics_key(content) for content in contents)
    key = min(counted, key=lambda name: (-counted[name], name != METRICS, name)) if counted else METRICS
    for content in contents:
        if (own := _metrics_key(content)) != key:
            metrics = content.pop(own)
            content[key] = metrics


def most_usual(traits: Sequence[Any]) -> Any:
    """Return the trait that most have; where several are, the least one. None of none."""
    counted = Counter(traits)
    return min(counted, key=lambda each: (-counted[each], each)) if counted else None


def _metrics_key(content: RecordDict) -> str:
    return next(iter(content.metric_records))


def _metrics(content: RecordDict) -> MetricRecord:
    return next(iter(content.metric_records.values()))
