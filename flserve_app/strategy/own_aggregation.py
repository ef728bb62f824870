"""A strategy that aggregates by itself: it is handed what came, as without versions.

Nobody here knows what it makes of its replies (several records, parts of a model, smaller shapes, gradients). Rules:
- It gets all replies that are no errors, with the records that were sent. Left out is only what cannot be read,
  or has a weight that is no weight (a reply without one is the strategy's to judge).
- What it hands on to Flower's own methods is looked at there, see `handed_on`.
- Where it fails, it is asked once more without the replies that are unlike most, if there are any. Where no form has
  more replies than others, it is asked with each of these: who sends what comes first in the alphabet decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from logging import INFO
from typing import Any, TypeVar, cast

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log

from flserve_app.artifact import Artifact
from flserve_app.client.records import read_array
from flserve_app.client.tensor_array import NUMPY_STYPE
from flserve_app.errors import AggregateError
from flserve_app.strategy.reply_failure import failure
from flserve_app.strategy.reply_metrics import check_numbers
from flserve_app.strategy.reply_tensors import check_streams
from flserve_app.strategy.screening import Odd, Screened
from flserve_app.text import plain

MOST_FORMS = 3  # that are tried one after another
UNUSUAL = "its records, tensors or metrics have other names than most replies"

_Trait = tuple[Any, ...]
_Made = TypeVar("_Made")


def is_flowers(method: Callable[..., Any]) -> bool:
    """Whether a method is Flower's own, and no override of it."""
    return str(getattr(method, "__module__", "")).split(".")[0] == "flwr"


def shapes_of(tensors: Mapping[str, Any]) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Return names and shapes of tensors or their specs."""
    return frozenset((name, tuple(tensor.shape)) for name, tensor in tensors.items())


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


def usual(replies: Sequence[Message], weighted_by: str | None, like: Artifact | None = None) -> list[Screened]:
    """Return, for each form that no other has more replies than, the replies that have it, and the others.

    Args:
        replies: Those that can be read.
        weighted_by: A metric that has to be a number where a reply has metrics at all; None for none.
        like: The model, whose form comes first.
    """
    traits: list[tuple[Message, _Trait]] = []
    unfit: Odd = []
    for reply in replies:
        try:
            traits.append((reply, _form(reply.content, weighted_by)))
        except Exception as error:  # noqa: BLE001 one stranger's reply: whatever is wrong with it is its own failure
            unfit.append((reply, str(failure(error))))
    counted = Counter(trait for _, trait in traits)
    model = shapes_of({} if like is None else like.specs)
    whole = {trait for reply, trait in traits if model in map(shapes_of, reply.content.array_records.values())}
    forms = [form for form, votes in counted.items() if votes == max(counted.values())]
    forms.sort(key=lambda form: (form not in whole, form))
    return [
        Screened(
            fine=[reply for reply, trait in traits if trait == form],
            odd=[*unfit, *((reply, UNUSUAL) for reply, trait in traits if trait != form)],
        )
        for form in forms[:MOST_FORMS]
    ]


def with_those_alike(
    ask: Callable[[list[Message]], _Made], replies: list[Message], alike: Callable[[], list[Screened]]
) -> tuple[_Made, Odd]:
    """Return what a strategy makes of replies, if need be of those that are alike, and the replies left out for that.

    Args:
        ask: Asks the strategy.
        replies: All.
        alike: Called where it fails, to find those that are alike.

    Raises:
        AggregateError: If it fails whatever it is given.
    """
    contents = [RecordDict(dict(reply.content)) for reply in replies]
    try:
        return ask(replies), []
    except AggregateError as error:
        first = error
    _restore(replies, contents)
    for screened in alike():
        if not screened.odd:
            break
        try:
            made = ask(screened.fine)
        except AggregateError:
            _restore(replies, contents)
        else:
            log(INFO, "flserve: the replies that are unlike most are left out, because of: %s", plain(first))
            return made, screened.odd
    raise first


def _restore(replies: Iterable[Message], contents: Iterable[RecordDict]) -> None:
    for reply, content in zip(replies, contents, strict=True):
        reply.content = RecordDict(dict(content))


def _form(content: RecordDict, weighted_by: str | None) -> _Trait:
    """Return all that replies may differ in but values. Raises FlserveError."""
    records: list[_Trait] = []
    for key, record in sorted(content.items()):
        if isinstance(record, MetricRecord) and weighted_by in record:
            check_numbers(record, (cast(str, weighted_by),))
        records.append((key, type(record).__name__, *sorted(_described(record))))
    return (sum(map(len, records)), *records)


def _described(record: Any) -> Iterator[_Trait]:
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
