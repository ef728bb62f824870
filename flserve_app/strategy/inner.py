"""The inner strategy, asked and answered so that it can do its work: nothing it computes is changed.

- It gets the replies that fit, in the order of the clients' identities and of the model's tensors.
- Where integer tensors would harm it, it gets floats alone; integers are averaged beside it, weighted as the
  strategy weighs replies, and rounded when the version is made. Evaluation sees all tensors.
- What it draws from `random` is a function of (seed, round, phase). Noise for privacy comes from numpy's
  global state, which is never seeded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from logging import INFO, WARNING
from types import MappingProxyType
from typing import final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, FedAvgM, Strategy

from flserve_app.artifact import Artifact
from flserve_app.client.integers import is_integer, join, split
from flserve_app.client.records import to_record
from flserve_app.codec.ramp import Ramp
from flserve_app.errors import ConfigError
from flserve_app.strategy.compatibility import check, nested
from flserve_app.strategy.screening import screen
from flserve_app.strategy.seeds import drawing

NO_SCHEDULES: Mapping[str, Ramp] = MappingProxyType({})

Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


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

    Raises:
        ConfigError: If the strategy cannot be combined with versions.
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
    ) -> None:
        self.traits = check(strategy, late)
        self._schedules = {name: (_owner(strategy, name), ramp) for name, ramp in schedules.items()}
        self._follows = follows
        self.strategy = strategy
        self._seed = seed
        self._refused = refused
        self._averages = next((each for each in nested(strategy) if isinstance(each, FedAvg)), None)
        if self.traits.assumed:
            log(INFO, "flserve: assuming that %s", self.traits.assumed)

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
            messages = list(self.strategy.configure_train(number, seen, config, grid))
        if integers:
            for message in messages:
                message.content = _with_all(message.content, arrays, list(seen))
        return messages

    def configure_evaluate(self, number: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> list[Message]:
        """Return the messages of a round of evaluation."""
        with drawing(self._seed, number, "evaluate"):
            return list(self.strategy.configure_evaluate(number, arrays, config, grid))

    def aggregate_train(
        self, number: int, replies: Iterable[Message], like: Artifact
    ) -> tuple[Aggregate, list[Message]]:
        """Return what the strategy makes of the replies, and those that it was given."""
        usable = self._usable(replies, like)
        if self.traits.private and not usable:
            return (None, None), []  # adaptive clipping divides by the number of replies
        if not self.traits.integers_beside:
            return self.strategy.aggregate_train(number, usable), usable
        integers = self._set_aside(usable)
        arrays, metrics = self.strategy.aggregate_train(number, usable)
        if arrays is not None and integers:
            arrays = join(arrays, integers, list(like))
        return (arrays, metrics), usable

    def aggregate_evaluate(self, number: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return what the strategy makes of the clients' evaluation."""
        return self.strategy.aggregate_evaluate(number, self._usable(replies, None))

    def _usable(self, replies: Iterable[Message], like: Artifact | None) -> list[Message]:
        answered = [reply for reply in replies if not reply.has_error()]
        if self._averages is None:
            return answered
        numbers = [self._averages.weighted_by_key]
        if like is not None and (loss := getattr(self._averages, "train_loss_key", None)) is not None:
            numbers.append(loss)
        fine, odd = screen(answered, like, numbers)
        if like is not None and self.traits.private:
            same = [reply for reply in fine if _is_unchanged(reply, like)]
            fine = [reply for reply in fine if not any(reply is each for each in same)]
            odd += [(reply, "it is the model it was given, which has no norm to clip by") for reply in same]
        for reply, reason in odd:
            self._refused(reply.metadata.src_node_id, reason)
        return fine

    def _set_aside(self, replies: list[Message]) -> dict[str, Array]:
        """Take the integer tensors out of the replies; returns their weighted means, float64."""
        means: dict[str, np.ndarray] = {}
        weights = [self._weight(reply) for reply in replies]
        for reply, weight in zip(replies, weights, strict=True):
            content = dict(reply.content)
            for key, record in reply.content.array_records.items():
                content[key], integers = split(record)
                for name, array in integers.items():
                    share = array.numpy() * (weight / sum(weights))
                    means[name] = means[name] + share if name in means else share
            reply.content = RecordDict(content)
        return {name: Array(np.asarray(mean)) for name, mean in means.items()}

    def _weight(self, reply: Message) -> float:
        metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
        weight = metrics.get(self.weighted_by or "", 1.0)
        return float(weight) if isinstance(weight, int | float) else 1.0


def _is_unchanged(reply: Message, like: Artifact) -> bool:
    """Whether a reply's floating tensors are those of the model: Flower's clipping would divide by zero."""
    given = {name: array for name, array in to_record(like).items() if not is_integer(array)}
    (trained,) = reply.content.array_records.values()
    return all(np.array_equal(array.numpy(), trained[name].numpy()) for name, array in given.items())


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
    log(WARNING, "flserve: a reply of %s is left out: %s", identity, reason)


def _owner(strategy: Strategy, name: str) -> Strategy:
    """Return the strategy, or the one it wraps, that has a number of this name."""
    for each in nested(strategy):
        if isinstance(getattr(each, name, None), int | float):
            return each
    raise ConfigError(f"{type(strategy).__name__} has no number {name!r} that a schedule could change")
