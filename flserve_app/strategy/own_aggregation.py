"""A strategy that aggregates by itself: it is handed what came, as without versions.

Nobody here knows what it makes of its replies (several records, parts of a model, smaller shapes, gradients). Rules:
- It gets all replies that are no errors, with the records that were sent. Left out is only what cannot be read,
  or has a weight that is no weight (a reply without one is the strategy's to judge).
- What it hands on to Flower's own methods (`super().aggregate_train`) is looked at there: what those would refuse, or
  would spoil the rest, is left out, and most replies say what form it has to have.
- Where it fails, it is asked once more without the replies that are unlike most, if there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from flserve_app.client.records import read_array
from flserve_app.client.tensor_array import NUMPY_STYPE
from flserve_app.strategy.compatibility import nested
from flserve_app.strategy.reply_failure import failure
from flserve_app.strategy.reply_metrics import check_numbers
from flserve_app.strategy.reply_tensors import check_streams
from flserve_app.strategy.screening import Form, Odd, Screened, most_usual, only

_CHECK = "_check_and_log_replies"
UNUSUAL = "its records, tensors or metrics have other names than most replies"

Trait = tuple[Any, ...]
Refused = Callable[[Odd], None]


def is_flowers(method: Callable[..., Any]) -> bool:
    """Whether a method is Flower's own, and no override of it."""
    return str(getattr(method, "__module__", "")).split(".")[0] == "flwr"


def readable(replies: Iterable[Message], weighted_by: str | None, *, finite: bool) -> Screened:
    """Return the replies that can be read, and the others.

    Args:
        replies: Replies without errors.
        weighted_by: The metric that replies are weighted by; None if it is not known.
        finite: Whether floating tensors have to be finite.
    """
    fine: list[Message] = []
    odd: Odd = []
    for reply in replies:
        try:
            for record in reply.content.array_records.values():
                check_streams(record, finite=finite)
            for metrics in reply.content.metric_records.values():
                if not isinstance(metrics.get(weighted_by or "", []), list):
                    check_numbers(metrics, (str(weighted_by),))
        except Exception as error:  # noqa: BLE001 one stranger's reply: whatever is wrong with it is its own failure
            odd.append((reply, str(failure(error))))
        else:
            fine.append(reply)
    return Screened(fine=fine, odd=odd)


def usual(replies: Sequence[Message], weighted_by: str | None) -> Screened:
    """Return the replies whose form is that of most, and the others.

    Args:
        replies: Those that can be read.
        weighted_by: A metric that has to be a number where a reply has metrics at all; None for none.
    """
    return _alike(replies, lambda content: _whole_form(content, weighted_by))


@contextmanager
def checking(strategy: Strategy, form: Form, refused: Refused) -> Iterator[None]:
    """Look at the replies that are handed on to Flower's own aggregation, until the block ends.

    Args:
        strategy: It, and what it wraps.
        form: What Flower's aggregation needs.
        refused: Called with those that are left out.
    """
    owners = [each for each in nested(strategy) if isinstance(each, FedAvg) and _CHECK not in vars(each)]
    for each in owners:
        vars(each)[_CHECK] = _checked(getattr(each, _CHECK), form, refused)
    try:
        yield
    finally:
        for each in owners:
            vars(each).pop(_CHECK, None)


def _checked(check: Callable[..., Any], form: Form, refused: Refused) -> Callable[..., Any]:
    def checked(replies: Iterable[Message], is_train: bool, validate: bool = True) -> Any:
        found = list(replies)
        if validate:
            screened = _alike(found, lambda content: _form(content, form, is_train))
            refused(screened.odd)
            found = screened.fine
        return check(found, is_train, validate)

    return checked


def _alike(replies: Sequence[Message], trait: Callable[[RecordDict], Trait]) -> Screened:
    traits: list[tuple[Message, Trait]] = []
    odd: Odd = []
    for reply in replies:
        try:
            traits.append((reply, trait(reply.content)))
        except Exception as error:  # noqa: BLE001 one stranger's reply: whatever is wrong with it is its own failure
            odd.append((reply, str(failure(error))))
    most = most_usual([each for _, each in traits])
    odd += [(reply, UNUSUAL) for reply, each in traits if each != most]
    return Screened(fine=[reply for reply, each in traits if each == most], odd=odd)


def _form(content: RecordDict, form: Form, is_train: bool) -> Trait:
    """Return what Flower wants to be alike in all replies. Raises FlserveError."""
    metrics_key, metrics = only(content, MetricRecord)
    check_numbers(metrics, form.numbers, positive=form.positive)
    arrays_key, arrays = only(content, ArrayRecord) if is_train else ("", ArrayRecord())
    lengths = sorted((name, _length(value)) for name, value in metrics.items())
    return (len(arrays) + len(metrics), arrays_key, tuple(sorted(arrays)), metrics_key, tuple(lengths))


def _whole_form(content: RecordDict, weighted_by: str | None) -> Trait:
    """Return all that replies may differ in but values. Raises FlserveError."""
    records: list[Trait] = []
    for key, record in sorted(content.items()):
        if isinstance(record, MetricRecord) and weighted_by in record:
            check_numbers(record, (cast(str, weighted_by),))
        records.append((key, type(record).__name__, *sorted(_described(record))))
    return (sum(map(len, records)), *records)


def _described(record: Any) -> Iterator[Trait]:
    for name, value in record.items():
        if not isinstance(record, ArrayRecord):
            yield name, _length(value), ()
        elif value.stype == NUMPY_STYPE:
            values = read_array(name, value)
            yield name, values.dtype.kind, values.shape
        else:
            yield name, value.stype, tuple(value.shape)


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else -1
