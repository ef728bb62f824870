"""Plain Flower and the same job with versions, one after the other on one Grid, against the clock.

Rules:
- Plain is Flower's FedAvg by itself; the other is the product, `run_job`, with whatever delivery and strategy its
  configuration names. Model, data, clients and seeds are the same, and every client trains in every round.
- The clock starts when a side has nothing yet: building the model and greeting the clients are in it, and so is the
  evaluation at the server after every round, which both sides have.
- The accuracy to be reached is plain's after its last round less the margin of `byte_curve`; it is reached in the
  first round up to which the last `WINDOW` rounds are as good in the mean. Both sides are charged up to
  where they get there by this rule, and plain all its rounds if it does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import final

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from flserve_app.client.records import to_record
from flserve_app.compose.job import run_job
from flserve_app.compose.parts import CentralEvaluation, model_of, task_spec
from flserve_app.config import Composed, load
from flserve_app.errors import ConfigError, DeliveryError
from flserve_app.experiments.byte_curve import MARGIN, WINDOW, Curve, curve_of, first_round
from flserve_app.experiments.turns import told
from flserve_app.strategy import RoundRow
from flserve_app.strategy.message_size import message_bytes

# 12.45 million float32 weights on real images: 49.8 MB.
JOB = (
    *("task=digits", "model=mlp", "model.arguments.hidden=166000"),
    *("train.epochs=1", "train.batch_size=64", "train.lr=0.01", "train.momentum=0"),
)
DELIVERY = ("codec=topk", "uplink=topk", "codec.arguments.share=0.01", "uplink.arguments.share=0.01")
_OWN = (
    *("num_clients", "num_rounds", "store", "model_name", "resume", "engine", "timeout", "experiment", "hydra"),
    *("strategy.clients_per_round", "strategy.clients_per_evaluation"),
)

Carried = Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side did; the first entry of a tuple of times or bytes on the links is what came before round 1.

    Attributes:
        curve: Accuracy and bytes by round.
        seconds: From the start of the side to the end of each round.
        carried: Bytes that the links carried up to then; zeros where there are none to ask.
    """

    curve: Curve
    seconds: tuple[float, ...]
    carried: tuple[int, ...]

    @property
    def first(self) -> float:
        """Seconds of the first round, in which the clients meet the model."""
        return self.seconds[1] - self.seconds[0]

    @property
    def usual(self) -> float:
        """Median seconds of the rounds after the first."""
        return median(after - before for before, after in pairwise(self.seconds[1:]))

    def reached(self, accuracy: float) -> int | None:
        """Return the round in which an accuracy is reached; None if it is not."""
        return first_round(self.curve.accuracy, accuracy, WINDOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Both sides.

    Attributes:
        plain: Flower's FedAvg.
        versions: The product.
    """

    plain: Side
    versions: Side

    @property
    def target(self) -> float:
        """The accuracy to be reached, 0 to 1."""
        return self.plain.curve.accuracy[-1] - MARGIN

    @property
    def plain_seconds(self) -> float:
        """Seconds of plain to the target, or of all its rounds."""
        return self.plain.seconds[self.plain.reached(self.target) or -1]

    @property
    def versions_seconds(self) -> float | None:
        """Seconds with versions to the target; None if it was not reached."""
        reached = self.versions.reached(self.target)
        return None if reached is None else self.versions.seconds[reached]


def compose(overrides: Sequence[str], *, nodes: int, rounds: int, timeout: float) -> Composed:
    """Return the configuration of the side with versions; plain takes task, model, training and seed of it.

    Args:
        overrides: Hydra's, on top of `JOB` and `DELIVERY`: who names a task or a model chooses all of the job,
            who names a codec or a strategy all of the delivery.
        nodes: Number of clients.
        rounds: Rounds.
        timeout: Seconds to wait for the replies of a round.

    Raises:
        ConfigError: If it does not compose, or an override is of what the bench decides.
    """
    names = [each.lstrip("+~").partition("=")[0] for each in overrides]
    if own := [each for each, name in zip(overrides, names, strict=True) if name in _OWN or name.startswith("hydra.")]:
        raise ConfigError(f"{own[0]!r}: the bench decides this itself; see its options")
    job = () if {"task", "model"} & set(names) else JOB
    delivery = () if {"codec", "uplink", "strategy"} & set(names) else DELIVERY
    settled = (f"num_clients={nodes}", f"num_rounds={rounds}", f"timeout={timeout:.1f}")
    return load([*job, *delivery, *overrides, *settled])


def run_plain(grid: Grid, composed: Composed, rounds: int, carried: Carried) -> Side:
    """Train with Flower's FedAvg by itself.

    Args:
        grid: What carries the messages; its nodes are there.
        composed: The job.
        rounds: Rounds.
        carried: Tells the bytes on the links so far.

    Raises:
        DeliveryError: If a client did not answer.
    """
    app, nodes = composed.app, composed.app.num_clients or 1
    marks = _Marks(carried)
    evaluation = CentralEvaluation(model_of(app), task_spec(app, nodes))
    replies = _Replies(nodes)
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes, train_metrics_aggr_fn=replies.note
    )
    accuracy: list[float] = []

    def note(number: int, arrays: ArrayRecord) -> MetricRecord:
        metrics = evaluation(number, arrays)
        accuracy.append(float(metrics["accuracy"]))  # type: ignore[arg-type]
        marks.add()
        return metrics

    initial, config = to_record(evaluation.initial), told(app)
    strategy.start(grid, initial, num_rounds=rounds, timeout=app.timeout, train_config=config, evaluate_fn=note)
    if replies.rounds < rounds:
        raise DeliveryError(f"a round of plain Flower had no answer: {replies.rounds} of {rounds} rounds trained")
    (down, *_) = strategy.configure_train(1, initial, config, grid)
    per_round = nodes * (_payload(down.content) + replies.payload)
    per_round_message = nodes * (message_bytes(down) + message_bytes(Message(replies.content, reply_to=down)))
    curve = Curve(
        accuracy=tuple(accuracy[1:]),
        payload=tuple(per_round * number for number in range(1, rounds + 1)),
        message=tuple(per_round_message * number for number in range(1, rounds + 1)),
    )
    return marks.side(curve)


def run_versions(grid: Grid, composed: Composed, folder: Path, carried: Carried) -> Side:
    """Train with versions, as `flserve run` does.

    Args:
        grid: What carries the messages.
        composed: The job, and its delivery.
        folder: The run folder.
        carried: Tells the bytes on the links so far.

    Raises:
        FlserveError: Whatever keeps the run from being done; also that a message had no usable reply.
    """
    marks = _Marks(carried)
    rows: list[RoundRow] = []

    def note(row: RoundRow) -> None:
        rows.append(row)
        marks.add()

    run_job(grid, composed, folder, note)
    return marks.side(curve_of(rows))


@final
class _Marks:
    """The clock and the links' counters, from when this is made."""

    def __init__(self, carried: Carried) -> None:
        self._carried = carried
        self._began, self._before = time.perf_counter(), carried()
        self._seconds: list[float] = []
        self._bytes: list[int] = []

    def add(self) -> None:
        self._seconds.append(time.perf_counter() - self._began)
        self._bytes.append(self._carried() - self._before)

    def side(self, curve: Curve) -> Side:
        return Side(curve=curve, seconds=tuple(self._seconds), carried=tuple(self._bytes))


@final
class _Replies:
    """What came back in the rounds of plain Flower; each is to have a reply of every client."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self.rounds = 0
        self.payload = 0
        self.content = RecordDict()

    def note(self, contents: list[RecordDict], weighted_by: str) -> MetricRecord:
        if len(contents) < self._nodes:
            raise DeliveryError(f"a round of plain Flower had {len(contents)} answers of {self._nodes} clients")
        self.rounds += 1
        self.content, self.payload = contents[0], _payload(contents[0])
        return aggregate_metricrecords(contents, weighted_by)


def _payload(content: RecordDict) -> int:
    """Return the bytes of the arrays as Flower sends them."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())
