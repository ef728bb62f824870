"""Replies as a strategy can take them: one by one, each brought into the model's form or left out.

Flower's strategies check that all replies are alike and end the run if one is not. Rules:
- For Flower's own aggregation a reply is rebuilt: the model's tensors (`reply_tensors`) under the key that the strategy
  expects, and one MetricRecord of plain numbers (`reply_metrics`). Nobody's reply says how the others have to look.
- A strategy that aggregates itself gets replies as they were sent. What the model does not dictate (further tensors) is
  then what most replies have; where there is no such form, what is least. No name of a metric costs an update.
- Whatever goes wrong in looking at a reply is that reply's failure.
- Values are not judged, but for what cannot be computed with: see `Form`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from flserve_app.artifact import Artifact
from flserve_app.errors import DeliveryError
from flserve_app.strategy.reply_failure import failure
from flserve_app.strategy.reply_metrics import check_numbers, plain_metrics
from flserve_app.strategy.reply_tensors import checked, rebuilt

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
        rebuilt: Whether it is Flower's own aggregation; if not, replies are handed on as they were sent.
        positive: Whether a reply needs a weight above 0: it may be the only one that is chosen.
        equal: Whether all weights have to be the same, as accounting for privacy demands.
        finite: Whether floating tensors have to be finite.
    """

    numbers: tuple[str, ...]
    arrays: str = "arrays"
    rebuilt: bool = True
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


def screen(replies: Sequence[Message], like: Artifact | None, form: Form) -> Screened:
    """Return the replies that can be averaged, and the others.

    Args:
        replies: Replies without errors; those that can be averaged are changed in place.
        like: The model their arrays have to fit; None for replies without arrays.
        form: What the strategy needs.
    """
    fitting: list[_Fitting] = []
    odd: Odd = []
    lost = 0
    for reply in replies:
        try:
            content, left = _content(reply, like, form)
        except Exception as error:  # noqa: BLE001 one stranger's reply: whatever is wrong with it is its own failure
            odd.append((reply, str(failure(error))))
        else:
            fitting.append((reply, content))
            lost += left
    if form.rebuilt:
        _name_metrics_alike([content for _, content in fitting])
    else:
        fitting = _most(fitting, odd, _tensors, "its tensors have other names than most replies")
    if form.equal:
        fitting = _most(fitting, odd, lambda content: _metrics(content)[form.numbers[0]], "its weight is not the usual")
    if form.numbers and fitting and not any(_metrics(content)[form.numbers[0]] for _, content in fitting):
        odd += [(reply, f"no reply has a {form.numbers[0]!r} above 0") for reply, _ in fitting]
        fitting = []
    for reply, content in fitting:
        reply.content = content
    return Screened(fine=[reply for reply, _ in fitting], odd=odd, metrics_lost=lost)


def _content(reply: Message, like: Artifact | None, form: Form) -> tuple[RecordDict, int]:
    """Return what a reply holds in the form that is needed, and how many metrics it lost. Raises FlserveError."""
    sent = dict(reply.content)
    key, metrics = _only(sent, MetricRecord)
    check_numbers(metrics, form.numbers, positive=form.positive)
    arrays = None if like is None else _only(sent, ArrayRecord)
    if not form.rebuilt:
        if like is not None and arrays is not None:
            sent[arrays[0]] = checked(arrays[1], like, finite=form.finite)
        return RecordDict(sent), 0
    kept = plain_metrics(metrics, form.numbers)
    # ConfigRecords are no matter of Flower's aggregation, but a function for metrics may read them.
    content: dict[str, Any] = {name: value for name, value in sent.items() if isinstance(value, ConfigRecord)}
    content[METRICS if key == form.arrays else key] = kept
    if like is not None and arrays is not None:
        content = {**content, form.arrays: rebuilt(arrays[1], like, finite=form.finite)}
    return RecordDict(content), len(metrics) - len(kept)


def _only(sent: dict[str, Any], kind: type[_Record]) -> tuple[str, _Record]:
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


def _most(fitting: list[_Fitting], odd: Odd, trait: Callable[[RecordDict], Any], reason: str) -> list[_Fitting]:
    """Return the replies whose trait is that of most; where several are, the least one. The others become odd."""
    traits = [trait(content) for _, content in fitting]
    counted = Counter(traits)
    usual = min(counted, key=lambda each: (-counted[each], _extent(each), each)) if counted else None
    odd += [(reply, reason) for (reply, _), each in zip(fitting, traits, strict=True) if each != usual]
    return [pair for pair, each in zip(fitting, traits, strict=True) if each == usual]


def _extent(trait: Any) -> int:
    return len(trait) if isinstance(trait, tuple) else 0


def _tensors(content: RecordDict) -> tuple[str, ...]:
    return tuple(name for record in content.array_records.values() for name in record)


def _metrics_key(content: RecordDict) -> str:
    return next(iter(content.metric_records))


def _metrics(content: RecordDict) -> MetricRecord:
    return next(iter(content.metric_records.values()))
