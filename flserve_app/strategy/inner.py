"""The inner strategy, asked and answered so that it can do its work: nothing it computes is changed.

- It gets the replies that fit, in the order of the clients' identities and of the model's tensors: in the model's form
  where Flower's own methods aggregate, as they were sent where somebody else's do (`screening`).
- What it makes of them is restored to the model's dtypes; what cannot be is no aggregate (`attempt`).
- Where integer tensors would harm it, it gets floats alone; integers are averaged beside it, weighted as the
  strategy weighs replies, and rounded when the version is made. Evaluation sees all tensors.
- What it draws from `random` is a function of (seed, round, phase). Noise for privacy comes from numpy's
  global state, which is never seeded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging import INFO, WARNING
from types import MappingProxyType
from typing import Any, final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    FedAvg,
    FedAvgM,
    Strategy,
)
from flwr.supercore.differential_privacy import KEY_NORM_BIT, get_norm

from flserve_app.artifact import Artifact
from flserve_app.client.integers import is_integer, join, split
from flserve_app.client.records import read_array, record_of, to_record
from flserve_app.codec.ramp import Ramp
from flserve_app.errors import ConfigError
from flserve_app.strategy.attempt import undone_if_it_fails
from flserve_app.strategy.compatibility import NONFINITE_RULES, check, nested
from flserve_app.strategy.metric_means import averaging, level
from flserve_app.strategy.reply_metrics import MOST_LISTED, MOST_METRICS
from flserve_app.strategy.reply_tensors import is_integral, within
from flserve_app.strategy.restore import restore
from flserve_app.strategy.screening import Form, screen
from flserve_app.strategy.seeds import drawing
from flserve_app.text import plain

NO_SCHEDULES: Mapping[str, Ramp] = MappingProxyType({})

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]
Trained = tuple[Artifact | None, MetricRecord | None]


@final
class Inner:
    """A strategy under versions.

    Args:
        strategy: The strategy.
        seed: Seed of its sampling; None leaves it to Python's `random`.
        late: The rule for late replies: `drop` or `rebase`.
        refused: Called with the node id and the reason for each reply that is left out.
        schedules: Attributes of the strategy, or of one it wraps, that change with the round.
        follows: Whether what is published may differ from what the strategy returned: then a strategy that goes on
            from its own last result is given the published arrays instead.
        nonfinite: What becomes of updates that are not finite: `keep` or `leave_out`; None for what suits the strategy.

    Raises:
        ConfigError: If the strategy cannot be combined with versions, or there is no such rule.
    """

    def __init__(
        self,
        strategy: Strategy,
        seed: int | None,
        late: str,
        refused: Callable[[int, str], None],
        *,
        schedules: Mapping[str, Ramp] = NO_SCHEDULES,
        follows: bool = False,
        nonfinite: str | None = None,
    ) -> None:
        self.traits = check(strategy, late)
        if nonfinite not in (None, *NONFINITE_RULES):
            raise ConfigError(f"nonfinite is {nonfinite!r}, expected one of: {', '.join(NONFINITE_RULES)}, or None")
        self._schedules = {name: (_owner(strategy, name), ramp) for name, ramp in schedules.items()}
        self._follows = follows
        self.strategy = strategy
        self._seed = seed
        self.told: Callable[[int], int] = lambda number: number  # what the strategy is told of a round, by its number
        self._refused = refused
        self._averages = next((each for each in nested(strategy) if isinstance(each, FedAvg)), None)
        self._finite = self.traits.finite if nonfinite is None else nonfinite == "leave_out"
        if self.traits.assumed:
            log(INFO, "flserve: assuming that %s", self.traits.assumed)

    @property
    def _own_train(self) -> bool:
        """Whether training is aggregated by Flower's own methods; asked anew, as methods may be replaced."""
        return all(_is_flowers(each.aggregate_train) for each in nested(self.strategy))

    @property
    def _own_evaluate(self) -> bool:
        return all(_is_flowers(each.aggregate_evaluate) for each in nested(self.strategy))

    @property
    def weighted_by(self) -> str | None:
        """Name of the metric that replies are weighted by; None if it is not known."""
        return None if self._averages is None else self._averages.weighted_by_key

    def configure_train(self, number: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> list[Message]:
        """Return the messages of a round of training."""
        for name, (owner, ramp) in self._schedules.items():
            setattr(owner, name, ramp.at(number))
        seen, integers = split(arrays) if self.traits.integers_beside else (arrays, {})
        if self._follows:
            for each in nested(self.strategy):
                if isinstance(each, FedAvgM):
                    each.current_arrays = seen
        with drawing(self._seed, number, "train"):
            messages = list(self.strategy.configure_train(self.told(number), seen, config, grid))
        if integers:
            for message in messages:
                message.content = _with_all(message.content, arrays, list(seen))
        return messages

    def configure_evaluate(self, number: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> list[Message]:
        """Return the messages of a round of evaluation."""
        with drawing(self._seed, number, "evaluate"):
            return list(self.strategy.configure_evaluate(self.told(number), arrays, config, grid))

    def aggregate_train(self, number: int, replies: Iterable[Message], like: Artifact) -> tuple[Trained, list[Message]]:
        """Return what the strategy makes of the replies, in the model's dtypes, and those that it was given.

        Raises:
            AggregateError: If it fails, or returns what cannot be a version; it is then as it was before.
        """
        usable = self._usable(replies, like)
        if self.traits.private and not usable:
            return (None, None), []  # adaptive clipping divides by the number of replies
        with self._attempt():
            arrays, metrics = self._aggregated(number, usable, like)
            return (None if arrays is None else restore(arrays, like), metrics), usable

    def aggregate_evaluate(self, number: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return what the strategy makes of the clients' evaluation.

        Raises:
            AggregateError: If it fails; it is then as it was before.
        """
        usable = self._usable(replies, None)
        with self._attempt():
            return self.strategy.aggregate_evaluate(self.told(number), usable)

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        # What a client sends shall not decide whether numpy warns: where warnings are errors, that would end a round.
        traced = not (self._own_train and self._own_evaluate)
        with undone_if_it_fails(self.strategy, traced=traced), np.errstate(all="ignore"), averaging(self.strategy):
            yield

    def _aggregated(self, number: int, replies: list[Message], like: Artifact) -> Aggregate:
        integers = self._set_aside(replies, like) if self.traits.integers_beside else {}
        arrays, metrics = self.strategy.aggregate_train(self.told(number), replies)
        if arrays is not None and integers:
            arrays = join(arrays, integers, list(like))
        return (_in_range(arrays, like) if arrays is not None and self._own_train else arrays), metrics

    def _usable(self, replies: Iterable[Message], like: Artifact | None) -> list[Message]:
        answered = [reply for reply in replies if not reply.has_error()]
        if self._averages is None:
            return answered
        form = self._form(training=like is not None)
        screened = screen(answered, like, form)
        fine, odd = screened.fine, list(screened.odd)
        if like is not None and self.traits.private:
            same = [reply for reply in fine if _has_no_norm(reply, like)]
            fine = [reply for reply in fine if not any(reply is each for each in same)]
            odd += [(reply, "it is the model it was given, which has no norm to clip by") for reply in same]
        for reply, reason in odd:
            self._refused(reply.metadata.src_node_id, reason)
        if screened.metrics_lost:
            log(
                WARNING,
                "flserve: %d metrics are left out: a reply may have %d, finite under plain names (%d numbers in lists)",
                screened.metrics_lost,
                MOST_METRICS,
                MOST_LISTED,
            )
        # Also for who overrides a method of Flower's: most hand on to it, and it wants the same names in all replies.
        level(fine, self._averages.weighted_by_key)
        return fine

    def _form(self, *, training: bool) -> Form:
        """Return what the strategy needs of its replies."""
        averages, chain = self._averages, list(nested(self.strategy))
        if averages is None:
            raise ConfigError(f"{self.traits.name}: it is not known what it needs of its replies")
        if not training:
            return Form(numbers=(averages.weighted_by_key,), rebuilt=self._own_evaluate)
        read = [averages.weighted_by_key, getattr(averages, "train_loss_key", None)]
        if any(isinstance(each, DifferentialPrivacyClientSideAdaptiveClipping) for each in chain):
            read.append(KEY_NORM_BIT)
        return Form(
            numbers=tuple(name for name in read if name is not None),
            arrays=averages.arrayrecord_key,
            rebuilt=self._own_train,
            positive=self.traits.chooses,
            equal=any(getattr(each, "accountant", None) is not None for each in chain),
            finite=self._finite,
        )

    def _set_aside(self, replies: list[Message], like: Artifact) -> dict[str, Array]:
        """Take the integer tensors out of the replies; returns their weighted means, float64."""
        beside = {name for name, spec in like.specs.items() if is_integral(spec)}
        means: dict[str, np.ndarray] = {}
        weights = [self._weight(reply) for reply in replies]
        for reply, weight in zip(replies, weights, strict=True):
            content = dict(reply.content)
            for key, record in reply.content.array_records.items():
                content[key], integers = split(record, beside)
                for name, array in integers.items():
                    share = array.numpy() * (weight / sum(weights))
                    means[name] = means[name] + share if name in means else share
            reply.content = RecordDict(content)
        return {name: Array(np.asarray(mean)) for name, mean in means.items()}

    def _weight(self, reply: Message) -> float:
        metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
        weight = metrics.get(self.weighted_by or "", 1.0)
        return float(weight) if isinstance(weight, int | float) else 1.0


def _has_no_norm(reply: Message, like: Artifact) -> bool:
    """Whether a reply is the model it was given, or too near for its norm to be a number: clipping divides by it."""
    given = {name: array.numpy() for name, array in to_record(like).items() if not is_integer(array)}
    (trained,) = reply.content.array_records.values()
    with np.errstate(all="ignore"):
        return get_norm([np.asarray(trained[name].numpy() - values) for name, values in given.items()]) == 0


def _in_range(arrays: ArrayRecord, like: Artifact) -> ArrayRecord:
    """Return an aggregate whose integer tensors fit the model's dtypes, as all did that it was made of."""
    for name, spec in like.specs.items():
        if is_integral(spec) and name in arrays:
            mean = read_array(name, arrays[name])
            fitting = within(mean, spec)
            if not np.array_equal(mean, fitting, equal_nan=mean.dtype.kind == "f"):
                arrays = record_of({**arrays, name: Array(fitting)})
    return arrays


def _is_flowers(method: Callable[..., Any]) -> bool:
    return str(getattr(method, "__module__", "")).split(".")[0] == "flwr"


def _with_all(content: RecordDict, arrays: ArrayRecord, floats: list[str]) -> RecordDict:
    """Return a message's content with the whole model where the strategy put the part it was given."""
    return RecordDict(
        {
            key: arrays if isinstance(value, ArrayRecord) and list(value) == floats else value
            for key, value in content.items()
        }
    )


def note_refused(identity: str, reason: str) -> None:
    """Say that a reply is left out, in one line."""
    log(WARNING, "flserve: a reply of %s is left out: %s", identity, plain(reason))


def _owner(strategy: Strategy, name: str) -> Strategy:
    """Return the strategy, or the one it wraps, that has a number of this name."""
    for each in nested(strategy):
        if isinstance(getattr(each, name, None), int | float):
            return each
    raise ConfigError(f"{type(strategy).__name__} has no number {name!r} that a schedule could change")
