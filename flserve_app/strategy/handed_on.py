"""What a strategy that aggregates by itself hands on to Flower's own methods (`super().aggregate_train`).

Those take from the first reply how all have to look, and end the round if one looks otherwise. Rules:
- What Flower would fail on in one reply is that reply's failure.
- Tensors have the names and shapes of most replies, the model's where no form has more than others. A form that is not
  the model's, in a record as it was sent, needs two replies that have it: nobody's reply alone says how a model looks.
- No metric costs an update: an absent one is NaN, and left out of the means (`metric_means`).
- The strategy's own records stay as they are: what has to change is a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy

from flserve_app.artifact import Artifact
from flserve_app.strategy.compatibility import nested
from flserve_app.strategy.metric_means import level
from flserve_app.strategy.own_aggregation import UNUSUAL, is_flowers, shapes_of
from flserve_app.strategy.reply_failure import failure
from flserve_app.strategy.reply_metrics import check_numbers, plain_metrics
from flserve_app.strategy.screening import METRICS, Form, Odd, only

_CHECK = "_check_and_log_replies"
LONELY = "its tensors are not the model's, and no other reply has them so"

_Shapes = frozenset[tuple[str, tuple[int, ...]]]
_Trait = tuple[str, _Shapes]


@final
class HandedOn:
    """Looks at the replies that come to Flower's own aggregation.

    Args:
        form: What that needs.
        replies: What the strategy was asked with.
        like: The model; None for replies without arrays.

    Attributes:
        odd: What was left out, each with the reason in a sentence.
    """

    def __init__(self, form: Form, replies: Sequence[Message], like: Artifact | None) -> None:
        self.odd: Odd = []
        self._form = form
        self._model = None if like is None else shapes_of(like.specs)
        records = [list(reply.content.array_records.values()) for reply in replies]
        self._sent = {id(record): record for found in records for record in found}
        self._votes = Counter(shapes for found in records for shapes in set(map(shapes_of, found)))
        self._seen: dict[int, RecordDict] = {}

    def saw(self, contents: Sequence[RecordDict]) -> bool:
        """Whether these are contents that came by here."""
        return all(self._seen.get(id(content)) is content for content in contents)

    def look(self, replies: Iterable[Message], *, is_train: bool) -> list[Message]:
        """Return the replies that are alike, with metrics of the same names; the others become odd."""
        traits: list[tuple[Message, _Trait]] = []
        for reply in replies:
            try:
                traits.append((reply, self._trait(reply.content, is_train)))
            except Exception as error:  # noqa: BLE001 one stranger's reply: what is wrong with it is its own failure
                self.odd.append((reply, str(failure(error))))
        usual = self._usual([trait for _, trait in traits])
        self.odd += [(reply, UNUSUAL) for reply, trait in traits if trait != usual]
        fine = [reply for reply, trait in traits if trait == usual]
        if usual is not None and is_train and self._is_lonely(usual[1], fine):
            self.odd += [(reply, LONELY) for reply in fine]
            return []
        _name_alike(fine, self._form.numbers)
        self._seen = {id(reply.content): reply.content for reply in fine}
        return fine

    def _trait(self, content: RecordDict, is_train: bool) -> _Trait:
        """Return what Flower wants to be alike in all replies. Raises FlserveError."""
        _, metrics = only(content, MetricRecord)
        check_numbers(metrics, self._form.numbers, positive=self._form.positive)
        key, arrays = only(content, ArrayRecord) if is_train else ("", ArrayRecord())
        return key, shapes_of(arrays)

    def _usual(self, traits: Sequence[_Trait]) -> _Trait | None:
        counted = Counter(traits)

        def unusual(trait: _Trait) -> tuple[Any, ...]:
            key, shapes = trait
            return -counted[trait], shapes != self._model, key != self._form.arrays, key, len(shapes), sorted(shapes)

        return min(counted, key=unusual, default=None)

    def _is_lonely(self, shapes: _Shapes, replies: Sequence[Message]) -> bool:
        """Whether that is no form of the model's, and the one reply that was sent has it alone."""
        if self._model in (None, shapes) or self._votes[shapes] > 1:
            return False
        return any(id(record) in self._sent for reply in replies for record in reply.content.array_records.values())


@contextmanager
def checking(strategy: Strategy, handed: HandedOn) -> Iterator[None]:
    """Look at the replies that are handed on to Flower's own aggregation, until the block ends.

    Args:
        strategy: It, and what it wraps; who checks replies by itself is left alone.
        handed: Looks at them.
    """
    owners = [each for each in nested(strategy) if isinstance(each, FedAvg) and is_flowers(getattr(each, _CHECK))]
    for each in owners:
        vars(each)[_CHECK] = _checked(getattr(each, _CHECK), handed)
    try:
        yield
    finally:
        for each in owners:
            vars(each).pop(_CHECK, None)


def _checked(check: Callable[..., Any], handed: HandedOn) -> Callable[..., Any]:
    def checked(replies: Iterable[Message], is_train: bool, validate: bool = True) -> Any:
        found = list(replies)
        return check(handed.look(found, is_train=is_train) if validate else found, is_train, validate)

    return checked


def _name_alike(replies: Sequence[Message], numbers: Sequence[str]) -> None:
    """Give replies MetricRecords of one key and the same names, in copies, where they have not."""
    records = [next(iter(reply.content.metric_records.items())) for reply in replies]
    keys = Counter(key for key, _ in records)
    if len(keys) < 2 and len({frozenset(metrics) for _, metrics in records}) < 2:
        return
    usual = min(keys, key=lambda key: (-keys[key], key != METRICS, key))
    for reply, (key, metrics) in zip(replies, records, strict=True):
        others = {name: record for name, record in reply.content.items() if name != key}
        reply.content = RecordDict({**others, usual: plain_metrics(metrics, numbers)})
    level(replies, numbers[0])
