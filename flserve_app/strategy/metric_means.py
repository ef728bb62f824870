"""Means of metrics over those who sent them.

Flower's strategies end a run if two replies have metrics of other names. So all replies of a round are given the same
names, an absent number is NaN (a metric that was sent is finite), and where Flower would average, the mean is taken
over those who sent the metric, in Flower's own order of operations: where all sent all, bit for bit Flower's.

Rules:
- At most `MOST_NAMES` names a round, those that most replies sent.
- Lists are averaged over replies that have the length most of them have.
- A strategy's own function gets metrics as they were sent, of replies that have the names most of them have. It may
  fail: that costs the metrics of the round, never its model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from logging import WARNING
from operator import add
from typing import Any

from flwr.app import Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from flserve_app.strategy.compatibility import nested
from flserve_app.strategy.reply_metrics import Metric
from flserve_app.text import plain

MOST_NAMES = 256
FUNCTIONS = ("train_metrics_aggr_fn", "evaluate_metrics_aggr_fn")

MetricsFn = Callable[[list[RecordDict], str], MetricRecord]


def level(replies: Sequence[Message], weighted_by: str) -> None:
    """Give the MetricRecords of replies, one each, the same names, NaN where a reply has none."""
    counted = Counter(name for reply in replies for name in _metrics(reply.content))
    counted.pop(weighted_by, None)
    # By how many sent it, then by name: nobody's place among the others matters.
    names = sorted(counted, key=lambda name: (-counted[name], name))[:MOST_NAMES]
    if all(count == len(replies) for count in counted.values()) and len(names) == len(counted):
        return
    for reply in replies:
        metrics = _metrics(reply.content)
        sent = dict(metrics)
        metrics.clear()
        metrics[weighted_by] = sent[weighted_by]
        for name in names:
            metrics[name] = sent.get(name, math.nan)


def mean_of_senders(records: list[RecordDict], weighted_by: str) -> MetricRecord:
    """Return the weighted mean of every metric over the records that have it."""
    metrics: list[Mapping[str, Any]] = [_metrics(record) for record in records]
    means = MetricRecord()
    for name in metrics[0] if metrics else ():
        if name == weighted_by:
            continue
        sent = [(each[name], each[weighted_by]) for each in metrics if not _absent(each.get(name))]
        usual = _usual_length([value for value, _ in sent])
        mean = _mean([pair for pair in sent if _length(pair[0]) == usual])
        if mean is not None:
            means[name] = mean
    return means


def _always(records: list[RecordDict]) -> bool:
    return True


@contextmanager
def averaging(strategy: Strategy, applies: Callable[[list[RecordDict]], bool] = _always) -> Iterator[None]:
    """Let a strategy and what it wraps average metrics by the rules of this module, until the block ends.

    Args:
        strategy: It.
        applies: Whether they are for these records; a strategy that averages others by itself does it as it would.
    """
    before: list[tuple[FedAvg, str, MetricsFn]] = []
    for each in nested(strategy):
        if isinstance(each, FedAvg):
            for name in FUNCTIONS:
                function = getattr(each, name)
                before.append((each, name, function))
                ours = mean_of_senders if function is aggregate_metricrecords else _guarded(function)
                setattr(each, name, ours if applies is _always else _either(ours, function, applies))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def _either(ours: MetricsFn, function: MetricsFn, applies: Callable[[list[RecordDict]], bool]) -> MetricsFn:
    return lambda records, weighted_by: (ours if applies(records) else function)(records, weighted_by)


def _guarded(function: MetricsFn) -> MetricsFn:
    def guarded(records: list[RecordDict], weighted_by: str) -> MetricRecord:
        sent = [_as_sent(record) for record in records]
        forms = [_form(record) for record in sent]
        counted = Counter(forms)
        usual = min(counted, key=lambda form: (-counted[form], len(form), form)) if counted else ()
        try:
            return function([record for record, form in zip(sent, forms, strict=True) if form == usual], weighted_by)
        except Exception as error:  # noqa: BLE001 a function of somebody else's, over what strangers sent
            log(WARNING, "flserve: the metrics of the round are lost: %s: %s", type(error).__name__, plain(error))
            return MetricRecord()

    return guarded


def _as_sent(record: RecordDict) -> RecordDict:
    content = RecordDict(dict(record))
    for key, metrics in record.metric_records.items():
        content[key] = MetricRecord({name: value for name, value in metrics.items() if not _absent(value)})
    return content


def _form(record: RecordDict) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, _length(value)) for name, value in _metrics(record).items()))


def _metrics(record: RecordDict) -> MetricRecord:
    return next(iter(record.metric_records.values()))


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else -1


def _usual_length(values: Sequence[Metric]) -> int:
    counted = Counter(map(_length, values))
    return min(counted, key=lambda length: (-counted[length], length)) if counted else -1


def _mean(sent: Sequence[tuple[Any, float]]) -> Metric | None:
    """Return the weighted mean of (value, weight) pairs, in Flower's order of operations; None without any weight."""
    total = sum(weight for _, weight in sent)
    if not total:
        return None
    shares = [weight / total for _, weight in sent]
    values = [value for value, _ in sent]
    if isinstance(values[0], list):
        return [_sum(each, shares) for each in zip(*values, strict=True)]
    return _sum(values, shares)


def _sum(values: Sequence[float], shares: Sequence[float]) -> float:
    # Not from 0: that would turn -0.0 into 0.0, and not by `sum`, which compensates for rounding since Python 3.12.
    return reduce(add, (value * share for value, share in zip(values, shares, strict=True)))
