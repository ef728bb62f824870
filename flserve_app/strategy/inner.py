"""The inner strategy, asked and answered so that it can do its work: nothing it computes is changed.

- It gets replies in the order of the clients' identities: those that fit, in one form, where Flower's own methods
  aggregate (`screening`), and all, as they were sent, where somebody else's do (`own_aggregation`).
- Where replies came and none of them can be used, that is no aggregate, as it is an error without versions (`attempt`).
- What it changes in the records it is given counts: it is what the messages carry.
- What it makes of them is restored to the model's dtypes; what cannot be is no aggregate (`attempt`).
- Where integer tensors would harm it, it gets floats alone (`integers_beside`). Evaluation sees all tensors.
- What it draws from `random` is a function of (seed, round, phase). Noise for privacy comes from numpy's
  global state, which is never seeded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging import INFO, WARNING
from types import MappingProxyType
from typing import TypeVar, final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    FedAvg,
    FedAvgM,
    Strategy,
)
from flwr.supercore.differential_privacy import KEY_NORM_BIT

from flserve_app.artifact import Artifact
from flserve_app.client.integers import join, split
from flserve_app.codec.ramp import Ramp
from flserve_app.errors import AggregateError, ConfigError, DeliveryError
from flserve_app.strategy.attempt import undone_if_it_fails
from flserve_app.strategy.compatibility import NONFINITE_RULES, check, nested
from flserve_app.strategy.handed_on import HandedOn, checking
from flserve_app.strategy.integers_beside import has_no_norm, in_range, put_together, set_aside
from flserve_app.strategy.metric_means import averaging, level
from flserve_app.strategy.own_aggregation import is_flowers, readable, usual, with_those_alike
from flserve_app.strategy.reply_form import form_of
from flserve_app.strategy.reply_metrics import MOST_LISTED, MOST_METRICS
from flserve_app.strategy.restore import is_held_by, restore
from flserve_app.strategy.screening import Form, Odd, Screened, screen
from flserve_app.strategy.seeds import drawing
from flserve_app.text import plain

NO_SCHEDULES: Mapping[str, Ramp] = MappingProxyType({})

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]
Trained = tuple[Artifact | None, MetricRecord | None]
_Made = TypeVar("_Made")
TRAIN, EVALUATE = "aggregate_train", "aggregate_evaluate"


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

    Attributes:
        traits: What holds for the strategy.
        made: The record that it returned last, if it may go on changing that; None if it is not the aggregate as it is.

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
        self.made: ArrayRecord | None = None
        if self.traits.assumed:
            log(INFO, "flserve: assuming that %s", self.traits.assumed)

    def _flowers_first(self, method: str) -> bool:
        """Whether replies come to one of Flower's own methods first; asked anew, as one may be replaced."""
        return self._averages is not None and is_flowers(getattr(self.strategy, method))

    def _all_flowers(self, method: str) -> bool:
        return all(is_flowers(getattr(each, method)) for each in nested(self.strategy))

    @property
    def weighted_by(self) -> str | None:
        """Name of the metric that replies are weighted by; None if it is not known."""
        return None if self._averages is None else self._averages.weighted_by_key

    def configure_train(self, number: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> list[Message]:
        """Return the messages of a round of training."""
        for name, (owner, ramp) in self._schedules.items():
            setattr(owner, name, ramp.at(number))
        seen, integers = split(arrays) if self._beside else (arrays, {})
        if self._follows:
            for each in nested(self.strategy):
                if isinstance(each, FedAvgM):
                    each.current_arrays = seen
        with drawing(self._seed, number, "train"):
            messages = list(self.strategy.configure_train(self.told(number), seen, config, grid))
        if seen is not arrays:
            put_together(messages, seen, arrays, integers)
        return messages

    def configure_evaluate(self, number: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> list[Message]:
        """Return the messages of a round of evaluation."""
        with drawing(self._seed, number, "evaluate"):
            return list(self.strategy.configure_evaluate(self.told(number), arrays, config, grid))

    def aggregate_train(self, number: int, replies: Iterable[Message], like: Artifact) -> tuple[Trained, list[Message]]:
        """Return what the strategy makes of the replies, in the model's dtypes, and those that it made it of.

        Raises:
            AggregateError: If it fails, or returns what cannot be a version, or replies came and none can be used; it
                is then as it was before.
        """
        self.made = None
        usable = self._usable(replies, like)
        if self.traits.private and not usable:
            return (None, None), []  # adaptive clipping divides by the number of replies

        def aggregate(given: list[Message]) -> Trained:
            arrays, metrics = self._aggregated(number, given, like)
            if arrays is None:
                return None, metrics
            version = restore(arrays, like)
            self.made = arrays if self._keeps_it and is_held_by(version, arrays) else None
            return version, metrics

        return self._asked(TRAIN, aggregate, usable, like)

    def aggregate_evaluate(self, number: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return what the strategy makes of the clients' evaluation.

        Raises:
            AggregateError: If it fails, or replies came and none can be used; it is then as it was before.
        """

        def aggregate(given: list[Message]) -> MetricRecord | None:
            return self.strategy.aggregate_evaluate(self.told(number), given)

        return self._asked(EVALUATE, aggregate, self._usable(replies, None), None)[0]

    def _asked(
        self, method: str, aggregate: Callable[[list[Message]], _Made], usable: list[Message], like: Artifact | None
    ) -> tuple[_Made, list[Message]]:
        """Return what the strategy makes of replies, and those it made it of."""
        if self._flowers_first(method):
            with self._attempt(method), averaging(self.strategy):
                return aggregate(usable), usable

        def own(given: list[Message]) -> tuple[_Made, list[Message]]:
            handed = HandedOn(self._form(training=like is not None), given, like)
            with self._attempt(method), averaging(self.strategy, handed.saw), checking(self.strategy, handed):
                made = aggregate(given)
                odd = {id(reply): (reply, reason) for reply, reason in handed.odd}
                if given and len(odd) == len(given):
                    raise DeliveryError(_none_of(handed.odd))
            self._leave_out(list(odd.values()))
            return made, [reply for reply in given if id(reply) not in odd]

        (made, used), odd = with_those_alike(own, usable, lambda: usual(usable, self.weighted_by, like))
        self._leave_out(odd)
        return made, used

    @contextmanager
    def _attempt(self, method: str) -> Iterator[None]:
        # What a client sends shall not decide whether numpy warns: where warnings are errors, that would end a round.
        traced = not self._all_flowers(method)
        with undone_if_it_fails(self.strategy, traced=traced), np.errstate(all="ignore"):
            yield

    def _aggregated(self, number: int, replies: list[Message], like: Artifact) -> Aggregate:
        integers = set_aside(replies, like, self.weighted_by) if self._beside else {}
        arrays, metrics = self.strategy.aggregate_train(self.told(number), replies)
        if arrays is not None and integers:
            arrays = join(arrays, integers, list(like))
        return (in_range(arrays, like) if arrays is not None and self._all_flowers(TRAIN) else arrays), metrics

    def _usable(self, replies: Iterable[Message], like: Artifact | None) -> list[Message]:
        """Return the replies that the strategy is asked with. Raises AggregateError."""
        answered = [reply for reply in replies if not reply.has_error()]
        flowers = self._flowers_first(EVALUATE if like is None else TRAIN)
        screened = (
            self._screened(answered, like) if flowers else readable(answered, self.weighted_by, finite=self._finite)
        )
        fine, odd = screened.fine, list(screened.odd)
        if like is not None and self.traits.private and flowers:
            same = [reply for reply in fine if has_no_norm(reply, like)]
            fine = [reply for reply in fine if not any(reply is each for each in same)]
            odd += [(reply, "it is the model it was given, which has no norm to clip by") for reply in same]
        self._leave_out(odd)
        if answered and len(odd) == len(answered):
            raise AggregateError(_none_of(odd))
        return fine

    def _screened(self, answered: list[Message], like: Artifact | None) -> Screened:
        specs = None if like is None else like.specs if self.traits.private else form_of(answered, like)
        screened = screen(answered, specs, self._form(training=like is not None))
        if screened.metrics_lost:
            log(
                WARNING,
                "flserve: %d metrics are left out: a reply may have %d, finite under plain names (%d numbers in lists)",
                screened.metrics_lost,
                MOST_METRICS,
                MOST_LISTED,
            )
        if self._averages is not None:
            level(screened.fine, self._averages.weighted_by_key)
        return screened

    def _leave_out(self, odd: Odd) -> None:
        for reply, reason in odd:
            self._refused(reply.metadata.src_node_id, reason)

    @property
    def _keeps_it(self) -> bool:
        """Whether the strategy may keep the very record that it returns: then what changes that changes the model."""
        return not self._all_flowers(TRAIN) or any(isinstance(each, FedAvgM) for each in nested(self.strategy))

    @property
    def _beside(self) -> bool:
        return self.traits.integers_beside and self._flowers_first(TRAIN)

    def _form(self, *, training: bool) -> Form:
        """Return what the strategy needs of its replies."""
        averages, chain = self._averages, list(nested(self.strategy))
        if averages is None:
            return Form(numbers=())
        if not training:
            return Form(numbers=(averages.weighted_by_key,))
        read = [averages.weighted_by_key, getattr(averages, "train_loss_key", None)]
        if any(isinstance(each, DifferentialPrivacyClientSideAdaptiveClipping) for each in chain):
            read.append(KEY_NORM_BIT)
        return Form(
            numbers=tuple(name for name in read if name is not None),
            arrays=averages.arrayrecord_key,
            positive=self.traits.chooses,
            equal=any(getattr(each, "accountant", None) is not None for each in chain),
            finite=self._finite,
        )


def _none_of(odd: Odd) -> str:
    return f"none of {len(odd)} replies can be used: {odd[0][1]}"


def note_refused(identity: str, reason: str) -> None:
    """Say that a reply is left out, in one line."""
    log(WARNING, "flserve: a reply of %s is left out: %s", identity, plain(reason))


def _owner(strategy: Strategy, name: str) -> Strategy:
    """Return the strategy, or the one it wraps, that has a number of this name."""
    for each in nested(strategy):
        if isinstance(getattr(each, name, None), int | float):
            return each
    raise ConfigError(f"{type(strategy).__name__} has no number {name!r} that a schedule could change")
